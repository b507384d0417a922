"""The check of models: a checkpoint follows from the aggregates of the rounds before it, or is found to be changed."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from flctl import IntegrityError
from flctl.server import rounds as round_loop
from flctl.server.model_check import RecordedRound, check_models
from flctl.server.step import server_step
from flctl.server.training import train
from flctl.testing.trial import Trial


@dataclass
class Recorded:
    """A run with the aggregates and the models that its rounds worked with."""

    run: object
    directory: object
    rounds: list = field(default_factory=list)

    def step(self, run, model, state, aggregate, plan):
        sent = plan.work.params["params"].copy()
        self.rounds.append(
            RecordedRound(plan.round, plan.cohort, aggregate, lambda work: np.array_equal(work.params["params"], sent))
        )
        return server_step(run, model, state, aggregate, plan)

    def check(self, rounds=None):
        return check_models(self.run, self.directory, self.rounds if rounds is None else rounds)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    trial = Trial(tmp_path_factory.mktemp("checked"), "checkpoint.every=1", "engine=inprocess")
    found = Recorded(*trial.prepare("rounds=2", "strategy=fedavgm"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(round_loop, "server_step", found.step)
        train(found.run, found.directory)
    return found


def test_models_are_recomputed_from_the_initial_weights_and_the_aggregates(recorded):
    assert recorded.check() == {0: "recomputed", 1: "recomputed", 2: "recomputed"}


def test_another_aggregate_gives_another_model(recorded):
    first, second = recorded.rounds
    aggregate = first.aggregate
    other = replace(aggregate, arrays={name: 2 * vector for name, vector in aggregate.arrays.items()})
    with pytest.raises(IntegrityError, match="checkpoint of round 1 has another model than the recorded sums give"):
        recorded.check([replace(first, aggregate=other), second])
    with pytest.raises(IntegrityError, match="checkpoint of round 1 has another model"):
        recorded.check([replace(first, aggregate=None), second])


def test_work_that_does_not_follow_from_the_model_is_found(recorded):
    first, second = recorded.rounds
    with pytest.raises(IntegrityError, match="clients of round 2 were sent another model"):
        recorded.check([first, replace(second, sent=lambda work: False)])


def test_a_round_without_a_record_is_found(recorded):
    first, second = recorded.rounds
    with pytest.raises(IntegrityError, match="there is no record of round 1"):
        recorded.check([second])
    with pytest.raises(IntegrityError, match="round-00002 is a checkpoint of a round without a record"):
        recorded.check([first])
