"""Rounds without a sum: the model stays, the run continues, and the reasons that clients gave are kept by name."""

from __future__ import annotations

import numpy as np
import pytest
from support import ScriptedEngine, make_run, untimed_lines

import flctl
from flctl.algorithms.aggregators.plain import PlainAggregator
from flctl.algorithms.transforms.clip import Clip
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ProtocolError, RoundLostError
from flctl.plugins.registry import Registry
from flctl.server.collect import refusals
from flctl.server.rounds import Rounds
from flctl.server.training import train
from flctl.types import Failure

REFUSED = Failure("refused", "shares were opened before")


class Losing(PlainAggregator):
    """The plain sum, but that of round 2 is lost after its clients have answered."""

    name = "losing"
    transparent = False
    error: type[ProtocolError] = RoundLostError

    def server(self, ctx):
        found = yield from super().server(ctx)
        if ctx.round == 2:
            raise self.error("round 2: no sum")
        return found


class Ending(Losing):
    name = "ending"
    error = ProtocolError


class EachRound(PlainAggregator):
    name = "each-round"
    answers_once = True


class Unskippable(Clip):
    name = "unskippable"
    skips_rounds = False


class Plugin:
    @staticmethod
    @flctl.hookimpl
    def flctl_aggregators():
        return [Losing, Ending, EachRound]

    @staticmethod
    @flctl.hookimpl
    def flctl_transforms():
        return [Unskippable]


def run_of(toy, path, *overrides):
    registry = Registry()
    registry.add(Plugin(), "losing")
    return make_run(toy, path / "run", *overrides, registry=registry)


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedadam"])
def test_a_lost_round_leaves_model_state_and_client_memory(toy, tmp_path, strategy):
    run, _ = run_of(toy, tmp_path, "aggregator=losing", f"strategy={strategy}", "cohort.sampling=all")
    with InProcessEngine().open(run) as engine:
        rounds = Rounds(run, engine)
        first, _ = rounds.play(rounds.initial(), last=lambda _: False)
        lost, report = rounds.play(first, last=lambda _: False)
        third, _ = rounds.play(lost, last=lambda _: False)
    assert lost.round == 2
    np.testing.assert_array_equal(lost.params["params"], first.params["params"])
    for name, vector in first.strategy.items():
        np.testing.assert_array_equal(lost.strategy[name], vector)
    assert (report.released, report.answered, report.notes) == (False, 0, ("round 2: no sum",))
    assert not np.array_equal(third.params["params"], lost.params["params"])
    if run.memory_layout:
        assert rounds.memory.newest(0, 3)[0] == 1  # round 3 builds on the memory of round 1


def test_a_run_continues_after_a_lost_round_and_ends_at_any_other_error(toy, tmp_path):
    run, directory = run_of(toy, tmp_path, "aggregator=losing", "rounds=3")
    assert train(run, directory).rounds == 3
    assert [line["answered"] for line in untimed_lines(directory.path)] == [4, 0, 4]
    run, directory = run_of(toy, tmp_path / "other", "aggregator=ending", "rounds=3")
    with pytest.raises(ProtocolError, match="round 2: no sum"):
        train(run, directory)


def test_a_transform_whose_state_needs_every_sum_ends_the_run(toy, tmp_path):
    run, directory = run_of(toy, tmp_path, "aggregator=losing", "transforms={unskippable: {norm: 1.0}}", "rounds=3")
    with pytest.raises(RoundLostError):
        train(run, directory)


def test_clients_that_refused_are_named_with_their_reasons(toy, tmp_path):
    run, _ = run_of(toy, tmp_path, "aggregator=losing", "engine.max_failures=9", "cohort.sampling=all")
    with ScriptedEngine(InProcessEngine(), {"3": REFUSED, "5": REFUSED}).open(run) as engine:
        rounds = Rounds(run, engine)
        state, _ = rounds.play(rounds.initial(), last=lambda _: False)
        _, report = rounds.play(state, last=lambda _: False)
    assert report.notes == ("round 2: no sum; client '3' and 1 other refused: shares were opened before",)
    assert refusals({"a": Failure("exception", "died")}) == []


def test_an_aggregator_whose_clients_answer_once_has_a_checkpoint_after_each_round(toy, tmp_path):
    for name, expected in (("plain", [0, 4]), ("each-round", [0, 1, 2, 3, 4])):
        run, directory = run_of(toy, tmp_path / name, f"aggregator={name}", "checkpoint.every=9", "rounds=4")
        saved = []
        original = directory.checkpoints.save
        directory.checkpoints.save = lambda c, m, s=saved, o=original: (s.append(c.round), o(c, m))
        train(run, directory)
        assert sorted(set(saved)) == expected
