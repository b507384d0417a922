"""How long a large partition takes to write and to read, and in how much memory.

    python benchmarks/partition_scale.py [--quick] [--rows 5000000] [--features 20] [--clients 100000 1000000]

Runs the command a user would type, in a process of its own, on a seeded `.npy` table. Beside it stands, in the same
run, the least that anyone could do: argsort by owner, gather, `np.save`. Writes benchmarks/results/partition_scale.json
and .md; `--quick` only prints.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
LIMITS = {"seconds": 60.0, "peak_mib": 4096.0, "read_seconds": 1.0}

TABLE = """
import sys
import numpy as np
rows, features = int(sys.argv[2]), int(sys.argv[3])
table = np.lib.format.open_memmap(sys.argv[1], "w+", np.float32, (rows, features + 1))
rng = np.random.default_rng(7)
for start in range(0, rows, 1 << 18):
    part = table[start : start + (1 << 18)]
    part[:, :features] = rng.standard_normal((len(part), features), dtype=np.float32)
    part[:, features] = rng.integers(0, 10, len(part))
table.flush()
"""

BASELINE = """
import sys
import numpy as np
table = np.load(sys.argv[1])
owner = np.random.default_rng(7).integers(0, int(sys.argv[3]), len(table))
order = np.argsort(owner, kind="stable")
np.save(sys.argv[2] + "-x.npy", table[order, :-1])
np.save(sys.argv[2] + "-y.npy", table[order, -1].astype(np.int64))
np.save(sys.argv[2] + "-bounds.npy", np.searchsorted(owner[order], np.arange(int(sys.argv[3]) + 1)))
"""

READ = """
import json, sys, time
import numpy as np
from flctl.partition.store import Partition

def peak():
    # Not ru_maxrss: that of the process which started this one counts in it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

