"""Clients that are away when a round starts: not asked, waited for, named."""

from contextlib import contextmanager

import pytest
from support import checkpoint_digests, make_run, train_run, untimed_lines

from flctl.engines.inprocess import InProcessEngine
from flctl.errors import RoundFailedError
from flctl.plugins.hookspecs import hookimpl
from flctl.run.run import Run
from flctl.server import availability
from flctl.server.training import Training


class Intermittent(InProcessEngine):
    """Clients that are available as a script says: one set of clients for each look, the last of them for ever."""

    name = "intermittent"

    def __init__(self, looks):
        super().__init__()
        self.looks = list(looks)

    @contextmanager
    def open(self, run):
        with super().open(run):
            yield self

    def available(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]


class Waits:
    """Records the rounds that wait."""

    def __init__(self):
        self.seen = []

    @hookimpl
    def flctl_round_waits(self, waiting):
        self.seen.append(waiting)


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    monkeypatch.setattr(availability, "POLL_SECONDS", 0)


def train(toy, path, looks, *settings, interrupted=availability.never):
    run, directory = make_run(toy, path, "cohort.sampling=all", "rounds=2", "engine.alone=true", *settings)
    waits = Waits()
    run.registry.manager.register(waits)
    engine = Intermittent(looks)
    with directory.locked(), engine.open(run):
        return Training(run, directory, engine, interrupted).finish(), waits.seen


ALL = frozenset(str(index) for index in range(10))


def test_an_engine_whose_clients_are_all_there_gives_the_same_bits(toy, tmp_path):
    train(toy, tmp_path / "watched", [ALL])
    train_run(toy, tmp_path / "plain", "cohort.sampling=all", "rounds=2", "engine.alone=true")
    assert checkpoint_digests(tmp_path / "watched") == checkpoint_digests(tmp_path / "plain")


def test_a_client_that_is_away_is_not_asked_and_comes_back_in_a_later_round(toy, tmp_path):
    _, waits = train(toy, tmp_path / "run", [ALL - {"3", "7"}, ALL])
    first, second = untimed_lines(tmp_path / "run")
    assert (first["asked"], first["answered"], first["failed"]) == (8, 8, {})
    assert first["notes"] == ["not asked, because they were away: 3, 7"]
    assert (second["asked"], second["notes"]) == (10, [])
    assert waits == []


def test_a_round_waits_for_the_clients_that_it_needs_and_says_for_whom(toy, tmp_path):
    looks = [ALL - {"3", "7"}, ALL - {"3", "7"}, ALL - {"3"}, ALL]
    result, waits = train(toy, tmp_path / "run", looks, "engine.minimum=10")
    assert result.status == "finished"
    assert [(one.round, one.away, one.present, one.needed) for one in waits] == [
        (1, ("3", "7"), 8, 10),
        (1, ("3",), 9, 10),
    ]
    assert all(line["asked"] == 10 for line in untimed_lines(tmp_path / "run"))


def test_a_round_that_waited_long_enough_fails_with_the_clients_that_are_away(toy, tmp_path):
    with pytest.raises(RoundFailedError, match="8 of the 9 clients that it needs are available after 1e-09 s") as error:
        train(toy, tmp_path / "run", [ALL - {"3", "7"}], "engine.minimum=9", "engine.wait=1e-9")
    assert "away: 3, 7" in error.value.message
    assert "flctl train --resume" in error.value.hint


def test_a_run_that_is_interrupted_while_it_waits_ends_with_a_checkpoint(toy, tmp_path):
    looks, asked = [ALL, frozenset()], []

    def interrupted():
        asked.append(True)
        return len(asked) > 3

    result, _ = train(toy, tmp_path / "run", looks, interrupted=interrupted)
    assert (result.status, result.rounds) == ("interrupted", 1)
    assert result.directory.checkpoints.rounds()[-1] == 1


def test_clients_of_a_secret_cohort_are_counted_and_never_named(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "secret_cohort", True)
    _, waits = train(toy, tmp_path / "run", [ALL - {"3"}, ALL - {"3"}, ALL - {"7"}, ALL], "engine.minimum=10")
    assert [(one.away, one.present) for one in waits] == [((), 9)]
    train(toy, tmp_path / "other", [ALL - {"3", "7"}, ALL])
    first, _ = untimed_lines(tmp_path / "other")
    assert first["notes"] == ["not asked, because they were away: 2 clients of the secret cohort"]
