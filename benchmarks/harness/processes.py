"""Commands that run modules of this package in processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["BENCHMARKS", "environment", "module_command"]

BENCHMARKS = Path(__file__).resolve().parent.parent


def module_command(name: str, *arguments: str) -> list[str]:
    """Command that runs `harness.NAME` as a script. Needs `environment`, which makes the package importable."""
    return [sys.executable, "-m", f"harness.{name}", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """Copy of this process's environment with `changes`, and with benchmarks/ first on PYTHONPATH."""
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **changes}
