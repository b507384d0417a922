"""Time of lattice noise beside NumPy's float normal, and of the accountants.

    python benchmarks/dp.py [--quick]

Noise is compared within each repeat, so that a busy machine slows both. Writes benchmarks/results/dp.json and dp.md;
`--quick` draws less, judges nothing and writes nothing. Needs the plugin flctl-dp.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from flctl_dp.accounting import accountants as accounting
from flctl_dp.accounting.releases import Release
from flctl_dp.noise.entropy import secure_words
from flctl_dp.noise.lattice import wide_discrete_gaussian
from harness.measurement import Repeats, machine
from harness.results import command, write

SLOWEST = 0.080
"""Seconds that 10^6 draws may take."""
COUNT, QUICK_COUNT = 1_000_000, 20_000
REPEATS, QUICK_REPEATS = 21, 3
PLANS = {"60,000 clients, 256 a round, 14,062 rounds": (Release("poisson", 1.1, rate=256 / 60000), 14062)}


def seconds(work: Callable[[], object]) -> float:
    """How long the processor works on it: others that share the machine do not count."""
    started = time.process_time()
    work()
    return time.process_time() - started


def noise(count: int, repeats: int) -> tuple[Repeats, Repeats, Repeats]:
    """Seconds of lattice noise, of float normals, and the ratio of the two in each repeat."""
    words, floats = secure_words(), np.random.default_rng()
    wide_discrete_gaussian(words, 1000)  # builds the table
    pairs = [
        (seconds(lambda: wide_discrete_gaussian(words, count)), seconds(lambda: floats.standard_normal(count)))
        for _ in range(repeats)
    ]
    ours, theirs = zip(*pairs, strict=True)
    return Repeats.of(ours), Repeats.of(theirs), Repeats.of([one / max(other, 1e-9) for one, other in pairs])


def milliseconds(spread: Repeats) -> str:
    """Seconds as thousandths."""
    return Repeats(*(1e3 * value for value in (spread.median, spread.low, spread.high))).text()


def accountants() -> list[tuple[str, str, float, float]]:
    """(plan, accountant, epsilon, seconds) at delta 1e-5."""
    rows = []
    for title, (release, rounds) in PLANS.items():
        for by in ("pld", "rdp"):
            started = time.process_time()
            found = accounting.epsilon({release: rounds}, 1e-5, "add-remove", accountant=by)
            rows.append((title, by, found, time.process_time() - started))
    return rows


def main() -> int:
    """Measures, prints and writes; 1 where the noise takes longer than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few draws, no verdict, nothing written")
    quick = parser.parse_args().quick
    count = QUICK_COUNT if quick else COUNT
    ours, theirs, ratio = noise(count, QUICK_REPEATS if quick else REPEATS)
    rows = accountants()
    page = "\n".join(
        [
            "# Differential privacy: time",
            "",
            f"`{command()}` on {machine()}; medians (least-most) of processor seconds.",
            "",
            f"| {count:,} draws | ms |",
            "|---|---|",
            f"| discrete Gaussian on the lattice, AES-256-CTR | {milliseconds(ours)} |",
            f"| NumPy float normal, PCG64 | {milliseconds(theirs)} |",
            f"| ratio | {ratio.text()} |",
            "",
            "| plan | accountant | epsilon | seconds |",
            "|---|---|---|---|",
            *(f"| {title} | {by} | {found:.4g} | {took:.3f} |" for title, by, found, took in rows),
            "",
        ]
    )
    print(page)
    if quick:
        return 0
    made = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "draws": count,
        "lattice": [ours.median, ours.low, ours.high],
        "normal": [theirs.median, theirs.low, theirs.high],
        "ratio": [ratio.median, ratio.low, ratio.high],
        "accountants": [dict(zip(("plan", "accountant", "epsilon", "seconds"), row, strict=True)) for row in rows],
    }
    write(made, page, "dp")
    return int(ours.median > SLOWEST)


if __name__ == "__main__":
    sys.exit(main())
