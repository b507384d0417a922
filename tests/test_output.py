"""What commands print: names from data and paths are never taken for markup, and JSON stays JSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from flctl.cli import output
from flctl.errors import FlctlError
from flctl.report.progress import failures_text
from flctl.types import Failure, RoundReport


def printed(columns: list[str], rows: list[list[object]], title: str | None = None) -> str:
    console = Console(width=60, record=True, file=io.StringIO())
    output.table(console, columns, rows, title)
    return console.export_text()


@pytest.mark.parametrize("name", ["[n, features]", "[bold]", "[/]", "a[0]", "\\[x]", "[link=x]"])
def test_brackets_in_a_table_mean_themselves(name: str) -> None:
    text = printed(["label", name], [[name, 1]], title=f"Of {name}")
    assert text.count(name) == 3


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in printed(["client"], [["\x1b[2Jsite"]])
    assert " [2Jsite" in printed(["client"], [["\x1b[2Jsite"]])


def test_the_envelope_says_null_for_what_json_cannot_say() -> None:
    line = output.envelope(
        "eval", ok=True, data={"loss": float("nan"), "rows": np.int64(3), "x": np.array([1.5, np.inf])}
    )
    assert json.loads(line) == {
        "flctl": 1,
        "command": "eval",
        "ok": True,
        "data": {"loss": None, "rows": 3, "x": [1.5, None]},
    }


def test_control_characters_of_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Client ids come from data; an escape sequence in one would act on the terminal of whoever trains."""
    hostile = "\x1b[31mred\x07"
    output.fail(FlctlError(f"client '{hostile}' failed", hint=f"look at {hostile}"), "train", False)
    output.warn(hostile)
    output.note(hostile)
    report = RoundReport(1, 1, 0, {hostile: Failure("exception", hostile)}, 0, None, {"total": 0.0}, 0, 0, {})
    told = capsys.readouterr().err + "".join(failures_text(report))
    assert "red" in told
    assert all(letter.isprintable() or letter == "\n" for letter in told)
