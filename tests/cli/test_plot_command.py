"""`flctl plot curves`: the picture and the numbers beside it are those of metrics.jsonl."""

import csv
import json

import pytest
from support import train_run, untimed_lines

from flctl.cli import run as cli


@pytest.fixture(scope="module")
def runs(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    train_run(toy, folder / "plain", "rounds=4")
    train_run(toy, folder / "half", "rounds=4", "eval.every=2", "transforms=[float16]")
    train_run(toy, folder / "clocked", "rounds=4", "eval.every=2", "devices.speed=3", "devices.speed_jitter=0.5")
    return folder


@pytest.fixture(autouse=True)
def inside(runs, monkeypatch):
    monkeypatch.chdir(runs)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_numbers_are_sums_up_to_each_evaluation(runs, tmp_path, capsys):
    out = tmp_path / "c.svg"
    assert cli(["plot", "curves", "plain", "half", "--x", "bytes", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert told == {
        "metric": "accuracy",
        "x": "bytes",
        "runs": ["plain", "half"],
        "written": [str(out), str(tmp_path / "c.csv")],
    }
    rows = table(tmp_path / "c.csv")
    evaluated = [("plain", "1"), ("plain", "2"), ("plain", "3"), ("plain", "4"), ("half", "2"), ("half", "4")]
    assert [(row["run"], row["round"]) for row in rows] == evaluated
    lines = untimed_lines(runs / "half")
    assert int(rows[-1]["bytes-up"]) == sum(line["bytes_up"] for line in lines)
    assert int(rows[-1]["bytes"]) == sum(line["bytes_up"] + line["bytes_down"] for line in lines)
    assert float(rows[-1]["accuracy"]) == lines[-1]["accuracy"]
    drawn = out.read_text(encoding="utf-8")
    for words in (">plain<", ">half<", "kB sent, upload and download of all clients", "Accuracy by bytes"):
        assert words in drawn


@pytest.mark.parametrize("x", ["round", "bytes-up", "seconds"])
def test_other_axes_and_metrics(x, tmp_path):
    out = tmp_path / "c.png"
    assert cli(["plot", "curves", "plain", "--x", x, "--metric", "test_loss", "--out", str(out)]) == 0
    assert out.stat().st_size > 5000
    values = [float(row[x]) for row in table(tmp_path / "c.csv")]
    assert values == sorted(values)
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plain", "--x", "byte"], 2, "Did you mean 'bytes'?"),
        (["plain", "--metric", "auroc"], 2, "no run has a value of 'auroc'"),
        (["plain", "--out", "c.jpg"], 2, "does not end in .png or .svg"),
        (["nowhere"], 2, "nowhere is not a run"),
        ([__file__], 2, "is a file, not the directory of a run"),
        (["clocked", "plain", "--x", "simulated-seconds"], 2, "plain has no simulated seconds"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, code, says, capsys):
    assert cli(["plot", "curves", *arguments]) == code
    assert says in capsys.readouterr().err


def test_simulated_seconds_add_up_like_real_ones(runs, tmp_path):
    out = tmp_path / "c.svg"
    assert cli(["plot", "curves", "clocked", "--x", "simulated-seconds", "--out", str(out)]) == 0
    seconds = [line["devices"]["seconds"] for line in untimed_lines(runs / "clocked")]
    assert len(set(seconds)) == 4
    found = [float(row["simulated-seconds"]) for row in table(tmp_path / "c.csv")]
    assert found == pytest.approx([sum(seconds[:2]), sum(seconds)], abs=1e-5)
    assert "Accuracy by simulated seconds" in out.read_text(encoding="utf-8")
    assert cli(["plot", "curves", "plain", "--out", str(tmp_path / "p.svg")]) == 0
    assert "simulated-seconds" not in table(tmp_path / "p.csv")[0]


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / "c.csv").write_text("mine")
    assert cli(["plot", "curves", "plain", "--out", str(tmp_path / "c.png")]) == 2
    assert (tmp_path / "c.csv").read_text() == "mine"
    assert not (tmp_path / "c.png").exists()
