"""The peers: how each is put into an environment of its own, how its script is run there, and what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.contest import FLOOR, OURS, Session
from harness.measurement import Repeats
from harness.processes import BENCHMARKS
from harness.results import Result
from harness.speedup_rows import ROWS

__all__ = ["FOLDER", "PEERS", "Measured", "Peer", "beside", "install", "is_installed", "lines", "page", "relative"]

FOLDER = BENCHMARKS.parent / "build" / "peers"
TORCH = "torch==2.13.0"
MARK = "installed.json"
TIMEOUT_SECONDS = 1500
ROUNDS = {"w1": 4, "w2": 11, "w3": 4}
REQUIREMENTS = "import importlib.metadata as m, json, sys; print(json.dumps(m.requires(sys.argv[1])))"


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: its requirement, its script, and the ways to run it on two cores, the fastest of which counts.

    A way is the program of the environment with its arguments, and how many workers or threads the script is told.
    `loosened` are dependencies whose pins a registry may not be able to meet.
    """

    name: str
    requirement: str
    script: str
    ways: Mapping[str, tuple[tuple[str, ...], int]]
    loosened: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The distribution's name."""
        return self.requirement.partition("==")[0].partition("[")[0]


PEERS = (
    Peer(
        "pfl",
        "pfl==0.6.0",
        "pfl_rounds.py",
        {"1 process": (("python",), 1), "2 processes": (("torchrun", "--standalone", "--nproc_per_node=2"), 2)},
    ),
    Peer("fluke", "fluke-fl==0.8.1", "fluke_rounds.py", {"1 thread": (("python",), 1), "2 threads": (("python",), 2)}),
    Peer(
        "Flower", "flwr[simulation]==1.42.0", "flower_rounds.py", {"2 actors": (("python",), 2)}, loosened=("certifi",)
    ),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a peer took on one workload: seconds a round, seconds from its start to its first round's end, in which
    way; or why there is nothing."""

    seconds: Repeats | None = None
    first: float | None = None
    way: str = ""
    failed: str = ""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """A peer's version and what it took, by row; or that it is not installed."""

    version: str
    rows: Mapping[str, Measured]


Peers = Mapping[str, PeerReport]


def is_installed(peer: Peer, folder: Path) -> bool:
    """Whether `install` succeeded in `folder`, with the same requirement."""
    mark = folder / peer.name.lower() / MARK
    return mark.is_file() and json.loads(mark.read_text()) == [peer.requirement, TORCH]


def install(peer: Peer, folder: Path) -> str | None:
    """Makes the peer's environment under `folder`; why it could not be made, or None."""
    home = folder / peer.name.lower()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    # torch first and pinned: a newer one may come with CUDA, in several gigabytes.
    error = _pip(home, TORCH) or (_pip(home, TORCH, peer.requirement) and _install_loosened(home, peer))
    if error is None:
        (home / MARK).write_text(json.dumps([peer.requirement, TORCH]))
    return error


def _install_loosened(home: Path, peer: Peer) -> str | None:
    """The peer without its dependencies, and then these, some without their pins."""
    from packaging.requirements import Requirement

    error = _pip(home, "--no-deps", peer.requirement)
    if error:
        return error
    asked = Requirement(peer.requirement)
    listed = subprocess.run(
        [str(home / "bin" / "python"), "-c", REQUIREMENTS, peer.package], check=True, capture_output=True, text=True
    )
    needed = [Requirement(text) for text in json.loads(listed.stdout)]
    extras = [{"extra": extra} for extra in ("", *asked.extras)]
    wanted = [r for r in needed if r.marker is None or any(r.marker.evaluate(extra) for extra in extras)]
    plain = [r.name if r.name in peer.loosened else str(r).partition(";")[0].strip() for r in wanted]
    return _pip(home, TORCH, *plain)


def _pip(home: Path, *words: str) -> str | None:
    command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return None if done.returncode == 0 else (said or ["pip failed"])[-1][:300]


def beside(
    session: Session, folder: Path, rows: Sequence[str], chosen: Sequence[Peer] = PEERS
) -> dict[str, PeerReport]:
    """What each installed peer takes for W1 to W3, as far as they are among `rows`."""
    wanted = [row for row in rows if row in ROUNDS]
    if not wanted:
        return {}
    found: dict[str, PeerReport] = {}
    for peer in chosen:
        if not is_installed(peer, folder):
            print(f"{peer.name} is not installed: python benchmarks/peers/run.py --install --only {peer.name}")
            continue
        measured = {row: _fastest(session, folder / peer.name.lower(), peer, row) for row in wanted}
        found[peer.name] = PeerReport(peer.requirement, measured)
    return found


def _fastest(session: Session, home: Path, peer: Peer, row: str) -> Measured:
    made = [_measure(session, home, peer, row, way) for way in peer.ways]
    ready = [measured for measured in made if measured.seconds]
    return min(ready, key=lambda measured: measured.seconds.median if measured.seconds else 0.0, default=made[0])


def _measure(session: Session, home: Path, peer: Peer, row: str, way: str) -> Measured:
    program, workers = peer.ways[way]
    command = [str(home / "bin" / program[0]), *program[1:], str(BENCHMARKS / "peers" / peer.script)]
    spec = {**_spec(session, row), "workers": workers}
    started = time.time()
    try:
        done = subprocess.run(
            [*command, json.dumps(spec)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env={**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"},
        )
    except subprocess.TimeoutExpired:
        return Measured(way=way, failed=f"no end within {TIMEOUT_SECONDS} s")
    said = [line for line in done.stdout.splitlines() if line.startswith('{"version"')]
    if done.returncode or not said:
        return Measured(way=way, failed=f"code {done.returncode}: {(done.stderr.splitlines() or [''])[-1][:200]}")
    found = json.loads(said[-1])
    return Measured(Repeats.of(found["seconds"]), found["first_end"] - started, way)


def _spec(session: Session, row: str) -> dict[str, Any]:
    workload = next(item.workload for item in ROWS if item.name == row)
    workload, rounds = (workload.tiny(), 3) if session.quick else (workload, ROUNDS[row])
    return {
        "data": str(session.partition(workload).path / "data"),
        "model": workload.model,
        "options": workload.options,
        "clients": workload.clients,
        "cohort": workload.cohort,
        "lr": workload.lr,
        "batch_size": workload.batch_size,
        "rounds": rounds,
    }


def lines(peers: Peers, results: Sequence[Result]) -> list[str]:
    """Each peer beside the floor and flctl, for a terminal."""
    made = []
    for result in results:
        with_row = {name: peer.rows[result.row] for name, peer in peers.items() if result.row in peer.rows}
        if not (with_row and result.spread):
            continue
        told = [f"{name} {result.seconds[name].text()} s" for name in (FLOOR, OURS)]
        told += [f"{name} {_told(measured)}" for name, measured in with_row.items()]
        made.append(f"{result.row} a round: {'; '.join(told)}")
    return made


def _told(measured: Measured) -> str:
    if measured.seconds is None:
        return f"failed ({measured.failed})"
    return f"{measured.seconds.text()} s ({measured.way}; first round done after {measured.first:.1f} s)"


def page(peers: Peers, results: Sequence[Result]) -> str:
    """The peers as part of the results' page; empty without any."""
    if not peers:
        return ""
    rows = ["", "Peers, seconds a round (median, smallest-largest) in the fastest way of each:", ""]
    rows += ["| row | peer | way | seconds a round | first round done after | flctl is faster by |"]
    rows += ["|---|---|---|---:|---:|---:|"]
    for result in results:
        for name, peer in peers.items():
            measured = peer.rows.get(result.row)
            if measured is None or result.spread is None:
                continue
            cells = [result.row, f"{name} ({peer.version})", measured.way, measured.failed or "-", "-", "-"]
            if measured.seconds and measured.first:
                faster = measured.seconds.median / result.seconds[OURS].median
                cells[3:] = [measured.seconds.text(), f"{measured.first:.1f} s", f"{faster:.3g}x"]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def relative(peers: Peers, results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Peer -> row -> its speed relative to the floor."""
    floors = {result.row: result.seconds[FLOOR].median for result in results if FLOOR in result.seconds}
    return {
        name: {
            row: floors[row] / measured.seconds.median
            for row, measured in peer.rows.items()
            if measured.seconds and row in floors
        }
        for name, peer in peers.items()
    }
