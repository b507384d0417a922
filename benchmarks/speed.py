"""How fast rounds are: flctl beside a hand-written torch loop, row by row, each with its target.

    python benchmarks/speed.py [--quick] [--only w2 w3 ...] [--executor NAME] [--peers FOLDER | --no-peers]

Each row alternates flctl with the floor (see docs/speed.md) in the same minutes and compares the models they end at;
one that differs fails. Writes benchmarks/results/speed.json, speed.md and speed.png; `--quick` plays tiny sizes, looks
at no clock and writes nothing. Peers are measured where `benchmarks/peers/run.py --install` has put them.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import peer_environments
from harness.contest import Session
from harness.other_rows import OTHER_ROWS
from harness.results import RESULTS, Result, markdown, report, write
from harness.speedup_chart import draw
from harness.speedup_rows import ROWS

NAMES = [*(row.name for row in ROWS), *(name for row in OTHER_ROWS for name in row.names)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; 1 where a row failed or two models that should be equal are not."""
    asked = _parse(arguments)
    failed: list[str] = []
    with Session(quick=asked.quick) as session:
        results = list(measured(session, asked, failed))
        rows = [result.row for result in results if not asked.quick or result.row == "w2"]
        peers = {} if asked.no_peers else peer_environments.beside(session, asked.peers, rows)
    for line in peer_environments.lines(peers, results):
        print(line)
    if asked.out or not (asked.quick or asked.only):
        _write(results, peers, asked.out or RESULTS)
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measured(session: Session, asked: argparse.Namespace, failed: list[str]) -> Iterator[Result]:
    """The rows that were asked for, each printed when it is there; the names of those that broke go to `failed`."""
    for names, measure in _chosen(asked.only):
        try:
            made = measure(session, asked.executor)
        except Exception:
            traceback.print_exc()
            failed += names
            continue
        for result in [made] if isinstance(made, Result) else made:
            print(result.line(judged=not asked.quick), flush=True)
            yield result


def _chosen(only: Sequence[str] | None) -> Iterable[tuple[tuple[str, ...], Callable[..., Any]]]:
    rows: list[tuple[tuple[str, ...], Callable[..., Any]]] = [((row.name,), row.measure) for row in ROWS]
    rows += [(row.names, row.measure) for row in OTHER_ROWS]
    return [(names, measure) for names, measure in rows if not only or set(names) & set(only)]


def _write(results: Sequence[Result], peers: peer_environments.Peers, folder: Path) -> None:
    made = report(results, {"peers": {name: asdict(peer) for name, peer in peers.items()}})
    write(made, markdown(made, results) + peer_environments.page(peers, results), "speed", folder)
    draw(results, peer_environments.relative(peers, results), folder / "speed.png")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no judgement of time, nothing written")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="ROW", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--executor", help="pin an executor; default: what flctl chooses")
    parser.add_argument("--out", type=Path, help="where the results go")
    parser.add_argument(
        "--peers", type=Path, default=peer_environments.FOLDER, help="the folder of the peers' environments"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    asked = parser.parse_args(arguments)
    if asked.quick and asked.out:
        parser.error("--quick writes nothing: leave out --out")
    return asked


if __name__ == "__main__":
    sys.exit(main())
