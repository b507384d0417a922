"""Record the digests of a table of short runs, or compare them: a change that moves code must not move a bit.

    python scripts/golden_runs.py record golden.json     before the change
    python scripts/golden_runs.py compare golden.json    after it, on the same machine

Digests cover partitions, configurations, models, server state and every metric but timings. Bits depend on the
processor and the versions of torch and numpy, so a record is compared on the machine that made it and is not shipped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PARTITIONS: dict[str, Sequence[str]] = {
    "digits": ["digits", "--scheme", "dirichlet", "--alpha", "0.3", "--clients", "12", "--seed", "3"],
    "shards": ["digits", "--scheme", "shard", "--clients", "12", "--seed", "3"],
    "breast": ["breast_cancer", "--scheme", "dirichlet", "--clients", "6", "--seed", "3"],
    "diabetes": ["diabetes", "--scheme", "iid", "--clients", "6", "--seed", "3"],
    "synthetic": ["synthetic(1,1)", "--by", "client", "--seed", "3"],
}
STRATEGIES = [
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
    "geometric-median",
    "centered-clipping",
    "qfedavg",
    "ditto",
    "scaffold",
    "fednova",
    "feddyn",
    "mime-lite",
    "fedsgd",
    "norm-bounding",
]
TRANSFORMS = (
    "clip: {norm: 1}",
    "float16: {}",
    "bfloat16: {}",
    "ef-signsgd: {}",
    "powersgd: {}",
    "qsgd: {}",
    "quantise: {}",
    "randomk: {}",
    "signsgd: {}",
    "topk: {}",
)
EXECUTORS = ("sequential", "stacked", "shared", "fused", "vmap")
OTHERS: dict[str, Sequence[str]] = {
    "breast": ["breast", "--strategy", "fedavg"],
    "diabetes": ["diabetes", "--strategy", "fedadam", "-o", "server.lr=0.05"],
    "synthetic stragglers": ["synthetic", "--strategy", "fedprox", "-o", "devices.stragglers=0.9"],
    "mlp": ["digits", "--model", "mlp"],
    "fedper": ["digits", "--model", "mlp", "--strategy", "fedper"],
    "vmap cnn": ["shards", "--model", "cnn", "-o", "engine.executor=vmap"],
    "cnn": ["digits", "--model", "cnn"],
    "poisson": ["digits", "-o", "cohort={sampling: poisson, rate: 0.5}"],
    "momentum": ["digits", "-o", "local.momentum=0.9", "-o", "local.weight_decay=0.01"],
    "adam": ["digits", "-o", "local.optimizer=adam", "-o", "local.lr=0.01"],
    "cosine": ["digits", "-o", "local.schedule=cosine", "-o", "local.warmup_rounds=2"],
    "attacked": ["digits", "--strategy", "fedmedian", "-o", "attack={name: ipm, epsilon: 10, clients: 2}"],
    "flipped": ["digits", "-o", "attack={name: label-flip, clients: 2}"],
    "pool": ["digits", "--workers", "2", "--strategy", "scaffold"],
    "per client": ["digits", "--strategy", "ditto", "-o", "eval.per_client=true"],
}


def table() -> Iterator[tuple[str, Sequence[str]]]:
    """Name and arguments of each run; the first argument names the partition."""
    for name in STRATEGIES:
        yield f"strategy {name}", ["digits", "--strategy", name]
    for name in TRANSFORMS:
        yield f"transform {name.split(':')[0]}", ["shards", "-o", f"transforms={{{name}}}"]
    for name in EXECUTORS:
        yield f"executor {name}", ["digits", "-o", f"engine.executor={name}"]
    yield from OTHERS.items()


def call(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit code and standard output of one flctl command, run in this process."""
    from flctl.cli import run

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        code = run(list(arguments))
    return code, out.getvalue()


def digest(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what differs from one run to the next."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "work")} for line in lines]


def recorded(folder: Path) -> dict[str, Any]:
    """Name -> digests, of every partition and run of the table."""
    found: dict[str, Any] = {}
    for name, arguments in PARTITIONS.items():
        code, out = call(["partition", *arguments, "--out", str(folder / name), "--json"])
        manifest = folder / name / "manifest.json"
        found[f"partition {name}"] = digest(manifest.read_bytes()) if code == 0 else [code, out[:200]]
    for name, (partition, *arguments) in table():
        run = folder / "runs" / name.replace(" ", "-")
        base = ["train", str(folder / partition), "--rounds", "4", "--seed", "5", "--out", str(run), "--json"]
        code, out = call([*base, *arguments])
        found[name] = digests_of(run) if code == 0 else [code, json.loads(out)["error"]["message"][:200]]
        print(f"{name:28} {found[name]}", file=sys.stderr)
    return found


def digests_of(run: Path) -> dict[str, str]:
    """The digests of a finished run's last model, server state, configuration and metrics."""
    last = run / "checkpoints" / "round-00004"
    manifest = json.loads((last / "manifest.json").read_text())
    return {
        "model": digest((last / "model.safetensors").read_bytes()),
        "state": digest((last / "state.safetensors").read_bytes()),
        "config": str(manifest["config_digest"])[:24],
        "metrics": digest(metrics_of(run)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = recorded(Path(folder))
    if chosen.action == "record":
        chosen.file.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    before = json.loads(chosen.file.read_text())
    changed = sorted(name for name in before.keys() | found.keys() if before.get(name) != found.get(name))
    print("\n".join(f"{name}: {before.get(name)} -> {found.get(name)}" for name in changed) or f"{len(found)} equal")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
