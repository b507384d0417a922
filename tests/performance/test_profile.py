"""`flctl train --profile`: seconds by phase that add up, kept beside the run and shown."""

import json

import pytest
from support import make_run, slow_but, train_run

from flctl.cli import run as cli
from flctl.cli.profiles import render
from flctl.machine import process_age
from flctl.performance import profile as profiles
from flctl.performance.profile import PHASES, Profiler, phases_of
from flctl.report.phases import draw_phases
from flctl.server.training import Started, TrainingResult
from flctl.types import RoundReport

QUICK = ("--model", "logreg", "--rounds", "4", "--clients-per-round", "4", "--seed", "7")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def line(work=None, **seconds):
    return {"round": 1, "seconds": seconds, "work": work or {}}


def test_workers_seconds_are_divided_by_the_workers():
    """The server waited 5 s for two workers that loaded for 1 s, trained for 6 s and transformed for 1 s together."""
    found = phases_of(
        line(
            {"load": 1, "train": 6, "transform": 1}, total=8, select=0.5, train=5, aggregate=1, evaluate=1, checkpoint=2
        ),
        workers=2,
    )
    assert found == {
        "select": 0.5,
        "load": 0.5,
        "train": 3.0,
        "transform": 0.5,
        "wait": 1.0,
        "aggregate": 1,
        "evaluate": 1,
        "checkpoint": 2,
        "other": 0.5,
    }
    assert sum(found.values()) == 8 + 2


def test_without_clients_seconds_all_of_the_waiting_is_training():
    found = phases_of(line(total=3, select=1, train=2), workers=2)
    assert {name: value for name, value in found.items() if value} == {"select": 1, "train": 2}
    old = {"round": 1, "seconds": {"total": 2, "train": 2}}
    assert phases_of(old, 1)["train"] == 2


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""

    class Set:
        now = 100.0

    monkeypatch.setattr(profiles.time, "perf_counter", lambda: Set.now)
    return Set


def report(number, **seconds):
    work = {"load": 1.0, "train": 5.0}
    return RoundReport(number, 4, 4, {}, 80, 0.5, seconds, 10, 10, {}, work=work)


def test_a_profile_adds_up_to_the_wall_clock(toy, tmp_path, clock):
    """By hand. Start-up: 2 s python, 3 s imports, 4 s until the engine opens, 5 s of opening with a checkpoint of 1 s
    that the first round's line counts. Rounds: 20 s on the wall, of which lines know 2 x 8 s and the checkpoint;
    the last checkpoint takes 1.5 s more. Pictures: 2 s."""
    run, directory = make_run(toy, tmp_path / "x", "engine.workers=2")
    profiler = Profiler({"python": 2.0, "imports": 3.0})
    clock.now = 104.0
    profiler.opening()
    clock.now = 109.0
    profiler.flctl_run_started(run=Started(run, directory, 0, 2, saving=1.0))
    profiler.flctl_round_finished(report=report(1, total=8.0, select=1.0, train=4.0, aggregate=2.0, checkpoint=1.0))
    profiler.flctl_round_finished(report=report(2, total=8.0, select=1.0, train=4.0, evaluate=3.0, checkpoint=0.0))
    clock.now = 129.0
    profiler.flctl_run_finished(result=TrainingResult(directory, "finished", 2, {}, saving=1.5))
    clock.now = 131.0
    data = profiler.finish().data()
    assert data["startup"] == {"python": 2.0, "imports": 3.0, "run": 4.0, "engine": 4.0}
    assert data["phases"] == {
        "select": 2.0,
        "load": 1.0,
        "train": 5.0,
        "transform": 0.0,
        "wait": 2.0,
        "aggregate": 2.0,
        "evaluate": 3.0,
        "checkpoint": 2.5,
        "other": 3.5,
    }
    # The first checkpoint is a round's, not the start's: 13 + 21 + 2 from the process's start to its end.
    assert data["seconds"] == {"total": 36.0, "startup": 13.0, "rounds": 21.0, "finish": 2.0}
    assert data["utilisation"] == 12 / (2 * 8)
    assert (data["rounds"], data["workers"], len(data["each"])) == ({"first": 1, "last": 2}, 2, 2)


