"""What was measured: rows, how they stand to their targets, and how they are written down."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.measurement import Repeats, machine
from harness.processes import BENCHMARKS

__all__ = ["RESULTS", "Result", "Target", "command", "markdown", "report", "write"]

RESULTS = BENCHMARKS / "results"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is held to; `smaller` says that less is better."""

    must: float
    hoped: float | None = None
    smaller: bool = False
    unit: str = "x"

    def met(self, value: float) -> bool:
        """Whether a figure reaches what it must."""
        return value <= self.must if self.smaller else value >= self.must

    def surpassed(self, value: float) -> bool | None:
        """Whether it reaches what is hoped for; None where nothing more is."""
        if self.hoped is None:
            return None
        return value <= self.hoped if self.smaller else value >= self.hoped

    def text(self) -> str:
        """`at least 5x, hoped 8x`."""
        hoped = "" if self.hoped is None else f", hoped {self.hoped:g}{self.unit}"
        return f"{'at most' if self.smaller else 'at least'} {self.must:g}{self.unit}{hoped}"


@dataclass(frozen=True, slots=True)
class Result:
    """One row: what was measured (`figure`), its spread over repeats, and its target; `seconds` a round by contender.
    A row that could not be measured has `skipped` instead."""

    row: str
    title: str
    figure: str
    target: Target
    spread: Repeats | None = None
    seconds: Mapping[str, Repeats] = field(default_factory=dict)
    executor: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def verdict(self) -> str:
        """`met`, `met, hoped too`, `NOT met`, or `skipped: why`."""
        if self.spread is None:
            return f"skipped: {self.skipped}"
        met = "met" if self.target.met(self.spread.median) else "NOT met"
        return f"{met}, hoped too" if self.target.surpassed(self.spread.median) else met

    def shown(self) -> str:
        """The figure with its spread and unit."""
        return f"{self.spread.text()}{self.target.unit} {self.figure}".strip() if self.spread else "-"

    def line(self, *, judged: bool = True) -> str:
        """The row on a terminal; in the quick form without what clocks say of targets."""
        if self.spread is None:
            return f"{self.row:<14} {self.verdict()}"
        times = ", ".join(f"{name} {spread.text()} s" for name, spread in self.seconds.items())
        executor = f"; executor: {self.executor}" if self.executor else ""
        verdict = f"; {self.target.text()}: {self.verdict()}" if judged else ""
        check = self.details.get("checksum")
        same = f"; models within {check.difference:.1g} of their change" if check else ""
        return f"{self.row:<14} {self.shown()}{verdict}{executor}{same}" + (f"\n{'':<14} {times}" if times else "")


def command() -> str:
    """What was typed, without where scripts, results and environments lie."""
    words = list(sys.argv[1:])
    for option in ("--out", "--peers"):
        if option in words:
            del words[words.index(option) : words.index(option) + 2]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def report(results: Sequence[Result], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything as plain values."""
    rows = [{**asdict(result), "verdict": result.verdict()} for result in results]
    day = datetime.now(UTC).date().isoformat()
    return {"command": command(), "date": day, "machine": machine(), **(extra or {}), "rows": rows}


def markdown(made: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The report as a page."""
    lines = ["# Speed", "", f"Measured on {made['date']} by `{made['command']}`. {made['machine']}.", ""]
    lines += ["Figures are median (smallest-largest) of paired repeats; docs/speed.md says what each row is."]
    lines += ["`models within` is how far flctl's model was from the floor's, relative to a block's change.", ""]
    lines += [
        "| row | what | figure | target | verdict | executor | models within |",
        "|---|---|---:|---|---|---|---:|",
    ]
    for item in results:
        check = item.details.get("checksum")
        within = f"{check.difference:.1g}" if check else "-"
        cells = (item.row, item.title, item.shown(), item.target.text(), item.verdict(), item.executor or "-", within)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Seconds a round:", "", "| row | contender | seconds |", "|---|---|---:|"]
    for item in results:
        lines += [f"| {item.row} | {name} | {spread.text()} |" for name, spread in item.seconds.items()]
    return "\n".join(lines) + "\n"


def write(made: Mapping[str, Any], page: str, name: str, folder: Path = RESULTS) -> None:
    """Writes the report as numbers and as a page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(made, indent=1) + "\n")
    (folder / f"{name}.md").write_text(page)
