"""Power of the end-to-end audit: the bound and the claim of the six mechanisms as they are, and with faults in them.

    python benchmarks/audit_power.py [NAME...] [--repeats 5] [--quick]

Coins and noise are fresh in each repeat. The exit code is 1 if a sound mechanism is refuted more often than its
confidence allows for, or a fault is missed in more than one repeat of five. `--quick`: each once, and judges nothing.
The mechanisms and faults are those of the tests (plugins/flctl-dp/tests/audit_faults.py). Needs flctl-dp, flctl-secagg.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
import yaml
from flctl_dp.audit.canary_attack import Audit
from flctl_dp.audit.end_to_end import audit_end_to_end
from flctl_dp.commands.in_process import in_process

from flctl.cli import build
from flctl.report import curves

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "plugins" / "flctl-dp" / "tests"))

from audit_faults import CONFIGS, FAULTS, config  # type: ignore[import-not-found]  # noqa: E402

SOUND = "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="Transforms to audit (default: all six).")
    parser.add_argument("--repeats", type=int, default=5, help="Audits of each mechanism and fault.")
    parser.add_argument("--quick", action="store_true", help="Audit each once, and judge nothing.")
    given = parser.parse_args()
    curves.curves = lambda rows, out, metric=None: out  # no pictures: they cost more than the rest of a run
    commands = in_process(typer.main.get_command(build(())))
    print(f"{'transform':16}{'fault':26}  claim  bound, median  lowest  highest  refuted  CPU s")
    failed = False
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        for name in given.names or CONFIGS:
            for fault in (SOUND, *(fault for kind, fault in FAULTS if kind == name)):
                found, seconds = repeated(name, fault, commands, 1 if given.quick else given.repeats)
                show(name, fault, found, seconds)
                wrong = sum(one.broken != (fault != SOUND) for one in found)
                failed |= wrong > max(1, len(found) // 5)
    return 1 if failed and not given.quick else 0


def repeated(name: str, fault: str, commands: Callable[..., None], repeats: int) -> tuple[list[Audit], float]:
    """Audits of a mechanism with a fault, and the mean CPU time of one in seconds."""
    given, canaries, rounds = config(name)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as scratch, placed(name, fault):
        path = Path(scratch) / "config.yaml"
        path.write_text(yaml.safe_dump(given), encoding="utf-8")
        found = [audit_end_to_end(path, canaries, rounds, commands) for _ in range(repeats)]
    return found, (time.process_time() - started) / repeats


@contextmanager
def placed(name: str, fault: str) -> Iterator[None]:
    """Puts a fault in place, and takes it away again."""
    with pytest.MonkeyPatch.context() as patch:
        if fault != SOUND:
            FAULTS[name, fault](patch)
        yield


def show(name: str, fault: str, found: list[Audit], seconds: float) -> None:
    bounds = sorted(one.lower for one in found)
    claim, refuted = max(one.claim for one in found), sum(one.broken for one in found)
    print(
        f"{name:16}{fault:26}{claim:7.2f}{bounds[len(bounds) // 2]:15.2f}{bounds[0]:8.2f}{bounds[-1]:9.2f}"
        f"{f'{refuted}/{len(found)}':>9}{seconds:7.1f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
