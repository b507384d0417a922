"""Privacy of single rows: DP-SGD at the clients, from the coins to the ledger of each client."""

import json
import math

import numpy as np
import pytest
import torch
from flctl import ConfigError, IncompatibleError, IntegrityError, LocalWork, RoundFailedError
from flctl.executors.per_example_steps import row_gradients, train_by_rows
from flctl.executors.shards import LocalJob
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.server.training import train
from flctl.testing import check_transform
from flctl.testing.trial import Trial
from pydantic import ValidationError
from scipy import stats

from flctl_dp.accounting import accountants
from flctl_dp.accounting.accountants import epsilon
from flctl_dp.accounting.releases import Release
from flctl_dp.budget.example_budget import calibrated, released, steps_of, within
from flctl_dp.ledgers.client_ledgers import ClientLedgers
from flctl_dp.mechanisms.examples import ExampleDP
from flctl_dp.mechanisms.poisson_steps import PoissonSteps, coins, row_bound
from flctl_dp.noise.entropy import insecure_words, secure_words
from flctl_dp.noise.lattice import Lattice

SEEDED = {"insecure_seed": 7, "noise_multiplier": 0.5}


def dp(**options):
    return f"transforms.dp-examples={json.dumps(options)}"


@pytest.fixture
def trial(tmp_path):
    """Nine clients, each of whose steps takes all rows: that is accounted in no time."""
    return Trial(tmp_path, "rounds=3", "local.batch_size=0", "local.lr=0.2")


@pytest.fixture
def sampled(tmp_path):
    """Nine clients, each of whose steps takes four rows on average."""
    return Trial(tmp_path, "rounds=3", "local.batch_size=4", "local.lr=0.2")


