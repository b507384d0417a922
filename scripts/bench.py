"""Runs the benchmarks: each is a script of its own in benchmarks/ that takes `--quick`, and then writes no results.

python scripts/bench.py                 the quick form of every benchmark
python scripts/bench.py --list          what there is
python scripts/bench.py NAME... --full  some of them, at full length
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the named benchmarks; the exit code is 1 if a benchmark failed, 2 for an unknown name."""
    options = _parse(arguments)
    found = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    unknown = [name for name in options.names if name not in found]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; there are: {', '.join(found)}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{name:24}{title(path)}" for name, path in found.items()))
        return 0
    if not found:
        print(f"there are no benchmarks in {FOLDER.name}/", file=sys.stderr)
        return 0
    failed = [name for name in options.names or found if not run(found[name], full=options.full)]
    print(f"failed: {', '.join(failed)}" if failed else "no benchmark failed", file=sys.stderr)
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (default: all)")
    parser.add_argument("--full", action="store_true", help="full length; may take hours")
    parser.add_argument("--list", action="store_true", help="only list the benchmarks")
    return parser.parse_args(arguments)


def title(path: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def run(path: Path, *, full: bool) -> bool:
    """Runs one benchmark with its output shown; whether it succeeded."""
    print(f"== {path.stem}: {title(path)}", flush=True)
    started = time.monotonic()
    command = [sys.executable, str(path), *([] if full else ["--quick"])]
    code = subprocess.run(command, cwd=FOLDER.parent, check=False).returncode
    print(f"== {path.stem}: {'done' if code == 0 else f'failed ({code})'} in {time.monotonic() - started:.0f} s\n")
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
