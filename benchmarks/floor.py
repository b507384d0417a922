"""The floor by itself: seconds a round of the hand-written torch loop, with one process and two, ordinary and lean.

    python benchmarks/floor.py [--quick] [--only w1 w2 w3]

After each block of rounds the models are compared with flctl's, trained one client at a time in one process; one that
differs fails. Writes nothing: benchmarks/speed.py measures the floor again, beside what is compared with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.contest import Amount, Session
from harness.flctl_rounds import opened
from harness.floor import Floor, FloorJob
from harness.measurement import Repeats, machine, paired
from harness.speedup_rows import ROWS, RoundRow

KINDS = {"ordinary": {}, "lean": {"kind": "lean"}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--only", nargs="+", choices=["w1", "w2", "w3"], default=["w1", "w2", "w3"])
    asked = parser.parse_args(arguments)
    print(machine())
    with Session(quick=asked.quick) as session, Floor(1) as single:
        for row in ROWS:
            if row.name in asked.only:
                measure(session, single, row)
    return 0


def measure(session: Session, single: Floor, row: RoundRow) -> None:
    """Prints the four floors of one workload. Raises ChecksumError where a model differs."""
    workload = row.workload.tiny() if session.quick else row.workload
    amount = Amount(2, 1) if session.quick else Amount(row.amount.blocks // 2 + 1, row.amount.rounds)
    run = session.run(workload, (), 1, "sequential")
    start = run.build_model().read()["params"]
    session.write_rounds(run, amount)
    jobs: dict[str, FloorJob] = {}
    for kind, fields in KINDS.items():
        for floor, processes in ((session.floor, "2 processes"), (single, "1 process")):
            jobs[f"{kind}, {processes}"] = session.job(workload, run, start, fields, floor)
    for job in jobs.values():
        job.prepare(range(1, amount.played + 1))
    with opened(run) as ours:
        times, check = paired({**jobs, "flctl, sequential": ours}, amount.blocks, amount.rounds, start)
    told = ", ".join(f"{name} {Repeats.of(seconds).text()} s" for name, seconds in times.items())
    print(f"{row.name}: {told}; models within {check.difference:.2g} of their change", flush=True)
    for job in jobs.values():
        job.close()


if __name__ == "__main__":
    sys.exit(main())
