"""What an aggregator's halves know of a run: where it may keep things, what clients are asked, and where notes go."""

import copy
import json

import numpy as np
import pytest
from support import ScriptedEngine, make_run, toy_partition, train_run

import flctl
from flctl.engines.inprocess import InProcessEngine
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.types import Failure


class Curious(flctl.Aggregator):
    """Sums after a phase without training, and notes what it saw."""

    name = "curious"
    directory = None

    def placed(self, run):
        placed = copy.copy(self)
        placed.directory = run.directory
        return placed

    def server(self, ctx):
        first = yield flctl.Phase(dict.fromkeys(ctx.cohort, b""), trains=False)
        ctx.note(f"{self.directory.name}: {len(list(first))} there")
        for attempt in (1, 2):
            total = flctl_sum(ctx)
            for client, reply in (yield flctl.Phase(dict.fromkeys(ctx.cohort, b"%d" % attempt), trains=True)):
                total.add(client, reply)
            ctx.note(f"attempt {attempt}: {digest(ctx.work)}")
        return total.aggregate()

    def client(self, memory, message, vector, ctx):
        if vector is None:
            assert ctx.work is None
            return b"", b""
        (self.directory / f"seen-{ctx.client_id}").write_text(digest(ctx.work))
        return b"", flctl.pack("vector", arrays=vector)


def flctl_sum(ctx):
    from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateIntake

    return SumAccumulator(UpdateIntake(ctx.layout))


def digest(work):
    return f"{work.round} {float(np.sum(work.params['params'], dtype=np.float64)):.12g}"


@pytest.fixture
def registry():
    plugin = type("Plugin", (), {"flctl_aggregators": staticmethod(flctl.hookimpl(lambda: [Curious]))})
    registry = Registry()
    registry.add(plugin(), "curious")
    return registry


def test_both_halves_see_the_run_s_directory_and_the_same_work(tmp_path, registry):
    toy = toy_partition(tmp_path / "p")
    result = train_run(toy, tmp_path / "run", "aggregator=curious", "rounds=1", "engine=inprocess", registry=registry)
    (line,) = [json.loads(text) for text in (result.directory.path / "metrics.jsonl").read_text().splitlines()]
    seen = {path.read_text() for path in result.directory.path.glob("seen-*")}
    assert line["notes"][0] == "run: 4 there"
    assert {f"attempt 1: {one}" for one in seen} == {line["notes"][1]}
    assert len(list(result.directory.path.glob("seen-*"))) == 4


class FailsOnce(ScriptedEngine):
    """Loses a client in the first phase that trains, and not in the second."""

    def exchange(self, requests, deadline=None):
        again = any(request.message == b"2" for request in requests.values())
        trains = any(request.work is not None for request in requests.values())
        for client, answer in self.inner.exchange(requests, deadline):
            yield client, self.failures.get(client, answer) if trains and not again else answer


def test_a_client_that_answers_a_later_attempt_keeps_what_it_remembers(tmp_path, registry):
    """SCAFFOLD's clients remember; one that was lost in the first attempt took part in the second all the same."""
    toy = toy_partition(tmp_path / "p")
    chosen = ("aggregator=curious", "strategy=scaffold", "rounds=1", "engine.max_failures=1")
    run, _ = make_run(toy, tmp_path / "run", *chosen, registry=registry)
    engine = InProcessEngine()
    with engine.open(run):
        rounds = Rounds(run, engine)
        lost = rounds.plan(rounds.initial()).cohort[0]
        rounds.engine = FailsOnce(engine, {lost: Failure("exception", "lost")})
        rounds.play(rounds.initial(), last=lambda seconds: True)
        assert rounds.memory.newest(run.partition.index(lost), 2) is not None