start, before = time.perf_counter(), peak()
partition = Partition.open(sys.argv[1])
opened = time.perf_counter() - start
chosen = np.random.default_rng(7).integers(0, partition.clients, 1000)
rows = sum(len(partition.train(int(client))[1]) for client in chosen)
read, few = time.perf_counter() - start, peak()
for client in range(0, partition.clients, max(1, partition.clients // 100_000)):
    partition.train(client)
print(json.dumps({"open_seconds": opened, "read_seconds": read, "rows": rows, "mib_after_1000": few - before,
                  "mib_after_100000": peak() - before, "all_seconds": time.perf_counter() - start}))
"""

BASELINE_READ = """
import json, sys, time
import numpy as np
start = time.perf_counter()
x, y, bounds = (np.load(f"{sys.argv[1]}-{name}.npy", mmap_mode="r") for name in ("x", "y", "bounds"))
for client in np.random.default_rng(7).integers(0, len(bounds) - 1, 1000):
    x[bounds[client]:bounds[client + 1]].copy(), y[bounds[client]:bounds[client + 1]].copy()
print(json.dumps({"read_seconds": time.perf_counter() - start}))
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """One process: wall-clock and CPU seconds, and the most memory it had."""

    what: str
    command: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(what: str, command: Sequence[str], shown: str) -> Timing:
    """Runs a command and measures it. Raises CalledProcessError where it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, shown)
    timing = Timing(what, shown, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
    print(f"{what:<34} {seconds:7.1f} s  {timing.cpu_seconds:7.1f} s CPU  {timing.peak_mib:7.0f} MiB  {shown}")
    return timing


def read(script: str, path: Path) -> dict[str, Any]:
    """What a reading script measured."""
    command = [sys.executable, "-c", script, str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def measure(folder: Path, clients: int, features: int) -> dict[str, Any]:
    """Writes and reads one partition, and the baseline's files."""
    table, out, plain = folder / "table.npy", folder / f"parts-{clients}", folder / f"plain-{clients}"
    words = f"partition table.npy --target {features} --task classification --scheme dirichlet --alpha 0.3"
    words += f" --clients {clients} --test-fraction 0.2 --seed 7 --out parts/x"
    flctl = [sys.executable, "-c", "from flctl.cli import main; main()"]

    def command(spelt: str) -> list[str]:
        return [*flctl, *spelt.replace("table.npy", str(table)).replace("parts/x", str(out)).split()]

    bare = f"{words} --no-report --no-duplicates"
    timings = [run(f"partition, {clients:,} clients", command(words), f"flctl {words}")]
    reading = read(READ, out)
    timings.append(run("verify", [*flctl, "partition", "verify", str(out)], "flctl partition verify parts/x"))
    out = folder / f"bare-{clients}"
    timings.append(run("without report and duplicates", command(bare), f"flctl {bare}"))
    script = [sys.executable, "-c", BASELINE, str(table), str(plain), str(clients)]
    timings.append(run("baseline: argsort, gather, np.save", script, "np.argsort(owner); np.save(x[order])"))
    reading |= {"baseline_read_seconds": read(BASELINE_READ, plain)["read_seconds"]}
    print("  reading:", json.dumps({key: round(value, 4) for key, value in reading.items()}))
    return {"clients": clients, "timings": [asdict(timing) for timing in timings], "reading": reading}


def within(result: dict[str, Any]) -> bool:
    """Whether the first timing and the reading keep the limits."""
    first = result["timings"][0]
    kept = first["seconds"] <= LIMITS["seconds"] and first["peak_mib"] <= LIMITS["peak_mib"]
    return bool(kept and result["reading"]["read_seconds"] <= LIMITS["read_seconds"])


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# Partition at scale",
        "",
        f"{report['rows']:,} rows x {report['features']} float32 features, 10 classes, from a `.npy` file. "
        f"{report['machine']}. Command: `{report['command']}`.",
        "",
        "| clients | what | seconds | CPU seconds | peak MiB |",
        "|---:|---|---:|---:|---:|",
    ]
    for result in report["results"]:
        for timing in result["timings"]:
            cells = (f"{timing['seconds']:.1f}", f"{timing['cpu_seconds']:.1f}", f"{timing['peak_mib']:.0f}")
            lines.append(f"| {result['clients']:,} | {timing['what']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| clients | open (s) | open + 1,000 random clients (s) | baseline (s) | memory after 1,000 | after 100,000 |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for result in report["results"]:
        found = result["reading"]
        times = f"{found['open_seconds']:.3f} | {found['read_seconds']:.3f} | {found['baseline_read_seconds']:.3f}"
        memory = f"+{found['mib_after_1000']:.0f} MiB | +{found['mib_after_100000']:.0f} MiB"
        lines.append(f"| {result['clients']:,} | {times} | {memory} |")
    lines += ["", "The commands that were timed:", ""]
    lines += [f"- `{timing['command']}`" for result in report["results"] for timing in result["timings"]]
    return "\n".join(lines) + "\n"


def write(report: dict[str, Any], out: Path) -> None:
    """Writes the results, as numbers and as a page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "partition_scale.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "partition_scale.md").write_text(markdown(report))


def machine() -> str:
    """The machine without its name."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}"
    )


def main() -> int:
    """Measures, prints, writes the results; 1 where the first number of clients breaks a limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200,000 rows, 10,000 clients, nothing written")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument("--out", type=Path, help="where the results go")
    asked = parser.parse_args()
    rows = asked.rows or (200_000 if asked.quick else 5_000_000)
    clients = asked.clients or ([10_000] if asked.quick else [100_000, 1_000_000])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a parent's memory would count as its children's.
        size = [str(rows), str(asked.features)]
        subprocess.run([sys.executable, "-c", TABLE, str(folder / "table.npy"), *size], check=True)
        results = [measure(folder, count, asked.features) for count in clients]
    command = " ".join(["python benchmarks/partition_scale.py", *sys.argv[1:]])
    report = {"command": command, "machine": machine(), "rows": rows, "features": asked.features}
    report |= {"limits": LIMITS, "within_limits": within(results[0]), "results": results}
    out = asked.out or (None if asked.quick else RESULTS)
    if out:
        write(report, out)
    print("within the limits" if report["within_limits"] else f"NOT within the limits {LIMITS}")
    return 0 if report["within_limits"] else 1


if __name__ == "__main__":
    sys.exit(main())
