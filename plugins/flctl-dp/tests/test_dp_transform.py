"""The central mechanism: its sensitivity, its noise, what it refuses, and whole runs."""

import json
import math

import numpy as np
import pytest
from flctl import Aggregate, ClientContext, ClientUpdate, ConfigError, FlctlError, IncompatibleError, ServerContext
from flctl.server.training import train
from flctl.testing import check_transform
from flctl.testing.trial import Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as vectors
from pydantic import ValidationError
from scipy import stats

from flctl_dp.accounting.accountants import epsilon, quick_epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.mechanisms.central import CentralDP

SEEDED = {"noise_multiplier": 1.0, "insecure_seed": 7}


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=3", "checkpoint.seconds=0", "checkpoint.every=1")


def dp(**options):
    return f"transforms.dp={json.dumps(options)}"


def clipped(transform, arrays, bound):
    ctx = ClientContext(1, "a", {"bound": np.array([bound])}, np.random.default_rng(0))
    return transform.on_client(ClientUpdate("a", arrays, 17.0), ctx)


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms():
    check_transform(CentralDP, SEEDED)


def test_without_an_insecure_seed_only_repeatability_is_lost():
    """Noise and cohorts of the operating system: the checks that compare two runs bit for bit do not apply."""
    repeatable = ["deterministic", "checkpoint", "resume", "processes", "hidden", "equal-updates"]
    uncharged = ["on-server", "nobody", "inputs", "self"]
    check_transform(CentralDP, {"noise_multiplier": 1.0}, processes=False, skip=[*repeatable, *uncharged])


