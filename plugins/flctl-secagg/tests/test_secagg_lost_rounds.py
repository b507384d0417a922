"""No client ends a run: rounds that fail after shares were opened are burnt, and published sums are in the journal."""

import json
import os
import re

import numpy as np
import pytest
from flctl_secagg.client import client as client_module
from flctl_secagg.client.client import Client
from flctl_secagg.crypto.masks import add_masks
from flctl_secagg.protocol import frames
from flctl_secagg.server.journal import JOURNAL, Journal, Outcome, chained
from test_secagg_runs import ENGINE, faulty, notes_of

from flctl import IntegrityError, ProtocolError
from flctl.algorithms.aggregator import AggregationContext
from flctl.engines.inprocess import InProcessEngine
from flctl.server.rounds import Rounds
from flctl.testing.trial import Trial
from flctl.types import WEIGHT

ACTIVE = "aggregator={name: secagg, mode: active, differing: allow}"


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), "model=mlp")


def lines_of(result):
    return [json.loads(text) for text in (result.directory / "metrics.jsonl").read_text().splitlines()]


def test_four_of_nine_that_vanish_while_shares_are_opened_burn_the_round_and_no_more(trial):
    """t = 6 of 8 neighbours: five answer. The next round is held with all nine, and gives a sum."""
    registry = faulty({(frames.UNMASK, 1): tuple("1234")})
    result = trial.train("rounds=3", ACTIVE, ENGINE, registry=registry)
    assert [line["answered"] for line in lines_of(result)] == [0, 9, 9]
    (note, lost) = lines_of(result)[0]["notes"]
    assert "opened shares" in note
    assert "round 1 is lost, and the model is unchanged" in lost
    outcomes = Journal(result.directory / "secagg").outcomes()
    assert [(one.round, one.end) for one in outcomes] == [(1, "burnt"), (2, "summed"), (3, "summed")]


def test_a_client_that_is_lost_for_good_while_shares_are_opened_leaves_the_others_a_run(trial):
    """It and three others vanish in round 1; it alone stays away afterwards."""
    script = {(frames.UNMASK, 1): tuple("1234")} | {(frames.HELLO, number): ("4",) for number in (2, 3)}
    result = trial.train("rounds=3", ACTIVE, ENGINE, registry=faulty(script))
    assert [line["answered"] for line in lines_of(result)] == [0, 8, 8]


def test_too_many_burnt_rounds_in_a_row_end_the_run(trial):
    script = {(frames.UNMASK, number): tuple("01234") for number in (1, 2, 3)}
    with pytest.raises(
        ProtocolError, match="round 2 and the 1 before it ended without a sum after shares were opened"
    ) as caught:
        trial.train("rounds=3", "aggregator={name: secagg, burnt: 1}", ENGINE, registry=faulty(script))
    assert caught.value.exit_code == 3


def test_a_client_that_forges_its_count_burns_the_round_and_the_note_says_so(trial, monkeypatch):
    forging = []

    def step(self, *given):
        forging[:] = [self.me]
        return original(self, *given)

    def forged(words, streams):
        if forging == ["3"] and rounds[-1] == 1:
            words[-1] = 2
        add_masks(words, streams)

    rounds, original, plan = [], Client.step, Rounds.plan
    monkeypatch.setattr(Rounds, "plan", lambda self, state: (rounds.append(state.round + 1), plan(self, state))[1])
    monkeypatch.setattr(Client, "step", step)
    monkeypatch.setattr(client_module, "add_masks", forged)
    result = trial.train("rounds=2", "aggregator=secagg", "engine=inprocess")
    assert [line["answered"] for line in lines_of(result)] == [0, 9]
    assert "the unmasked sum is not that of 9 clients: the sum counts 10 clients" in notes_of(result)[-1]


class StoppedError(BaseException):
    """Stands for SIGKILL in this process."""


