"""The workloads W1 to W3 through the peers, beside the floor and flctl in the same session.

    python benchmarks/peers/run.py --install [--only pfl] [--venvs FOLDER]
    python benchmarks/peers/run.py [--only pfl] [--rows w2] [--quick]

`--install` makes an environment for each peer (venv and pip; torch is pinned) and says which could not be made. Then
each peer's script plays the workload's rounds in its own environment, in each way that suits two cores; the fastest
counts. Nothing is written: `benchmarks/speed.py` records the peers that it finds installed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import peer_environments
from harness.contest import Session
from harness.speedup_rows import ROWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Installs or measures; 1 where a peer could not be installed or did not run."""
    asked = _parse(arguments)
    chosen = [peer for peer in peer_environments.PEERS if not asked.only or peer.name in asked.only]
    if asked.install:
        return install(chosen, asked.venvs)
    with Session(quick=asked.quick) as session:
        results = [row.measure(session) for row in ROWS if row.name in asked.rows]
        for result in results:
            print(result.line(judged=not asked.quick), flush=True)
        peers = peer_environments.beside(session, asked.venvs, asked.rows, chosen)
    print("\n".join(peer_environments.lines(peers, results)))
    broken = [name for name, peer in peers.items() for measured in peer.rows.values() if not measured.seconds]
    return 1 if broken else 0


def install(chosen: Sequence[peer_environments.Peer], folder: Path) -> int:
    """Makes the environments that are not there yet."""
    failed = 0
    for peer in chosen:
        if peer_environments.is_installed(peer, folder):
            print(f"{peer.name}: {peer.requirement} is installed")
            continue
        print(f"{peer.name}: installing {peer.requirement} ...", flush=True)
        error = peer_environments.install(peer, folder)
        print(f"{peer.name}: {'cannot be installed here: ' + error if error else 'installed'}", flush=True)
        failed += error is not None
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--install", action="store_true", help="make the environments and end")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, no judgement of time")
    parser.add_argument(
        "--only", nargs="+", choices=[peer.name for peer in peer_environments.PEERS], help="which peers"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=list(peer_environments.ROUNDS), default=list(peer_environments.ROUNDS)
    )
    parser.add_argument("--venvs", type=Path, default=peer_environments.FOLDER, help="where the environments are")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