@given(
    delta=vectors(np.float32, 9, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    buffers=vectors(np.float32, 3, elements=st.floats(-1e3, 1e3, width=32)),
    bound=st.floats(1e-3, 1e3),
)
@settings(deadline=None, max_examples=50)
def test_no_update_is_longer_than_the_bound_over_all_vectors_together(delta, buffers, bound):
    sent = clipped(CentralDP(), {"delta": delta, "buffers": buffers}, bound)
    length = math.hypot(*sent.arrays["delta"].astype(float), *sent.arrays["buffers"].astype(float))
    assert length <= bound * (1 + 2**-11)
    assert sent.weight == 1.0


def test_norms_that_float32_cannot_keep_to_are_refused():
    """At 1e-44, rounding to float32 alone makes updates longer than they may be."""
    for bound in (0.0, 1e-300, 1e-44, 1e300, math.inf, math.nan):
        with pytest.raises((ConfigError, ValidationError)):
            CentralDP.from_options({"clipping_norm": bound})


@pytest.mark.parametrize("bound", [1e-20, 1e-7, 1e-6, 1e-5, 1e-4, 1.0])
@pytest.mark.parametrize("value", [3e38, 1e38, 7e37])
def test_factors_that_float32_would_round_up_are_none(bound, value):
    """Next to zero, float32 has few numbers: a factor of 1.1e-45 would count as 1.4e-45."""
    for size in (9, 1000):
        sent = clipped(CentralDP(), {"delta": np.full(size, value, np.float32)}, bound).arrays["delta"]
        assert np.linalg.norm(sent.astype(float)) <= bound * (1 + 2**-11)
    factors = CentralDP().factors(np.array([1e38, 1e39, 1e44]), {"bound": np.array([bound])})
    assert all(factor == 0 or factor > 1e-38 for factor in factors)


@pytest.mark.parametrize("hostile", [math.nan, math.inf, -math.inf])
def test_norms_that_are_no_numbers_count_nothing(hostile):
    factors = CentralDP().factors(np.array([hostile, 0.0, 2.0, 5e-324, 1e300]), {"bound": np.array([1.0])})
    assert factors.tolist() == [0.0, 1.0, 0.5, 1.0, 0.0]


def test_short_updates_are_left_as_they_are():
    given = {"delta": np.array([0.3, -0.4], np.float32)}
    assert clipped(CentralDP(), given, 0.51).arrays["delta"].tolist() == given["delta"].tolist()
    assert clipped(CentralDP(), given, 0.25).arrays["delta"] == pytest.approx([0.15, -0.2])


def test_sums_of_neighbours_are_within_the_clipping_norm_on_the_lattice():
    """What is left below the norm covers the rounding of the sum to the lattice, for any vectors."""
    from flctl_dp.noise.lattice import Lattice

    transform = CentralDP.from_options({"noise_multiplier": 4.0, "clipping_norm": 2.0})
    size, rng = 50_000, np.random.default_rng(1)
    bound = float(transform.init({"delta": size})["bound"][0])
    assert 0 < bound < 2.0
    lattice = Lattice(8.0)
    rest = rng.normal(size=size)
    mine = rng.choice([-1.0, 1.0], size)
    mine *= bound / np.linalg.norm(mine)
    cells = [np.rint(total / lattice.cell) for total in (rest, rest + mine)]
    assert np.linalg.norm(cells[1] - cells[0]) * lattice.cell <= 2.0


@pytest.mark.parametrize("cohort", [200, 30_000, 100_000])
def test_float32_sums_of_large_cohorts_stay_within_the_clipping_norm(cohort):
    """Equal updates of a whole cohort, added in chunks of 50 as a run adds them, with and without one of them."""
    from flctl import arrays

    transform = CentralDP.from_options({"noise_multiplier": 1.0, "clipping_norm": 1.0})
    state = transform._begun(transform.init({"delta": 7}), 1.0, float(cohort))
    direction = np.random.default_rng(2).normal(size=7)
    update = (direction / np.linalg.norm(direction) * float(state["bound"][0])).astype(np.float32)
    moved = 0.0
    for last in (37, 49):
        chunk = sum((update for _ in range(49)), update)
        total = {"delta": np.zeros(7, np.float32)}
        for _ in range(cohort // 50 - 1):
            arrays.accumulate(total, {"delta": chunk})
        sums = []
        for count in (last, last + 1):
            here = {"delta": total["delta"].copy()}
            arrays.accumulate(here, {"delta": sum((update for _ in range(count - 1)), update)})
            sums.append(here["delta"].astype(float))
        moved = max(moved, float(np.linalg.norm(sums[1] - sums[0])))
    assert moved <= 1.0


def served(options, total, asked=4):
    transform = CentralDP.from_options(options)
    state = dict(transform.init({"delta": total.size}))
    ctx = ServerContext(1, asked, np.random.default_rng(0))
    return transform.on_server(Aggregate({"delta": total}, 3.0, 3), state, ctx)


def test_noise_has_the_size_that_is_accounted_whatever_the_cohort():
    for asked in (1, 50):
        aggregate, _ = served({**SEEDED, "noise_multiplier": 1.5, "clipping_norm": 2.0}, np.zeros(40_000), asked)
        assert stats.kstest(aggregate.arrays["delta"] / 3.0, "norm").pvalue > 1e-3
        assert (aggregate.weight, aggregate.count) == (asked, 3)


def test_sums_are_divided_by_the_expected_cohort_not_by_the_realised_one():
    transform = CentralDP.from_options({"noise_multiplier": 1.0})
    state = {**transform.init({"delta": 3}), "expected": np.array([4.0])}
    for asked, came in ((7, 5), (0, 0)):
        ctx = ServerContext(1, asked, np.random.default_rng(0))
        aggregate, _ = transform.on_server(Aggregate({"delta": np.zeros(3)}, float(came), came), state, ctx)
        assert aggregate.weight == 4.0


def test_cohorts_are_drawn_in_secret_unless_the_seed_is_insecure(trial):
    for options, secret in ((SEEDED, False), ({"noise_multiplier": 1.0}, True)):
        run, _ = trial.prepare(dp(**options))
        assert run.secret_cohort == secret


def test_rounding_of_the_aggregator_is_reserved_from_the_clipping_norm(trial):
    """By hand: C - C / 1024 - one cell times sqrt(D) - what the aggregator's rounding may add."""
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
    from flctl import StartContext

    from flctl_dp.noise.lattice import CELLS

    secagg = ["aggregator.name=secagg", "aggregator.bits=24", "aggregator.minimum=5", "aggregator.clip=1.0"]
    run, _ = trial.prepare(dp(noise_multiplier=2.0, insecure_seed=1), *secagg)
    transform, layout = run.transforms["dp"], run.pipeline.layouts["dp"]
    state = transform.begin(transform.init(layout), StartContext(1, run))
    added = run.aggregator.rounding(run)
    assert added > 1e-6
    expected = 1 - 2**-10 - 2.0 / CELLS * math.sqrt(sum(layout.values())) - added
    assert float(state["bound"][0]) == pytest.approx(expected, rel=1e-12)


def test_noise_differs_from_round_to_round_and_between_vectors():
    transform = CentralDP.from_options(SEEDED)
    state, total = transform.init({"a": 50, "b": 50}), {"a": np.zeros(50), "b": np.zeros(50)}
    drawn = []
    for number in (1, 2):
        ctx = ServerContext(number, 4, np.random.default_rng(number))
        aggregate, _ = transform.on_server(Aggregate(total, 1.0, 1), state, ctx)
        drawn += [aggregate.arrays["a"], aggregate.arrays["b"]]
    for one in range(4):
        for other in range(one):
            assert not np.array_equal(drawn[one], drawn[other])


def test_a_sum_that_was_not_charged_gets_no_release():
    with pytest.raises(FlctlError, match="before its round was charged"):
        served({"noise_multiplier": 1.0}, np.zeros(3))


def test_options_that_say_nothing_of_noise_are_refused():
    assert CentralDP.from_options({"target_epsilon": 2.0}).config.noise_multiplier is None
    assert CentralDP.from_options({"target_epsilon": 2.0, "noise_multiplier": 3.0}).config.noise_multiplier == 3.0
    for wrong in ({"noise_multiplier": None}, {"noise_multiplier": 0}, {"clipping_norm": 0}, {"target_delta": 1}):
        with pytest.raises(ValidationError):
            CentralDP.from_options(wrong)


NORMED = """
import torch

def net(data):
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
"""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategy=fedmedian"], "reads single updates"),
        (["model={normed}"], "BatchNorm"),
        (["strategy=scaffold", "strategy.weighted=true"], "weights clients by their rows"),
        (["transforms={dp: {}, clip: {norm: 1}}"], "could undo its clipping"),
        (["transforms={topk: {}, dp: {}}"], "works on sums"),
        (["transforms={quantise: {spread: 4.0}, dp: {}}"], "sends a code"),
        (["cohort.sampling=fixed", "cohort.clients=3", dp(relation="add-remove")], "changes the selection of others"),
    ],
)
def test_runs_in_which_it_would_be_meaningless_are_refused(trial, overrides, said):
    (trial.directory / "net.py").write_text(NORMED)
    overrides = [
        text.format(normed=f"{(trial.directory / 'net.py').as_posix()}:net") if "normed" in text else text
        for text in overrides
    ]
    chosen = [] if any(text.startswith("transforms") for text in overrides) else [dp()]
    with pytest.raises(IncompatibleError, match=said):
        trial.prepare(*chosen, *overrides)


