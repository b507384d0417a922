"""What commands print: names from data and paths are never taken for markup, and JSON stays JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flctl.cli import output, run
from flctl.client.runtime import ClientRuntime
from flctl.errors import FlctlError
from flctl.partition.store import Partition
from flctl.report.progress import JsonEvents, PlainLines, warnings_of
from flctl.types import Failure, Gathered, IntArray, RoundReport, Work


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
    output.fail(FlctlError(f"client '{hostile}' failed", hint=f"look at {hostile}"), "train", as_json=False)
    output.warn(hostile)
    output.note(hostile)
    failed = {hostile: Failure("exception", hostile)}
    report = RoundReport(1, 1, 0, failed, 0, None, {"total": 0.0}, 0, 0, {}, notes=(hostile,))
    told = capsys.readouterr().err + "".join(warnings_of(report))
    assert "red" in told
    assert all(letter.isprintable() or letter == "\n" for letter in told)


def test_what_was_mended_is_told_as_it_happens(capsys: pytest.CaptureFixture[str]) -> None:
    told = ("9 clients asked again in two halves: no memory",)
    report = RoundReport(3, 9, 9, {}, 90, 0.5, {"total": 0.25}, 0, 0, {"accuracy": 0.5}, notes=told)
    plain = PlainLines()
    plain._rounds = 5
    plain.flctl_round_finished(report=report)
    assert capsys.readouterr().err.splitlines() == [
        "warning: round 3: 9 clients asked again in two halves: no memory",
        "round 3/5  loss 0.5000  accuracy 0.5000  clients 9/9  0.25 s",
    ]
    JsonEvents().flctl_round_finished(report=report)
    assert json.loads(capsys.readouterr().err)["notes"] == list(told)


def test_a_chunk_that_was_asked_again_is_told_and_kept(
    toy: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory for two clients at once: four become two and two, and the model is the one that four would have made."""
    flags = ["--model", "logreg", "--rounds", "1", "--clients-per-round", "4"]
    assert run(["train", str(toy.path), *flags, "--out", str(tmp_path / "whole")]) == 0
    gather = ClientRuntime.gather

    def scarce(self: ClientRuntime, numbers: IntArray, work: Work, each: bool) -> Gathered:
        if len(numbers) > 2:
            raise MemoryError
        return gather(self, numbers, work, each)

    monkeypatch.setattr(ClientRuntime, "gather", scarce)
    capsys.readouterr()
    assert run(["train", str(toy.path), *flags, "--out", str(tmp_path / "halves")]) == 0
    note = "4 clients asked again in two halves: no memory for 4 clients at once"
    assert f"warning: round 1: {note}\n" in capsys.readouterr().err
    whole, halves = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("whole", "halves"))
    assert (whole["notes"], halves["notes"]) == ([], [note])
    assert (whole["answered"], whole["test_loss"]) == (halves["answered"], pytest.approx(halves["test_loss"], 1e-5))
    assert run(["runs", "show", str(tmp_path / "halves")]) == 0
    assert f"note: round 1: {note}" in capsys.readouterr().out


PRINTING = """
import torch
print("imported")

class Net(torch.nn.Linear):
    def forward(self, x):
        print("forward")
        return super().forward(x)

def make(data):
    print("built")
    return Net(data.shape[0], data.outputs)
"""


def test_code_of_users_prints_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(PRINTING)
    Path("rows.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 3},{'pq'[i % 2]}\n" for i in range(20)))
    commands = [
        ["partition", "rows.csv", "--target", "y", "--clients", "2", "--no-report", "--out", "parts"],
        ["config", "show", "-o", "model.name=net.py:make"],
        [
            "train",
            "parts",
            "--model",
            "net.py:make",
            "--rounds",
            "1",
            "--out",
            "run",
            "-o",
            "engine.executor=sequential",
        ],
        ["eval", "run"],
    ]
    for command in commands:
        assert run([*command, "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["ok"], command
        assert command[0] in ("partition", "config") or "built" in printed.err
    assert run(["predict", "run", "rows.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "row,prediction,p:p,p:q"