def test_a_server_that_was_stopped_repeats_no_published_round_and_is_not_stuck_in_the_next(trial):
    """Stopped in R4 of round 2 with the checkpoint of round 0, and client 4 is gone for good: round 1 comes from the
    journal, round 2 is burnt, and round 3 gives a sum."""
    engine_of = lambda script: faulty(script).get("engine", "faulty")()  # noqa: E731
    run, _ = trial.prepare("rounds=3", "aggregator={name: secagg, differing: allow}", ENGINE, registry=faulty({}))
    engine = engine_of({})
    exchange = engine.exchange

    def stopped(requests, deadline=None):
        yield from exchange(requests, deadline)
        if engine._seen[-1] == frames.UNMASK and engine._seen.count(frames.UNMASK) == 2:
            raise StoppedError

    engine.exchange = stopped
    with engine.open(run):
        rounds = Rounds(run, engine)
        first, _ = rounds.play(rounds.initial(), last=lambda _: False)
        with pytest.raises(StoppedError):
            rounds.play(first, last=lambda _: False)
    resumed = engine_of({(frames.HELLO, number): ("4",) for number in range(1, 9)})
    with resumed.open(run):
        rounds = Rounds(run, resumed)
        again, report = rounds.play(rounds.initial(), last=lambda _: False)
        assert resumed._seen == []  # no client was asked
        np.testing.assert_array_equal(again.params["params"], first.params["params"])
        assert report.notes == ("the sum was published before the run was stopped, and is read from the journal",)
        second, report = rounds.play(again, last=lambda _: False)
        assert (report.answered, report.released) == (0, False)
        assert "refused: in round 2, shares were opened for other survivors before" in report.notes[-1]
        third, report = rounds.play(second, last=lambda _: False)
    assert (third.round, report.answered) == (3, 8)


def test_a_sum_of_other_work_or_that_was_changed_is_not_taken(trial):
    result = trial.train("rounds=1", "aggregator=secagg", "engine=inprocess")
    journal = Journal(result.directory / "secagg")
    (path,) = (journal.path / "sums").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    header = json.loads(path.read_bytes().partition(b"\n")[0])
    asked = json.loads(header["parameters"])
    assert journal.sum_of(asked["run"], 1, asked["work"]).survivors == tuple(map(str, range(9)))
    assert journal.sum_of(asked["run"], 1, "0" * 64) is None
    assert journal.sum_of("another", 1, asked["work"]) is None
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert journal.sum_of(asked["run"], 1, asked["work"]) is None
    path.write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="is not a published sum"):
        journal.sum_of(asked["run"], 1, asked["work"])


def test_a_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    journal = Journal(tmp_path)
    one, two = Outcome(1, "aa", "burnt"), Outcome(2, "bb", "summed", ("a", "b"), "cc")
    journal.record(one)
    head = journal.head()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(two.line()[:20])
    assert (journal.outcomes(), journal.head()) == ([one], head)
    journal.record(two)
    assert journal.outcomes() == [one, two]
    assert [found for found, _ in chained([one, two])][1] == head != journal.head()
    (tmp_path / JOURNAL).write_bytes(b"[]\n")
    with pytest.raises(IntegrityError, match="not the outcome of a session"):
        journal.outcomes()


def test_the_server_draws_its_nonce_from_the_round(trial):
    """A run that records the round's fresh bytes repeats the session when it repeats the round."""
    run, _ = trial.prepare("aggregator=secagg")
    with InProcessEngine().open(run) as engine:
        rounds = Rounds(run, engine)
        plan = rounds.plan(rounds.initial())

    def nonces(fresh):
        ctx = AggregationContext(1, plan.cohort, {**run.update_layout, WEIGHT: 1}, lambda: None, plan.work, fresh=fresh)
        opening = next(run.aggregator.server(ctx)).messages
        return {re.search(rb'"nonce":"(\w+)"', message).group(1) for message in opening.values()}

    assert nonces(bytes) == nonces(bytes) == {b"00" * 32}
    assert nonces(os.urandom) != nonces(os.urandom)