@pytest.mark.parametrize(
    ("options", "said"), [({"target_delta": 0.2}, "publishing"), ({"noise_multiplier": 1e6}, "hides")]
)
def test_numbers_that_protect_nobody_or_leave_nothing_are_refused(trial, options, said):
    with pytest.raises(ConfigError, match=said):
        trial.prepare(dp(**options))


def ledger_of(trial):
    return LedgerFile(trial.partition.path / "privacy-ledger.jsonl")


def test_a_run_charges_each_round_and_says_what_it_came_to(trial):
    result = train(*trial.prepare("cohort.sampling=poisson", "cohort.rate=0.5", dp(noise_multiplier=2.0)))
    release = Release("poisson", 2.0, rate=0.5)
    assert dict(ledger_of(trial).read().releases()) == {release: 3}
    said = result.summary["transforms"]["dp"]
    assert said["epsilon"] == epsilon({release: 3}, 1e-5, "add-remove")
    assert "add-remove, Poisson q=0.5 z=2 T=3, PLD (RDP " in said["statement"]
    assert "client level" in said["statement"]
    assert "metrics not covered" in said["statement"]
    lines = result.directory.lines()
    spent = [line["transforms"]["dp"]["epsilon"] for line in lines]
    assert spent == sorted(spent)
    assert spent[-1] >= said["epsilon"]


@pytest.mark.parametrize(
    ("cohort", "release", "relation"),
    [
        (["cohort.sampling=all"], Release("all", 2.0), "add-remove"),
        (["cohort.sampling=fixed", "cohort.clients=4"], Release("fixed", 2.0, cohort=4, population=9), "replace-one"),
        (["cohort.sampling=cyclic", "cohort.clients=4"], Release("unsampled", 2.0), "zero-out"),
        (["cohort.sampling=all", "devices.availability=0.5"], Release("unsampled", 2.0), "zero-out"),
    ],
)
def test_each_sampling_is_accounted_as_what_it_is(trial, cohort, release, relation):
    train(*trial.prepare(*cohort, dp(noise_multiplier=2.0)))
    ledger = ledger_of(trial).read()
    assert (dict(ledger.releases()), ledger.relation) == ({release: 3}, relation)


