"""`flctl train` as a user types it: from the command to the first round, and a whole run against its rounds alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Timed", "imports_torch", "train_command", "watched"]

FLCTL = (sys.executable, "-c", "from flctl.cli import main; main()")
POLL_SECONDS = 0.002
PATIENCE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Timed:
    """One command: seconds from its start to the first round's line, to the last one's and to its end; its lines."""

    first: float
    last: float
    end: float
    lines: Sequence[dict[str, Any]]

    @property
    def start_up(self) -> float:
        """Seconds before the first round began."""
        return self.first - float(self.lines[0]["seconds"]["total"])

    @property
    def rounds(self) -> float:
        """Seconds in rounds without their evaluation, as metrics.jsonl has them."""
        return float(sum(line["seconds"]["total"] - line["seconds"].get("evaluate", 0.0) for line in self.lines))


def train_command(partition: Path, run: Path, settings: Sequence[str], workers: int, rounds: int) -> list[str]:
    """`flctl train` with settings as `-o`."""
    named = [part for setting in settings for part in ("-o", setting)]
    words = ["train", str(partition), "--workers", str(workers), "--rounds", str(rounds), *named, "--out", str(run)]
    return [*FLCTL, *words]


def watched(command: Sequence[str], run: Path, rounds: int) -> Timed:
    """Runs a training to its end and notes when its first and its last round's lines were there. Raises
    RuntimeError or TimeoutError."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            first, last = (_lines(process, run / "metrics.jsonl", count, started) for count in (1, rounds))
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    end = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"flctl train ended with code {process.returncode}: {errors[-1000:]}")
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return Timed(first, last, end, lines)


def _lines(process: subprocess.Popen[str], metrics: Path, count: int, started: float) -> float:
    """Seconds until the file has so many lines, or the process ended."""
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= count):
        if time.perf_counter() - started > PATIENCE_SECONDS:
            raise TimeoutError(f"{count} rounds were not done in {PATIENCE_SECONDS} s")
        time.sleep(POLL_SECONDS)
    return time.perf_counter() - started


def imports_torch() -> float:
    """Seconds of a process that imports torch and ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True, env={**os.environ})
    return time.perf_counter() - started