def ledgers_of(trial):
    return ClientLedgers(trial.partition.path / "privacy-ledgers")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One distribution a run is enough: each takes half a second."""
    from flctl_dp.ledgers import client_ledgers

    monkeypatch.setattr(client_ledgers, "_EXACT", 1)


def rows_of(trial):
    return trial.partition.counts[:, 0].tolist()


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms():
    check_transform(ExampleDP)


# One step.


def stepped(rows=50, steps=400, batch_size=10, bound=1.0, sigma=2.0, words=None):
    return PoissonSteps(rows, steps, batch_size, bound, sigma, words or secure_words())


def test_batches_have_the_sizes_of_independent_coins():
    """50 rows at 1/5: sizes are binomial, and every row is taken as often as any other."""
    drawn = list(stepped(steps=4000).batches())
    assert len(drawn) == 4000
    sizes = np.bincount([len(rows) for rows in drawn], minlength=51)
    chances = stats.binom.pmf(np.arange(51), 50, 0.2)
    often = chances * 4000 > 10
    found = [*sizes[often], sizes[~often].sum()]
    assert stats.chisquare(found, [*chances[often] * 4000, chances[~often].sum() * 4000]).pvalue > 1e-4
    taken = np.bincount(np.concatenate(drawn), minlength=50)
    # 50 independent binomials, 1/(1 - q) times a chi-square statistic of 50 degrees
    assert stats.chi2.sf(((taken - 800) ** 2 / (4000 * 0.16)).sum(), 50) > 1e-4
    assert all((np.diff(rows) > 0).all() for rows in drawn)


def test_two_rows_are_taken_independently():
    both = [{0, 1} <= set(rows.tolist()) for rows in stepped(steps=5000).batches()]
    assert stats.binomtest(sum(both), 5000, 0.04).pvalue > 1e-4


@pytest.mark.parametrize(("chance", "expected"), [(1.0, 100), (0.0, 0), (2.0**-80, 0)])
def test_certain_coins_are_certain(chance, expected):
    assert coins(insecure_words(1), chance, 100).sum() == expected


def test_coins_come_from_the_operating_system_and_not_from_a_seed(trial):
    found = [[rows.tolist() for rows in stepped(steps=20).batches()] for _ in range(2)]
    assert found[0] != found[1]


def test_many_coins_are_tossed_in_parts(monkeypatch):
    from flctl_dp.mechanisms import poisson_steps

    monkeypatch.setattr(poisson_steps, "_DRAWN", 120)
    assert len(list(stepped(steps=7).batches())) == 7


def test_noise_has_the_size_that_is_accounted_also_on_nothing():
    """The sum of no rows: a Gaussian of sigma over the expected batch."""
    noise = stepped(batch_size=5, sigma=3.0).gradient(np.zeros(40_000))
    assert stats.kstest(noise / 0.6, "norm").pvalue > 1e-4
    assert noise.std() == pytest.approx(0.6, rel=0.02)


def test_noise_is_whole_cells_around_the_rounded_sum():
    steps, total = stepped(batch_size=1, sigma=2.0), np.random.default_rng(1).normal(size=500)
    cells = steps.gradient(total) / Lattice(2.0).cell
    assert np.allclose(cells, np.rint(cells), atol=1e-3)


def test_sums_are_divided_by_the_rows_that_are_expected_whatever_came():
    steps = stepped(batch_size=8, sigma=1e-6)
    assert np.allclose(steps.gradient(np.full(3, 16.0)), 2.0, atol=1e-5)


HOSTILE = (math.nan, math.inf, -math.inf, 3e38, -1e30, 1e-42, 0.0, 1e5)


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("way", ["rows-chain", "rows-vmap", "rows-loop"])
def test_one_row_moves_the_rounded_sum_by_no_more_than_the_clipping_norm(way, value):
    """In cells of the lattice that the noise is drawn on: what is released before noise, in whole numbers."""
    from flctl.executors.layer_chain import chain_of
    from flctl.executors.loss_heads import head_for

    torch.manual_seed(2)
    model = FlatModel(torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3)))
    task, clip = task_for("classification"), 0.5
    gradients = row_gradients(way, model, task, chain_of(model.module), head_for(task))
    coordinates, sigma = model.params.numel(), 2.0 * clip
    steps = stepped(bound=row_bound(clip, 2.0, coordinates), sigma=sigma)
    x, y = torch.randn(12, 6) * 30, torch.randint(3, (12,))
    x[5] = value
    every = torch.arange(12)
    cells = [
        np.rint(gradients.total(x[rows], y[rows], steps.factors).numpy() / Lattice(sigma).cell)
        for rows in (every, every[every != 5])
    ]
    moved = np.linalg.norm(cells[0] - cells[1]) * Lattice(sigma).cell
    assert moved <= clip
    if not math.isfinite(value) or value == 3e38:  # then no number is left of its gradient
        assert moved < 1e-4 * clip
    if value == 0.0:
        assert moved > 0.1 * clip


def test_an_empty_batch_makes_a_noisy_step():
    model, task = FlatModel(torch.nn.Linear(200, 3)), task_for("classification")
    rows = np.ones((9, 200), np.float32), np.zeros(9, np.int64)
    steps = PoissonSteps(9, 1, 1, 1.0, 1.0, insecure_words(3))
    steps.batches = lambda: [np.zeros(0, np.int64)]
    trained = train_by_rows(
        model,
        row_gradients("rows-loop", model, task, None, None),
        LocalJob(*rows, LocalWork(lr=0.1), np.uint64(1)),
        steps,
    )
    assert trained.delta["params"].std() == pytest.approx(0.1, rel=0.15)


@pytest.mark.parametrize(
    ("noise", "epochs", "published"),
    [
        (1.3, 15, 1.19),
        pytest.param(1.1, 60, 3.01, marks=pytest.mark.slow),
        pytest.param(0.7, 45, 7.10, marks=pytest.mark.slow),
    ],
)
def test_published_figures_of_dp_sgd_come_out(noise, epochs, published):
    """TensorFlow Privacy's tutorial on MNIST: 60,000 rows, batches of 256, delta 1e-5, by Renyi DP and the conversion
    of Mironov (2017, proposition 3); later conversions, and distributions, say less."""
    release, steps = Release("poisson", noise, rate=256 / 60_000), epochs * 60_000 // 256
    orders, curve = accountants._curve(release, "add-remove")
    found = min(steps * loss + math.log(1e5) / (order - 1) for order, loss in zip(orders, curve, strict=True))
    assert found == pytest.approx(published, abs=0.006)
    renyi, least = (epsilon({release: steps}, 1e-5, "add-remove", accountant=by) for by in ("rdp", "pld"))
    assert 0.7 * published < least < renyi < published


# Runs and their ledgers.


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["local.batch_size=0"],
        ["local.drop_last=true", "local.batch_size=10"],
        ["local.steps=5"],
        ["local.epochs=3", "local.batch_size=7"],
        ["strategy=ditto"],
    ],
    ids=" ".join,
)
def test_what_is_charged_is_what_was_planned_for_each_client(sampled, overrides):
    """Steps and rates by hand: epochs times the batches of an epoch, each row with the chance of a batch."""
    run, directory = sampled.prepare(dp(noise_multiplier=2.0), "rounds=1", *overrides)
    train(run, directory)
    local, stages = run.config.local, len(run.strategy.stages(run.config.local.amount()))
    for number, rows in enumerate(rows_of(sampled)):
        size = local.batch_size or rows
        batches = rows // size if local.drop_last else -(-rows // size)
        count = stages * (local.steps or local.epochs * batches) if batches else 0
        expected = {Release("poisson", 2.0, rate=min(size, rows) / rows): count} if count else {}
        ledger = ledgers_of(sampled).of(number).read()
        assert dict(ledger.releases() if ledger else {}) == expected
        assert dict(released(steps_of(run, rows), 2.0)) == expected


def test_a_run_says_what_it_came_to_for_each_client(sampled, monkeypatch):
    from flctl_dp.ledgers import client_ledgers

    monkeypatch.setattr(client_ledgers, "_EXACT", 16)
    result = train(*sampled.prepare(dp(noise_multiplier=2.0)))
    each = [
        epsilon({Release("poisson", 2.0, rate=4 / n): 3 * -(-n // 4)}, 1e-5, "add-remove") for n in rows_of(sampled)
    ]
    said = result.summary["transforms"]["dp-examples"]
    assert said["epsilon"] == max(each)
    assert said["median_epsilon"] == float(np.median(each))
    assert "example level, add-remove, Poisson q=0.6667 z=2 T=6, PLD (RDP " in said["statement"]
    assert "against any observer of the client's updates, including the server" in said["statement"]
    assert f"the largest of 9 clients, median {np.median(each):.4g}" in said["statement"]
    lines = result.directory.lines()
    assert [line["loss"] for line in lines] == [None] * 3
    told = [line["transforms"]["dp-examples"]["epsilon"] for line in lines]
    assert told == sorted(told)
    assert told[-1] >= said["epsilon"]


def test_who_is_not_asked_is_not_charged_and_runs_add_up(trial):
    fixed = ["cohort.sampling=fixed", "cohort.clients=2", "rounds=1"]
    for _ in range(2):
        train(*trial.prepare(dp(noise_multiplier=2.0), *fixed))
    found = [ledgers_of(trial).of(number).read() for number in range(9)]
    assert sum(len(ledger.charges) for ledger in found if ledger) == 4
    result = train(*trial.prepare(dp(noise_multiplier=2.0), "rounds=1"))
    said = result.summary["transforms"]["dp-examples"]
    twice = max(len(ledger.charges) for ledger in ledgers_of(trial).read(range(9)).values())
    assert (said["all_runs_epsilon"] > said["epsilon"]) or twice == 1
    assert sum(len(ledger.charges) for _, file in ledgers_of(trial).files() if (ledger := file.read())) == 13


@pytest.mark.slow
def test_target_epsilon_finds_noise_for_each_client(sampled, monkeypatch):
    """By the accountant that says least, and by classes of clients: never beyond the target, and close to it."""
    from flctl_dp.budget import example_budget

    monkeypatch.setattr(example_budget, "_FEW", 0)
    result = train(*sampled.prepare(dp(target_epsilon=6.0)))
    assert result.status == "finished"
    assert 4.5 < result.summary["transforms"]["dp-examples"]["epsilon"] <= 6.0
    noises = {next(iter(file.read().releases())).noise_multiplier for _, file in ledgers_of(sampled).files()}
    assert len(noises) > 1


def test_target_epsilon_is_kept_to_where_all_rows_are_taken(trial):
    """Without sampling the noise is found by a formula: 3 rounds of one step each."""
    result = train(*trial.prepare(dp(target_epsilon=6.0), "local.batch_size=0"))
    said = result.summary["transforms"]["dp-examples"]
    assert 5.99 < said["epsilon"] <= 6.0
    assert epsilon({Release("all", said["noise_multiplier"]): 3}, 1e-5, "add-remove") == said["epsilon"]
    assert "exact Gaussian" in said["statement"]


@pytest.mark.slow
def test_few_clients_have_just_the_noise_that_they_need(sampled):
    run, _ = sampled.prepare(dp(target_epsilon=6.0))
    terms = run.transforms["dp-examples"].terms(run)
    clients = {0: ((0.2, 5),), 1: ((1.0, 1),), 2: ((0.2, 5),)}
    before = {2: {Release("poisson", 3.0, rate=0.2): 5}}
    found = calibrated(terms, clients, before)
    for number, ((rate, count),) in clients.items():
        total = {**before.get(number, {}), Release("poisson", found[number], rate=rate): 3 * count}
        assert 5.98 < epsilon(total, 1e-5, "add-remove") <= 6.0
    assert found[2] > found[0]


def test_the_budget_ends_the_run_before_a_round_that_any_client_cannot_afford(sampled):
    worst = {Release("poisson", 3.0, rate=4 / 6): 4}
    target = epsilon(worst, 1e-5, "add-remove")
    result = train(*sampled.prepare(dp(noise_multiplier=3.0, target_epsilon=target)))
    assert (result.status, result.rounds) == ("budget", 2)
    assert result.refused.exit_code == 4
    assert "client '" in result.refused.message
    again = train(*sampled.prepare(dp(noise_multiplier=3.0, target_epsilon=target)))
    assert (again.status, again.rounds) == ("budget", 0)


def test_a_client_counts_all_steps_when_another_run_has_charged_since_the_round_began(sampled, monkeypatch):
    """The check at the round's start is passed by; one step would fit into what is left, and the round's do not."""
    monkeypatch.setattr(ExampleDP, "_refuse_excess", lambda *given: None)
    target = epsilon({Release("poisson", 3.0, rate=4 / 6): 1}, 1e-5, "add-remove")
    with pytest.raises(RoundFailedError, match="exceed epsilon"):
        train(*sampled.prepare(dp(noise_multiplier=3.0, target_epsilon=target * 1.01), "rounds=1"))


@pytest.mark.parametrize("done", range(5))
def test_rounds_fit_as_often_as_the_accountant_says(trial, done):
    run, _ = trial.prepare(dp(noise_multiplier=2.0, target_epsilon=3.0))
    terms = run.transforms["dp-examples"].terms(run)
    more, other = {Release("poisson", 2.0, rate=0.3): 2}, {Release("poisson", 5.0, rate=0.1): 7}
    before = {**other, **({release: count * done for release, count in more.items()} if done else {})}
    after = {**other, **{release: count * (done + 1) for release, count in more.items()}}
    assert within(before, more, terms) == (epsilon(after, 1e-5, "add-remove") <= 3.0)


def test_two_equal_runs_differ_and_with_an_insecure_seed_they_do_not(trial):
    """That worker processes and a resume change no bit then is part of the contract of transforms."""
    weights = [trial.train(dp(noise_multiplier=0.5), "rounds=1").weights for _ in range(2)]
    assert not np.allclose(*weights, atol=1e-3)
    assert trial.train(dp(**SEEDED)).digests == trial.train(dp(**SEEDED)).digests


def test_an_insecure_run_says_that_it_protects_nobody_and_records_nothing(trial):
    result = train(*trial.prepare(dp(**SEEDED)))
    assert result.summary["transforms"]["dp-examples"]["statement"].startswith("(eps=inf)")
    assert not ledgers_of(trial).folder.exists()


@pytest.mark.slow
def test_worker_processes_charge_each_client_once_a_round(trial):
    train(*trial.prepare(dp(noise_multiplier=2.0), "engine={name: pool, workers: 2}"))
    for number in range(9):
        assert [charge.round for charge in ledgers_of(trial).of(number).read().charges] == [1, 2, 3]


def test_a_resumed_run_goes_on_with_its_noise_and_its_identity(trial):
    from flctl.run.run import Run

    run, directory = trial.prepare(dp(noise_multiplier=2.0))
    short = run.config.model_copy(update={"rounds": 2})
    train(Run.build(short, run.registry, trial.partition, directory.memory), directory)
    train(Run.build(run.config, run.registry, trial.partition, directory.memory), directory)
    charges = ledgers_of(trial).of(4).read().charges
    assert [charge.round for charge in charges] == [1, 2, 3]
    assert len({charge.run for charge in charges}) == 1


def test_a_checkpoint_whose_ledgers_are_gone_or_others_is_refused(trial):
    from flctl.run.run import Run

    run, directory = trial.prepare(dp(noise_multiplier=2.0), "rounds=2")
    train(run, directory)
    longer = run.config.model_copy(update={"rounds": 4})
    file = ledgers_of(trial).of(3)
    kept = file.path.read_bytes()
    for left in file.path.parent.glob("000003*"):
        left.unlink()
    with pytest.raises(IntegrityError, match="client number 3 is missing"):
        train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    train(*trial.prepare(dp(noise_multiplier=2.0), "rounds=2"))
    with pytest.raises(IncompatibleError, match="has no line"):
        train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    for left in file.path.parent.glob("000003*"):
        left.unlink()
    file.path.write_bytes(kept)
    assert train(Run.build(longer, run.registry, trial.partition, directory.memory), directory).rounds == 4


def test_a_ledger_of_another_client_is_refused(trial):
    train(*trial.prepare(dp(noise_multiplier=2.0), "rounds=1"))
    first, second = (ledgers_of(trial).of(number).path for number in (0, 1))
    for suffix in ("", ".head"):
        second.with_name(second.name + suffix).write_bytes(first.with_name(first.name + suffix).read_bytes())
    with pytest.raises(RoundFailedError, match="is the ledger of client"):
        train(*trial.prepare(dp(noise_multiplier=2.0), "rounds=1"))


# What it goes together with.

NORMED = """
import torch