def test_two_runs_on_one_population_add_up_in_one_budget(trial):
    noise = {"noise_multiplier": 3.0}
    first = train(*trial.prepare("cohort.sampling=all", dp(**noise)))
    assert first.summary["transforms"]["dp"]["epsilon"] == first.summary["transforms"]["dp"]["population_epsilon"]
    budget = epsilon({Release("all", 3.0): 5}, 1e-5, "add-remove")
    second = train(*trial.prepare("cohort.sampling=all", dp(**noise, target_epsilon=budget)))
    assert (second.status, second.rounds) == ("budget", 2)
    assert second.refused.exit_code == 4
    assert second.directory.checkpoints.rounds()[-1] == 2
    said = second.summary["transforms"]["dp"]
    assert said["population_epsilon"] == pytest.approx(budget)
    assert said["epsilon"] == epsilon({Release("all", 3.0): 2}, 1e-5, "add-remove")
    assert dict(ledger_of(trial).read().releases()) == {Release("all", 3.0): 5}


@pytest.mark.slow
def test_no_round_is_told_to_cost_more_than_the_budget_that_it_was_charged_within(trial):
    """Renyi DP, which serves for rounds, says more than privacy loss distributions, which the noise was found by."""
    poisson = ("cohort.sampling=poisson", "cohort.rate=0.5")
    result = train(*trial.prepare(*poisson, dp(target_epsilon=2.0)))
    charged = ledger_of(trial).read().releases()
    assert quick_epsilon(charged, 1e-5, "add-remove") > 2.0
    lines = map(json.loads, (result.directory.path / "metrics.jsonl").read_text().splitlines())
    said = [line["transforms"]["dp"] for line in lines]
    assert [0 < line["epsilon"] <= 2.0 and 0 < line["population_epsilon"] <= 2.0 for line in said] == [True] * 3


def test_target_epsilon_finds_the_noise_for_all_rounds_and_keeps_to_it(trial):
    result = train(*trial.prepare("cohort.sampling=all", dp(target_epsilon=4.0)))
    assert result.status == "finished"
    said = result.summary["transforms"]["dp"]
    assert 3.98 < said["epsilon"] <= 4.0
    assert {release.noise_multiplier for release in ledger_of(trial).read().releases()} == {said["noise_multiplier"]}


def test_a_resumed_run_goes_on_with_its_noise_and_its_identity(trial):
    from flctl.run.run import Run

    run, directory = trial.prepare("cohort.sampling=all", dp(target_epsilon=4.0))
    short = run.config.model_copy(update={"rounds": 1})
    train(Run.build(short, run.registry, trial.partition, directory.memory), directory)
    train(Run.build(run.config, run.registry, trial.partition, directory.memory), directory)
    ledger = ledger_of(trial).read()
    assert len({charge.run for charge in ledger.charges}) == 1
    assert [charge.round for charge in ledger.charges] == [1]  # the noise was found for one round: no more is left
    assert epsilon(ledger.releases(), 1e-5, "add-remove") <= 4.0


def test_a_round_that_is_played_again_is_charged_again(trial):
    from flctl.run.run import Run

    run, directory = trial.prepare("cohort.sampling=all", dp(noise_multiplier=2.0))
    train(run, directory)
    directory.checkpoints.remove(3)
    train(Run.build(run.config, run.registry, trial.partition, directory.memory), directory)
    assert [charge.round for charge in ledger_of(trial).read().charges] == [1, 2, 3, 3]


def test_a_checkpoint_whose_charge_the_ledger_lacks_is_refused(trial):
    from flctl.run.run import Run

    run, directory = trial.prepare("cohort.sampling=all", dp(noise_multiplier=2.0), "rounds=2")
    train(run, directory)
    longer = run.config.model_copy(update={"rounds": 4})
    file = ledger_of(trial)
    kept = file.path.read_bytes()
    for folder_file in trial.partition.path.glob("privacy-ledger.jsonl*"):
        folder_file.unlink()
    with pytest.raises(FlctlError, match="is missing"):
        train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    train(*trial.prepare("cohort.sampling=all", dp(noise_multiplier=2.0), "rounds=2"))  # another ledger in its place
    with pytest.raises(IncompatibleError, match="diverged copy"):
        train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    file.path.write_bytes(kept)
    file.path.with_name("privacy-ledger.jsonl.head").unlink()
    assert train(Run.build(longer, run.registry, trial.partition, directory.memory), directory).rounds == 4


