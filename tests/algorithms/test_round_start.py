"""What a transform may do where a round starts: end the run, weigh updates, hide the cohort, and say what it did."""

import json

import numpy as np
import pytest

from flctl.config.config import CohortConfig
from flctl.plugins.registry import Registry
from flctl.run import cohort as cohorts
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from flctl.testing.trial import Trial

LIMITED = """
import dataclasses
import numpy as np
import flctl

class Limited(flctl.Transform):
    '''Ends the run after so many rounds, and counts each client alike.'''
    name = "limited"

    class Config(flctl.Transform.Config):
        most: int = 2
        broken: bool = False

    def init(self, layout):
        return {"rounds": np.zeros(1)}

    def begin(self, state, ctx):
        if self.config.broken:
            return {"rounds": 3}
        assert ctx.run.transforms[self.name_in(ctx.run)] is self
        assert ctx.round == int(state["rounds"][0]) + 1
        if ctx.round > self.config.most:
            raise flctl.PrivacyBudgetError(f"round {ctx.round} is one too many", hint="Stop here.")
        return {"rounds": state["rounds"] + 1}

    def name_in(self, run):
        return next(name for name, transform in run.transforms.items() if transform is self)

    def weigh(self, weights):
        return np.ones_like(weights)

    def factors(self, norms, broadcast):
        return np.full_like(norms, 0.5)

    def tells(self, state, run, finished):
        return {"rounds": float(state["rounds"][0]), "spent": float("inf"), "finished": float(finished)}
"""


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "limited.py").write_text(LIMITED)
    return Trial(tmp_path, "rounds=4", "checkpoint.every=0", "checkpoint.seconds=0")


def transform(trial, **options):
    return f"transforms={{'{(trial.directory / 'limited.py').as_posix()}:Limited': {json.dumps(options)}}}"


def told(line):
    (values,) = line["transforms"].values()
    return values


def test_a_refused_round_ends_the_run_with_its_checkpoint_and_summary(trial):
    run, directory = trial.prepare(transform(trial))
    result = train(run, directory)
    assert (result.status, result.rounds) == ("budget", 2)
    assert result.refused.message == "round 3 is one too many"
    assert directory.checkpoints.rounds()[-1] == 2
    assert [told(line)["rounds"] for line in directory.lines()] == [1.0, 2.0]
    assert told(directory.lines()[0])["finished"] == 0
    assert directory.summary()["status"] == "budget"
    assert told(directory.summary()) == {"rounds": 2.0, "spent": None, "finished": 1.0}


def test_a_run_that_was_refused_is_refused_again(trial):
    run, directory = trial.prepare(transform(trial))
    train(run, directory)
    again = train(Run.build(run.config, Registry(), trial.partition, directory.memory), directory)
    assert (again.status, again.rounds) == ("budget", 2)
    assert len(RunDirectory(directory.path).lines()) == 2


def test_a_budget_without_room_for_a_round_leaves_the_initial_model(trial):
    result = train(*trial.prepare(transform(trial, most=0)))
    assert (result.status, result.rounds) == ("budget", 0)
    assert result.directory.checkpoints.rounds() == [0]


def test_a_state_that_is_none_is_the_plugins_error(trial):
    from flctl import PluginError

    with pytest.raises(PluginError, match="returned a state"):
        train(*trial.prepare(transform(trial, broken=True)))


@pytest.mark.parametrize("executor", ["sequential", "auto"])
def test_clients_count_alike_by_any_executor(trial, executor):
    """Weights of 8 to 24 rows become 1: then the sum over nine clients is that of halves, and its weight 9."""
    from flctl.server.rounds import Rounds

    run, _ = trial.prepare(transform(trial), f"engine={{name: inprocess, executor: {executor}}}")
    seen = []
    original = run.strategy.step
    run.strategy.step = lambda params, aggregate, state, ctx: (
        seen.append(aggregate) or original(params, aggregate, state, ctx)
    )
    engine = run.registry.get("engine", "inprocess").from_options({})
    with engine.open(run):
        rounds = Rounds(run, engine)
        rounds.play(rounds.initial(), last=lambda seconds: False)
    assert (seen[0].weight, seen[0].count) == (9.0, 9)


def test_secret_cohorts_do_not_follow_the_seed():
    eligible = np.arange(1000, 3000)
    for chosen in (CohortConfig(sampling="poisson", rate=0.1), CohortConfig(sampling="fixed", clients=200)):
        open_draws = [cohorts.select(chosen, eligible, (), 1, 7) for _ in range(2)]
        secret = [cohorts.select(chosen, eligible, (), 1, 7, secret=True) for _ in range(2)]
        assert np.array_equal(*open_draws)
        assert not np.array_equal(*secret)
        for drawn in secret:
            assert np.array_equal(drawn, np.unique(drawn))
            assert np.isin(drawn, eligible).all()


def test_secret_cohorts_have_the_right_size_and_favour_nobody():
    eligible = np.arange(50)
    fixed = [
        cohorts.select(CohortConfig(sampling="fixed", clients=10), eligible, (), 1, 7, secret=True) for _ in range(2000)
    ]
    assert {len(drawn) for drawn in fixed} == {10}
    poisson = [
        cohorts.select(CohortConfig(sampling="poisson", rate=0.2), eligible, (), 1, 7, secret=True) for _ in range(2000)
    ]
    for drawn in (fixed, poisson):
        often = np.bincount(np.concatenate(drawn), minlength=50)
        assert len(often) == 50
        assert np.abs(often - 400).max() < 6 * (2000 * 0.2 * 0.8) ** 0.5
    sizes = np.array([len(drawn) for drawn in poisson])
    assert abs(sizes.var() - 8) < 1.5
    everybody = CohortConfig(sampling="poisson", rate=1.0)
    assert np.array_equal(cohorts.select(everybody, eligible, (), 1, 7, secret=True), eligible)
