"""Clients whose replies are not awaited any more are cancelled, and clients' progress is announced."""

import io
import json
import sys

import pytest
from support import make_run
from support.runs import OneByOne

from flctl import hookimpl
from flctl.engines.progress import announce_progress
from flctl.errors import RoundFailedError
from flctl.plugins.registry import Registry
from flctl.report.progress import JsonEvents, PlainLines, progress_text
from flctl.server.rounds import Rounds
from flctl.types import ClientProgress, Failure


class Cancelling(OneByOne):
    """Yields scripted failures first, and records who is told to stop."""

    name = "cancelling"

    def __init__(self, *kinds):
        super().__init__()
        self.kinds, self.cancelled = kinds, []

    def exchange(self, requests, deadline=None):
        asked = sorted(requests)  # the order of the cohort
        for client, kind in zip(asked, self.kinds, strict=False):
            yield client, Failure(kind, "scripted")
        yield from super().exchange({client: requests[client] for client in asked[len(self.kinds) :]}, deadline)

    def cancel(self, clients):
        self.cancelled.append(list(clients))


def played_round(toy, path, engine, *settings):
    run, _ = make_run(toy, path, *settings)
    with engine.open(run):
        rounds = Rounds(run, engine)
        state = rounds.initial()
        cohort = rounds.plan(state).cohort
        rounds.play(state, last=lambda seconds: False)
    return cohort


def test_a_round_that_fails_cancels_the_clients_that_have_not_answered(toy, tmp_path):
    engine = Cancelling("exception")
    with pytest.raises(RoundFailedError):
        played_round(toy, tmp_path / "run", engine)
    ((*cancelled,),) = engine.cancelled
    run, _ = make_run(toy, tmp_path / "same")
    with engine.open(run):
        rounds = Rounds(run, engine)
        assert cancelled == sorted(rounds.plan(rounds.initial()).cohort[1:])


@pytest.mark.parametrize(("kind", "told"), [("away", 1), ("deadline", 1), ("stalled", 1), ("exception", 0)])
def test_a_phase_that_ends_without_a_client_cancels_it_if_it_may_still_be_at_work(kind, told, toy, tmp_path):
    engine = Cancelling(kind)
    cohort = played_round(toy, tmp_path / "run", engine, "engine.max_failures=1")
    assert engine.cancelled == [[cohort[0]]] * told


class Broken:
    @hookimpl
    def flctl_client_progress(self, progress):
        raise RuntimeError("the display is broken")


PROGRESS = [ClientProgress("a\x1b", 3, "fetched"), ClientProgress("a", 3, "training", 34, 90)]


def test_progress_reaches_observers_and_their_exceptions_stay_out_of_the_round(toy, tmp_path, monkeypatch):
    registry = Registry()
    run, _ = make_run(toy, tmp_path / "run", registry=registry)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name, observer in (("plain", PlainLines()), ("json", JsonEvents())):
        registry.manager.register(observer, name)
        for progress in PROGRESS:
            announce_progress(run, progress)
        registry.manager.unregister(name=name)
    registry.manager.register(Broken(), "broken")
    announce_progress(run, PROGRESS[0])
    plain, *events = sys.stderr.getvalue().splitlines()
    assert plain == "round 3: a  fetched"
    assert json.loads(events[1]) == {"event": "client", "client": "a", "round": 3, "stage": "training", "step": 34,
                                     "steps": 90}  # fmt: skip
    assert progress_text(PROGRESS[1]) == "a step 34 of 90"