def test_what_no_accountant_can_add_up_is_refused_before_it_is_charged(trial):
    """Too little noise for a distribution of fixed cohorts, and Renyi DP knows no Poisson sampling that replaces."""
    train(*trial.prepare("cohort.sampling=fixed", "cohort.clients=4", dp(noise_multiplier=0.5), "rounds=1"))
    poisson = ["cohort.sampling=poisson", "cohort.rate=0.5", dp(noise_multiplier=2.0, relation="replace-one")]
    with pytest.raises(IncompatibleError, match="no accountant composes"):
        train(*trial.prepare(*poisson))
    assert len(ledger_of(trial).read().charges) == 1


@pytest.mark.parametrize("attack", ["sign-flip", "gaussian", "alie", "ipm", "min-max"])
def test_updates_that_are_made_up_after_clipping_are_refused(trial, attack):
    chosen = (f"attack.name={attack}", "attack.clients=3")
    with pytest.raises(IncompatibleError, match="the noise of 'dp' does not cover"):
        trial.prepare(*chosen, dp(noise_multiplier=2.0))
    trial.prepare(*chosen, dp(**SEEDED))
    trial.prepare(*chosen, 'transforms.dp-local={"noise_multiplier": 2.0}')
    trial.prepare("attack.name=label-flip", "attack.clients=3", dp(noise_multiplier=2.0))


def test_partitions_of_the_same_people_share_a_ledger_that_is_named(trial, tmp_path):
    shared = (tmp_path / "people.jsonl").as_posix()
    train(*trial.prepare("cohort.sampling=all", dp(noise_multiplier=2.0, ledger=shared)))
    assert len(LedgerFile(tmp_path / "people.jsonl").read().charges) == 3
    assert not ledger_of(trial).path.exists()


def test_two_equal_runs_differ_and_an_empty_round_is_released_too(trial):
    """At a rate of 1e-9 nobody takes part, and the model moves by noise alone, divided by what was expected."""
    models = []
    for _ in range(2):
        run, directory = trial.prepare(
            "cohort.sampling=poisson", "cohort.rate=1e-9", dp(noise_multiplier=1e-9), "rounds=1"
        )
        train(run, directory)
        assert directory.lines()[0]["answered"] == 0
        models.append(directory.checkpoints.load(1, run.build_model()).params["params"])
    moved = models[0] - models[1]
    assert np.count_nonzero(moved) > 0.9 * moved.size
    assert 0.02 < moved.std() < 1.0  # sqrt(2) * 1e-9 / (9 * 1e-9) = 0.16


@pytest.mark.parametrize("executor", ["sequential", "stacked", "shared"])
def test_every_executor_clips_through_its_norms(trial, executor):
    """By an insecure seed the noise is the same: the models agree as far as float32 does."""
    options = {**SEEDED, "noise_multiplier": 0.01, "clipping_norm": 0.05}
    found = [
        trial.train("cohort.sampling=all", dp(**options), f"engine={{name: inprocess, executor: {one}}}").weights
        for one in ("sequential", executor)
    ]
    assert np.allclose(*found, atol=1e-5)
    assert not ledger_of(trial).path.exists()


def test_an_insecure_run_says_that_it_protects_nobody(trial):
    result = train(*trial.prepare("cohort.sampling=all", dp(**SEEDED)))
    said = result.summary["transforms"]["dp"]
    assert said["epsilon"] is None
    assert said["statement"].startswith("(eps=inf)")


def test_it_works_around_a_sum_that_hides_single_updates(trial):
    """The same noise by an insecure seed: what secure aggregation adds up differs by its rounding alone."""
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
    options = dp(**{**SEEDED, "noise_multiplier": 0.1})
    found = [trial.train("cohort.sampling=all", options, f"aggregator={one}").weights for one in ("plain", "secagg")]
    assert np.allclose(*found, atol=1e-4)
