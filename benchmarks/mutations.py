"""Mutation test: put one fault at a time into a plugin's sources, and run the quick tests that must notice it.

    python benchmarks/mutations.py flctl-dp
    python benchmarks/mutations.py flctl-secagg --only shamir

The faults are listed in `benchmarks/mutants/PLUGIN.toml`: a file below the plugin's `src`, the text `old` that occurs
once in it, the text `new` in its place, the tests, and why the line matters. Each mutant is a copy of `src` in a
temporary folder; the checkout is not changed. Prints one line per mutant and ends with exit code 1 if any survives, if
`old` of any does not occur exactly once, or if its tests are missing or fail without a fault. Needs `os.fork`: a
process that has imported torch and the accountants once is forked for each mutant.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600
"""Time after which a mutant counts as killed: it does not end."""
SURVIVED, FAILING = "SURVIVED", "NO TESTS"
_NO_TEST = 3


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old` becomes `new` in `file`, and one of `tests` has to fail."""

    file: str
    old: str
    new: str
    why: str
    tests: tuple[str, ...]
    keyword: str = ""
    """pytest's -k, to run only the tests that can notice."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation test of a plugin's critical lines.")
    known = sorted(path.stem for path in (ROOT / "benchmarks" / "mutants").glob("*.toml"))
    parser.add_argument("plugins", nargs="*", metavar="PLUGIN", help=f"Any of {', '.join(known)} (default: all).")
    parser.add_argument("--only", default="", help="Only mutants whose file or reason has this text.")
    parser.add_argument("--skip", type=int, default=0, help="Leave out the first mutants of the table.")
    parser.add_argument("--quick", action="store_true", help="Only check that each fault fits its source.")
    given = parser.parse_args()
    return max([test(plugin, given) for plugin in given.plugins or known])


def test(plugin: str, given: argparse.Namespace) -> int:
    """Tests the mutants of one plugin; returns the exit code."""
    source = ROOT / "plugins" / plugin
    found = [one for one in mutants(plugin)[given.skip :] if given.only in f"{one.file} {one.why}"]
    unfit = [one for one in found if not fits(source, one)]
    for one in unfit:
        print(f"does not fit  {one.file}: {one.old!r} does not occur exactly once")
    if given.quick:
        print(f"{plugin}: {len(found) - len(unfit)} mutants, {len(unfit)} do not fit")
        return 1 if unfit else 0
    preload()
    verdicts: Counter[str] = Counter()
    passing: dict[tuple[tuple[str, ...], str], bool] = {}
    for number, one in enumerate(found, 1):
        if one in unfit:
            continue
        started = time.monotonic()
        if (chosen := (one.tests, one.keyword)) not in passing:
            passing[chosen] = judge(source, replace(one, new=one.old)) == SURVIVED
        verdict = judge(source, one) if passing[chosen] else FAILING
        verdicts[verdict] += 1
        seconds = time.monotonic() - started
        print(f"{number:3d}/{len(found)} {verdict:9s} {seconds:5.1f} s  {one.file}: {one.why}", flush=True)
    killed, survived, failing = verdicts["killed"] + verdicts["killed *"], verdicts[SURVIVED], verdicts[FAILING]
    print(f"{plugin}: {killed} killed, {survived} survived, {len(unfit)} do not fit, {failing} without tests that pass")
    return 1 if survived or unfit or failing else 0


def fits(source: Path, mutant: Mutant) -> bool:
    """True if the text that the mutant changes occurs exactly once."""
    file = source / "src" / mutant.file
    return file.is_file() and file.read_text(encoding="utf-8").count(mutant.old) == 1


def mutants(plugin: str) -> list[Mutant]:
    """The table of a plugin."""
    table = tomllib.loads((ROOT / "benchmarks" / "mutants" / f"{plugin}.toml").read_text(encoding="utf-8"))
    return [Mutant(**{**one, "tests": tuple(one["tests"])}) for one in table["mutant"]]


def preload() -> None:
    """Imports what every mutant's tests need, but nothing of the plugin."""
    import dp_accounting.pld.privacy_loss_distribution
    import dp_accounting.rdp
    import hypothesis
    import numpy
    import pytest
    import scipy.stats
    import torch

    import flctl.server.training
    import flctl.testing.trial

    modules = (dp_accounting, hypothesis, numpy, pytest, scipy, torch, flctl)
    imported = [name for name in sys.modules if name.startswith("flctl_")]
    if not modules or imported:
        raise SystemExit(f"{', '.join(imported)} were imported before any mutant was made")


def judge(source: Path, mutant: Mutant) -> str:
    """Runs the tests on the mutant in a forked process: "killed", "killed *" (it does not end), or "SURVIVED"."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "src"
        shutil.copytree(source / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        child = os.fork()
        if child == 0:
            _run(source, copy, mutant)
        return _verdict(child)


def _run(source: Path, copy: Path, mutant: Mutant) -> None:
    """In the child: the quick tests, with the mutant before everything else on the path."""
    import pytest

    os.setsid()
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.chdir(source)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "--tb=no"]
    code = int(pytest.main([*options, "-k", mutant.keyword, *(f"tests/{name}" for name in mutant.tests)]))
    os._exit(_NO_TEST if code in (4, 5) else min(code, 1))  # 4, 5: no such file, or no test in it


def _verdict(child: int) -> str:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return {0: SURVIVED, _NO_TEST: FAILING}.get(os.waitstatus_to_exitcode(status), "killed")
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "killed *"


if __name__ == "__main__":
    sys.exit(main())