def net(data):
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
"""


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["strategy=qfedavg"], "evaluates the model"),
        (["strategy=mime-lite"], "evaluates the model"),
        (["model={normed}"], "mix rows"),
    ],
)
def test_runs_in_which_it_would_be_meaningless_are_refused(trial, overrides, said):
    (trial.directory / "net.py").write_text(NORMED)
    overrides = [text.format(normed=f"{(trial.directory / 'net.py').as_posix()}:net") for text in overrides]
    with pytest.raises(IncompatibleError, match=said):
        trial.prepare(dp(), *overrides)


@pytest.mark.parametrize("name", ["dp", "dp-local", "dp-examples"])
def test_class_weights_from_label_counts_are_refused_and_given_ones_are_not(trial, name):
    """Label counts leave their clients without noise; weights that the user sets depend on no row."""
    private = f"transforms.{name}={json.dumps({'noise_multiplier': 2.0})}"
    with pytest.raises(IncompatibleError, match=f"transform '{name}' protects them") as caught:
        trial.prepare(private, "local.class_weights=balanced")
    assert "a mapping of classes to weights" in str(caught.value.hint)
    first, *_ = trial.partition.classes
    for ratio in (1, 1000):
        run, _ = trial.prepare(private, f"local.class_weights.{first}={ratio}")
        assert run.config.local.class_weights == {first: float(ratio)}


def test_weights_that_follow_a_clients_rows_are_refused_if_single_rows_are_protected(trial):
    balanced = "local.class_weights=balanced-per-client"
    with pytest.raises(IncompatibleError, match="one row would change the gradients of all others") as caught:
        trial.prepare(dp(noise_multiplier=2.0), balanced)
    assert "class_weights={CLASS: 3}" in str(caught.value.hint)
    trial.prepare('transforms.dp={"noise_multiplier": 2.0}', balanced)  # a client's whole update is bounded


@pytest.mark.parametrize(
    ("options", "said"), [({"target_delta": 0.2}, "publishing"), ({"noise_multiplier": 1e7}, "hides")]
)
def test_numbers_that_protect_nobody_or_leave_nothing_are_refused(trial, options, said):
    with pytest.raises(ConfigError, match=said):
        trial.prepare(dp(**options))


def test_options_that_say_nothing_of_noise_are_refused():
    assert ExampleDP.from_options({"target_epsilon": 2.0}).config.noise_multiplier is None
    for wrong in ({"noise_multiplier": None}, {"noise_multiplier": 0}, {"clipping_norm": 0}, {"target_delta": 1}):
        with pytest.raises(ValidationError):
            ExampleDP.from_options(wrong)


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=fedprox", "strategy.proximal_mu=0.1"],
        ["strategy=scaffold"],
        ["strategy=fednova", "local.momentum=0.9"],
        ["strategy=fedadam"],
        ["strategy=ditto"],
        ["strategy=fedmedian"],
        ["strategy=fedper", "model=mlp"],
        ["local.optimizer=adamw", "local.lr=0.01", "local.weight_decay=0.1", "local.clip_norm=1"],
        ["devices.availability=0.6"],
    ],
    ids=" ".join,
)
def test_strategies_and_optimisers_work_on_what_the_noise_left(trial, overrides):
    result = train(*trial.prepare(dp(**SEEDED), *overrides))
    assert result.status == "finished"


def test_rows_and_clients_are_protected_at_once(sampled):
    both = f"transforms={json.dumps({'dp-examples': {'noise_multiplier': 2.0}, 'dp': {'noise_multiplier': 3.0}})}"
    result = train(*sampled.prepare(both, "cohort.sampling=poisson", "cohort.rate=0.9"))
    said = result.summary["transforms"]
    assert "client level" in said["dp"]["statement"]
    assert "example level" in said["dp-examples"]["statement"]
    assert (sampled.partition.path / "privacy-ledger.jsonl").exists()


def test_it_works_around_a_sum_that_hides_single_updates(trial):
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
    found = [trial.train(dp(**SEEDED), f"aggregator={one}").weights for one in ("plain", "secagg")]
    assert np.allclose(*found, atol=1e-4)


def test_codes_of_noisy_updates_are_as_private(trial):
    result = train(*trial.prepare(f"transforms={json.dumps({'dp-examples': SEEDED, 'topk': {}})}"))
    assert result.status == "finished"


@pytest.mark.slow
def test_digits_of_five_hospitals_are_learned_at_epsilon_8(tmp_path, monkeypatch):
    """287 rows each, 20 rounds of 5 steps: far above the 0.1 of guessing."""
    from flctl.cli import run as run_cli

    from flctl_dp.ledgers import client_ledgers

    monkeypatch.setattr(client_ledgers, "_EXACT", 16)
    parts, out = (tmp_path / "parts").as_posix(), tmp_path / "run"
    assert run_cli(["partition", "digits", "--clients", "5", "--scheme", "iid", "--out", parts]) == 0
    options = ["local.batch_size=64", "local.lr=2", "transforms.dp-examples.noise_multiplier=1.6"]
    words = ["train", parts, "--rounds", "20", "--model", "logreg", "--transform", "dp-examples", "--out", str(out)]
    assert run_cli([*words, *(word for option in options for word in ("-o", option))]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["transforms"]["dp-examples"]["epsilon"] < 8
    assert summary["final"]["accuracy"] > 0.85