def test_a_profiled_run_keeps_a_profile_of_its_lines(toy, tmp_path, capsys):
    assert cli(["train", str(toy.path), *QUICK, "--profile", "--out", "x", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]["profile"]
    kept = json.loads((tmp_path / "x" / "profile.json").read_text())
    assert told == {name: part for name, part in kept.items() if name != "each"}
    lines = [json.loads(text) for text in (tmp_path / "x" / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in kept["each"]] == [1, 2, 3, 4]
    for row, of_round in zip(kept["each"], lines, strict=True):
        assert list(row) == ["round", *PHASES]
        whole = of_round["seconds"]["total"] + of_round["seconds"]["checkpoint"]
        assert sum(row[name] for name in PHASES) == pytest.approx(whole, abs=1e-4)
        assert row["train"] == pytest.approx(of_round["work"]["train"], abs=2e-6)
    for name in set(PHASES) - {"checkpoint", "other"}:
        assert kept["phases"][name] == pytest.approx(sum(row[name] for row in kept["each"]), abs=1e-5)
    parts = kept["seconds"]
    assert parts["total"] == pytest.approx(parts["startup"] + parts["rounds"] + parts["finish"], abs=1e-5)
    assert sum(kept["phases"].values()) == pytest.approx(parts["rounds"], abs=1e-4)
    assert 0 < kept["utilisation"] <= 1
    assert (tmp_path / "x" / "profile.png").read_bytes().startswith(b"\x89PNG")

    assert cli(["runs", "show", "x"]) == 0
    shown = capsys.readouterr().out
    assert "start-up: imports" in shown
    assert "the training process worked" in shown
    assert cli(["runs", "show", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["profile"] == kept


def test_a_resume_profiles_its_own_rounds(toy, tmp_path, capsys):
    train_run(toy, tmp_path / "x", "rounds=2")
    assert not (tmp_path / "x" / "profile.json").exists()
    assert cli(["train", "--resume", "x", "--rounds", "5", "--profile"]) == 0
    assert "rounds 3 to 5" in capsys.readouterr().out
    assert json.loads((tmp_path / "x" / "profile.json").read_text())["rounds"] == {"first": 3, "last": 5}
    # And where nothing is left to do, there is a profile of that.
    assert cli(["train", "--resume", "x", "--profile"]) == 0
    kept = json.loads((tmp_path / "x" / "profile.json").read_text())
    assert (kept["each"], kept["utilisation"]) == ([], None)


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"format": "flctl-profile/1", "each": []}', '{"format": "flctl-profile/2"}']
)
def test_a_damaged_profile_is_named(toy, tmp_path, capsys, content):
    make_run(toy, tmp_path / "x")
    (tmp_path / "x" / "profile.json").write_text(content)
    assert cli(["runs", "show", "x", "--json"]) == 6
    assert "profile.json" in json.loads(capsys.readouterr().out)["error"]["message"]


def example(rounds):
    row = {"select": 0.001, "load": 0.002, "train": 0.01, "wait": 0.004, "aggregate": 0.001}
    each = [{"round": number, **dict.fromkeys(PHASES, 0.0), **row} for number in range(1, rounds + 1)]
    phases = {name: sum(one[name] for one in each) for name in PHASES}
    seconds = {"startup": 3.0, "rounds": sum(phases.values()), "finish": 1.0}
    return {
        "workers": 2,
        "rounds": {"first": 1, "last": rounds},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "startup": {"python": 1.0, "imports": 2.0},
        "phases": phases,
        "utilisation": 0.75,
        "each": each,
    }


@pytest.mark.parametrize("rounds", slow_but([1, 500], 1))
def test_a_profile_is_drawn_whatever_its_length(tmp_path, rounds):
    first, second = (draw_phases(example(rounds), tmp_path / f"{name}.png").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(b"\x89PNG")


def test_shares_and_milliseconds_a_round_are_told(capsys):
    """100 rounds of 18 ms are 1.8 s of 5.8 s."""
    from rich.console import Console

    render(Console(width=100), example(100))
    rows = {text.split()[0]: text.split()[1:] for text in capsys.readouterr().out.splitlines() if text.strip()}
    assert rows["train"] == ["1.000", "17.2%", "10.00"]
    assert rows["finish"] == ["1.000", "17.2%"]
    assert rows["total"] == ["5.800", "100.0%", "18.00"]
    assert rows["2"][:3] == ["workers", "worked", "75%"]
    assert "transform" not in rows


def test_a_process_knows_its_age():
    age = process_age()
    assert age is None or age > 0
