"""DP-FTRL: noise that solves C Z = G, what it says of a client, and whole runs with cohorts in turn."""

import json
import math
from itertools import product

import numpy as np
import pytest
from flctl import Aggregate, ConfigError, IncompatibleError, IntegrityError, ServerContext
from flctl.run.run import Run
from flctl.server.training import train
from flctl.testing import check_transform
from flctl.testing.trial import Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from flctl_dp.accounting.accountants import epsilon, gaussian_epsilon
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, affordable, calibrate
from flctl_dp.accounting.releases import Release
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.mechanisms.ftrl import CorrelatedDP
from flctl_dp.noise.banded_factor import coefficients, column_norm
from flctl_dp.noise.correlated import Past, noised, stretch
from flctl_dp.noise.entropy import insecure_words, secure_words
from flctl_dp.noise.lattice import FINE_CELLS, fine_discrete_gaussian

CYCLIC = ("cohort.sampling=cyclic", "cohort.clients=3")
"""Of the nine clients of a trial: each stays away for two rounds, so that up to three bands fit."""


def ftrl(**options):
    return f"transforms.dp-ftrl={json.dumps(options)}"


def cyclic(noise, bands, separation):
    return Release("cyclic", noise, bands=bands, separation=separation, place=1)


def dense(bands, rounds):
    """C [rounds, rounds], by its definition."""
    column = [1.0]
    for j in range(1, bands):
        column.append(column[-1] * (2 * j - 1) / (2 * j))
    return np.array([[column[t - s] if 0 <= t - s < bands else 0.0 for s in range(rounds)] for t in range(rounds)])


def squared(releases):
    """(sensitivity over noise)^2 of all together."""
    return sum(count / release.ratio**2 for release, count in releases.items())


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=5", "checkpoint.seconds=0", "checkpoint.every=1", *CYCLIC)


def ledger_of(trial):
    return LedgerFile(trial.partition.path / "privacy-ledger.jsonl")


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms():
    options = {"noise_multiplier": 0.05, "insecure_seed": 7}
    check_transform(CorrelatedDP, options)
    check_transform(CorrelatedDP, {**options, "bands": 3}, run=CYCLIC, processes=False)


def test_all_noise_of_the_last_bands_is_on_hand():
    """Three bands keep two vectors: after one round one of them, after three the last two, newest first."""
    state = {"bands": np.array([3]), "steps": np.array([0])}
    kept = []
    for number in range(3):
        state = Past.of(state).followed({"delta": np.full(2, number, np.int32)})
        kept.append([int(one[0]) for one in Past.of(state).back("delta")])
    assert kept == [[0], [1, 0], [2, 1]]


def test_the_factor_is_the_root_of_prefix_sums():
    """(1 - x)^(-1/2) squared is 1 / (1 - x): coefficients 1, 1/2, 3/8, 5/16."""
    assert coefficients(4).tolist() == [1, 1 / 2, 3 / 8, 5 / 16]
    assert np.convolve(coefficients(50), coefficients(50))[:50] == pytest.approx(np.ones(50))
    assert column_norm(3) == pytest.approx(math.sqrt(1 + 1 / 4 + 9 / 64))


def play(bands, rounds, size, sums=None, sigma=1.0):
    """(released, noise, fresh noise), each [rounds, size], of `rounds` rounds by an insecure seed."""
    back, found = [], []
    for number in range(rounds):
        total = np.zeros(size) if sums is None else sums[number]
        released, noise = noised(total, sigma, back, bands, insecure_words(number))
        found.append((released, noise, fine_discrete_gaussian(insecure_words(number), size)))
        back = [noise, *back][: bands - 1]
    return tuple(np.stack(part) for part in zip(*found, strict=True))


@pytest.mark.parametrize(("bands", "rounds"), [(1, 4), (2, 9), (3, 12), (8, 8), (16, 40)])
def test_the_noise_solves_c_z_is_g(bands, rounds):
    """By dense linear algebra: C Z misses G by half a cell at most, for rounding, and Z is what inverting C gives."""
    _, noise, fresh = play(bands, rounds, 50)
    assert np.abs(dense(bands, rounds) @ noise - fresh).max() <= 0.5 + 1e-6
    assert np.abs(np.linalg.solve(dense(bands, rounds), fresh) - noise).max() <= 0.5 * 2.2 + 1e-6


def test_noise_does_not_depend_on_what_it_is_added_to():
    sums = np.random.default_rng(1).normal(size=(6, 40)) * 3
    released, noise, _ = play(3, 6, 40, sums)
    assert np.array_equal(noise, play(3, 6, 40)[1])
    cell = 1.0 / FINE_CELLS
    assert released == pytest.approx(np.rint(sums / cell) * cell + noise * cell, abs=1e-6)


def test_rows_of_the_inverse_are_short_so_that_noise_fits_its_words():
    """Each fresh value is below 16383 (1 + 400 + 12800), and sums of rows without their signs below 2.2."""
    for bands in (2, 3, 5, 16, 64):
        inverse = np.linalg.inv(dense(bands, 10 * bands))
        assert np.abs(inverse).sum(axis=1).max() < 2.2
    assert 2.2 * (16383 * 13201 + 1) < 2**31


@given(bands=st.integers(2, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_rounding_moves_neighbours_by_no_more_than_is_kept_free(bands, seed):
    """Given the releases, a client's whole numbers move a row of the rounded noise by what they move C x, and 1.5."""
    rng = np.random.default_rng(seed)
    before = rng.integers(-(2**27), 2**27, (bands - 1, 30)).astype(np.int32)
    moved = np.zeros_like(before)
    place = rng.integers(bands - 1)
    moved[place] = rng.integers(-(2**22), 2**22, 30)
    rows = [noised(np.zeros(30), 1.0, list(one), bands, insecure_words(seed))[1] for one in (before, before - moved)]
    exact = coefficients(bands)[place + 1] * moved[place]
    assert np.abs((rows[1] - rows[0]).astype(float) - exact).max() <= 1.5


def test_what_rounding_takes_is_kept_free_of_the_norm():
    """A client's whole column, rounded in each row as badly as can be, is within the norm times the column's."""
    bands, size, spread, clip = 8, 10_000, 20.0, 2.0
    transform = CorrelatedDP.from_options({"clipping_norm": clip, "bands": bands})
    bound = transform._reach(clip, spread, size, bands)
    cell = spread * clip / FINE_CELLS
    moved = bound / cell / math.sqrt(size) + 1.0
    rows = [coefficients(bands)[r] * moved + (1.5 if r else 0.0) for r in range(bands)]
    assert math.sqrt(size * sum(row**2 for row in rows)) * cell <= clip * column_norm(bands)
    assert bound > 0.99 * clip
    assert stretch(spread * clip, size, 1) == pytest.approx(cell * math.sqrt(size))


def patterns(rounds, separation):
    """All ways to take part in some of so many rounds, at least `separation` apart."""
    for chosen in product((0, 1), repeat=rounds):
        places = np.flatnonzero(chosen)
        if (np.diff(places) >= separation).all():
            yield np.array(chosen)


@pytest.mark.parametrize(("bands", "separation"), [(1, 1), (1, 3), (2, 2), (2, 4), (3, 3), (3, 4), (4, 5)])
def test_what_rounds_cost_is_what_the_worst_pattern_says(bands, separation):
    """By brute force, for every number of rounds: the longest C u over all patterns of taking part."""
    for rounds in range(1, 11):
        factor = dense(bands, rounds)
        worst = max(float((factor @ u) @ (factor @ u)) for u in patterns(rounds, separation))
        charged = squared(cyclic(2.0, bands, separation).over(rounds))
        assert charged == pytest.approx(worst / (2.0 * column_norm(bands)) ** 2)


@given(
    bands=st.integers(1, 4),
    more=st.integers(0, 2),
    rounds=st.integers(1, 9),
    times=st.lists(st.integers(1, 4), min_size=9, max_size=9),
)
@settings(deadline=None, max_examples=60)
def test_rounds_that_are_played_again_are_never_charged_too_little(bands, more, rounds, times):
    """Round t is released times[t] times, with new noise each time, from the state before it: its row counts as often,
    for every pattern."""
    release = cyclic(1.0, bands, bands + more)
    charged = {**release.over(rounds)}
    for again in range(sum(times[:rounds]) - rounds):
        charged[release.at(again + 1).again()] = charged.get(release.again(), 0) + 1
    repeats = np.array(times[:rounds])
    factor = dense(bands, rounds)
    worst = max(float(repeats @ (factor @ u) ** 2) for u in patterns(rounds, bands + more))
    assert squared(charged) * column_norm(bands) ** 2 >= worst * (1 - 1e-12)


def test_rounds_add_up_one_by_one():
    release = cyclic(1.5, 3, 5)
    for first, count in ((1, 13), (4, 1), (5, 6), (11, 0)):
        one_by_one = {}
        for number in range(first, first + count):
            one_by_one[release.at(number)] = one_by_one.get(release.at(number), 0) + 1
        assert release.over(count, first) == one_by_one


def test_epsilon_by_hand():
    """Ten rounds, a client's turn every fourth, three bands: two whole columns, and 1 + 1/4 of a third."""
    column = 1 + 1 / 4 + 9 / 64
    mu = math.sqrt((2 * column + 1 + 1 / 4) / column) / 2.0
    assert epsilon(cyclic(2.0, 3, 4).over(10), 1e-5, "zero-out") == pytest.approx(gaussian_epsilon(mu, 1e-5))
    assert epsilon(cyclic(2.0, 3, 4).over(10), 1e-5, "replace-one") == pytest.approx(gaussian_epsilon(2 * mu, 1e-5))
    whole = epsilon(cyclic(2.0, 3, 4).over(12), 1e-5, "zero-out")
    assert whole == pytest.approx(gaussian_epsilon(math.sqrt(3) / 2.0, 1e-5))
    assert whole == epsilon(cyclic(2.0, 3, 4).over(12), 1e-5, "zero-out", "observer")


def test_one_band_costs_what_independent_noise_costs():
    for rounds in (1, 5, 8, 9):
        taking_part = math.ceil(rounds / 4)
        one = epsilon(cyclic(2.0, 1, 4).over(rounds), 1e-5, "zero-out")
        assert one == epsilon({Release("all", 2.0): taking_part}, 1e-5, "zero-out")


def test_other_releases_add_up_with_it():
    both = {**cyclic(4.0, 3, 4).over(8), Release("all", 3.0): 2}
    assert epsilon(both, 1e-5, "zero-out") == pytest.approx(gaussian_epsilon(math.sqrt(2 / 16 + 2 / 9), 1e-5))
    drawn = {**both, Release("poisson", 2.0, rate=0.1): 5}
    found = {by: epsilon(drawn, 1e-5, "zero-out", accountant=by) for by in ("pld", "rdp")}
    assert epsilon(both, 1e-5, "zero-out") < found["pld"] < found["rdp"]


def test_add_remove_is_no_relation_of_cohorts_in_turn():
    with pytest.raises(IncompatibleError, match="changes the selection"):
        epsilon(cyclic(4.0, 3, 4).over(8), 1e-5, "add-remove")


@pytest.mark.parametrize("wrong", [{"bands": 5}, {"bands": 0}, {"place": 4}, {"place": -1}])
def test_releases_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError):
        Release(**{"sampling": "cyclic", "noise_multiplier": 1.0, "bands": 3, "separation": 4, "place": 1, **wrong})


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("rounds", [7, 20])
def test_calibrated_noise_meets_the_target_and_never_exceeds_it(target, rounds):
    noise = calibrate(PlannedRounds(cyclic(1.0, 3, 4), rounds), PrivacyTarget(target, 1e-5, "zero-out"))
    assert epsilon(cyclic(noise, 3, 4).over(rounds), 1e-5, "zero-out") <= target
    assert epsilon(cyclic(noise * 0.995, 3, 4).over(rounds), 1e-5, "zero-out") > target
    assert affordable(PlannedRounds(cyclic(noise, 3, 4), 100), PrivacyTarget(target, 1e-5, "zero-out")) >= rounds


def test_prefix_sums_have_the_noise_that_theory_gives_and_less_than_independent_noise():
    """A C^-1 for the noise of prefix sums A; independent noise of the same epsilon has t z^2 after t rounds."""
    bands, rounds, size, z = 8, 24, 4000, 1.0
    sigma = z * column_norm(bands)
    noise = play(bands, rounds, size, sigma=sigma)[1] * (sigma / FINE_CELLS)
    sums = np.cumsum(noise, axis=0)
    rows = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(dense(bands, rounds))
    expected = sigma**2 * (rows**2).sum(axis=1)
    # The variance of `size` Gaussian draws is chi-square: five of its standard deviations.
    assert np.abs(sums.var(axis=1) / expected - 1).max() < 5 * math.sqrt(2 / size)
    assert stats.kstest(sums[-1] / math.sqrt(expected[-1]), "norm").pvalue > 1e-4
    assert (expected[2:] < z**2 * np.arange(1, rounds + 1)[2:]).all()
    assert expected[-1] < 0.5 * z**2 * rounds


def test_the_noise_of_a_release_is_what_the_column_of_a_client_asks_for():
    """z times the norm of a column times the clipping norm, over the fixed number of clients that are expected."""
    transform = CorrelatedDP.from_options(
        {"noise_multiplier": 2.0, "clipping_norm": 0.5, "bands": 4, "insecure_seed": 1}
    )
    state = transform._begun(transform.init({"delta": 20_000}), 2.0, 30.0)
    ctx = ServerContext(1, 7, np.random.default_rng(0))
    aggregate, _ = transform.on_server(Aggregate({"delta": np.zeros(20_000)}, 7.0, 7), state, ctx)
    sigma = 2.0 * 0.5 * math.sqrt(1 + 1 / 4 + 9 / 64 + 25 / 256)
    assert aggregate.arrays["delta"].std() == pytest.approx(sigma, rel=5 / math.sqrt(2 * 20_000))
    assert aggregate.weight == 30.0


def test_fine_noise_is_gaussian_on_every_cell():
    drawn = fine_discrete_gaussian(secure_words(), 200_000)
    assert stats.kstest(drawn[:50_000] / FINE_CELLS, "norm").pvalue > 1e-4
    assert drawn.std() == pytest.approx(FINE_CELLS, rel=5 / math.sqrt(2 * drawn.size))
    for modulus in (400, 128):
        counts = np.bincount(drawn % modulus, minlength=modulus)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert np.abs(drawn).max() < 2**28


def test_a_run_charges_each_round_its_own_part(trial):
    result = train(*trial.prepare(ftrl(noise_multiplier=2.0)))
    ledger = ledger_of(trial).read()
    assert [charge.release.place for charge in ledger.charges] == [1, 2, 3, 1, 2]
    assert {(c.release.bands, c.release.separation) for c in ledger.charges} == {(3, 3)}
    assert (dict(ledger.releases()), ledger.relation) == (dict(cyclic(2.0, 3, 3).over(5)), "zero-out")
    said = result.summary["transforms"]["dp-ftrl"]
    assert said["epsilon"] == pytest.approx(epsilon(cyclic(2.0, 3, 3).over(5), 1e-5, "zero-out"))
    words = "zero-out, DP-FTRL of 3 bands, separation 3, at most 2 participations, z=2 T=5, exact Gaussian"
    assert words in said["statement"]
    spent = [line["transforms"]["dp-ftrl"]["epsilon"] for line in result.directory.lines()]
    assert spent == sorted(spent)


def test_rounds_beyond_the_bands_cost_nothing_and_are_charged(trial):
    train(*trial.prepare(ftrl(noise_multiplier=2.0, bands=1)))
    assert [charge.release.place for charge in ledger_of(trial).read().charges] == [1, 0, 0, 1, 0]


def test_a_round_that_is_played_again_is_charged_in_full(trial):
    run, directory = trial.prepare(ftrl(noise_multiplier=2.0), "rounds=3")
    train(run, directory)
    for number in (2, 3):
        directory.checkpoints.remove(number)
    longer = run.config.model_copy(update={"rounds": 4})
    train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    charges = ledger_of(trial).read().charges
    assert [(charge.round, charge.release.place) for charge in charges] == [
        *((1, 1), (2, 2), (3, 3)),
        *((2, 1), (3, 1), (4, 1)),
    ]


def test_a_resumed_run_goes_on_with_the_noise_on_hand(trial):
    """Model and state, the ring of noise among it, are bit for bit those of a run that was not cut off."""
    options = ftrl(noise_multiplier=0.1, insecure_seed=7)
    whole, parts = trial.train(options), trial.train_in_two(options)
    assert whole.digests == parts.digests
    from safetensors.numpy import load_file

    state = load_file(max((parts.directory / "checkpoints").glob("round-*")) / "state.safetensors")
    past = {name: vector for name, vector in state.items() if "past." in name}
    assert {name.split("past.")[1] for name in past} == {"0.delta", "1.delta"}
    assert {vector.dtype for vector in past.values()} == {np.dtype(np.int32)}
    assert all(vector.any() for vector in past.values())


def test_the_state_does_not_grow_with_the_rounds():
    transform = CorrelatedDP.from_options({"noise_multiplier": 1.0, "insecure_seed": 1, "bands": 4})
    state, sizes = transform.init({"delta": 10}), []
    for number in range(1, 12):
        ctx = ServerContext(number, 4, np.random.default_rng(number))
        _, state = transform.on_server(Aggregate({"delta": np.zeros(10)}, 1.0, 1), state, ctx)
        sizes.append(sum(vector.nbytes for name, vector in state.items() if name.startswith("past.")))
    assert sizes[:4] == [40, 80, 120, 120]
    assert set(sizes[2:]) == {120}


def test_target_epsilon_finds_the_noise_for_all_rounds_and_keeps_to_it(trial):
    run, directory = trial.prepare(ftrl(target_epsilon=4.0))
    result = train(run, directory)
    said = result.summary["transforms"]["dp-ftrl"]
    assert 3.98 < said["epsilon"] <= 4.0
    longer = run.config.model_copy(update={"rounds": 9})
    result = train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    assert (result.status, result.rounds) == ("budget", 5)
    assert epsilon(ledger_of(trial).read().releases(), 1e-5, "zero-out") <= 4.0


def test_a_longer_run_counts_the_turns_that_it_really_has(trial):
    run, directory = trial.prepare(ftrl(noise_multiplier=2.0), "rounds=3")
    train(run, directory)
    longer = run.config.model_copy(update={"rounds": 7})
    result = train(Run.build(longer, run.registry, trial.partition, directory.memory), directory)
    said = result.summary["transforms"]["dp-ftrl"]
    assert said["epsilon"] == pytest.approx(epsilon(cyclic(2.0, 3, 3).over(7), 1e-5, "zero-out"))
    assert "at most 3 participations" in said["statement"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([ftrl(bands=4)], "may take part again after 3 rounds"),
        ([ftrl(), "cohort.sampling=fixed"], "is 'fixed'"),
        ([ftrl(relation="add-remove")], "changes the selection of others"),
    ],
)
def test_cohorts_that_may_come_again_too_soon_are_refused(trial, overrides, said):
    with pytest.raises(IncompatibleError, match=said):
        trial.prepare(*overrides)


def test_other_samplings_are_refused(tmp_path):
    trial = Trial(tmp_path)
    with pytest.raises(IncompatibleError, match="is 'poisson'"):
        trial.prepare(ftrl(), "cohort.sampling=poisson", "cohort.rate=0.5")
    with pytest.raises(IncompatibleError, match="again after 1 round:"):
        trial.prepare(ftrl(bands=2))


def test_numbers_that_leave_nothing_are_refused(trial):
    with pytest.raises(ConfigError, match=r"hides an update (almost )?completely"):
        trial.prepare(ftrl(noise_multiplier=2e6))
    with pytest.raises(ValidationError):
        CorrelatedDP.from_options({"bands": 0})


@pytest.mark.parametrize(("clients", "eligible"), [(3, 10), (4, 9), (9, 9), (5, 9), (1, 7)])
def test_cohorts_in_turn_keep_the_separation_that_is_accounted(clients, eligible):
    from flctl.config.config import CohortConfig
    from flctl.run.cohort import select

    config, ids = CohortConfig(sampling="cyclic", clients=clients), [str(n) for n in range(eligible)]
    last = {}
    for number in range(1, 60):
        for client in select(config, np.arange(eligible), ids, number, 3).tolist():
            assert number - last.get(client, -99) >= eligible // clients
            last[client] = number


def test_a_trace_whose_clients_have_turns_is_accounted_by_them(tmp_path):
    trial = Trial(tmp_path, "rounds=5")
    trace = tmp_path / "trace.csv"
    names = trial.partition.client_ids
    trace.write_text("client,first_round,last_round\n" + "".join(f"{name},1,{4 + n}\n" for n, name in enumerate(names)))
    cohort = ["cohort.sampling=trace", "cohort.clients=2", f"cohort.trace={trace.as_posix()}"]
    with pytest.raises(IncompatibleError, match="is 'trace'"):
        trial.prepare(ftrl(), *cohort)
    train(*trial.prepare(ftrl(noise_multiplier=2.0, bands=2), *cohort, "cohort.separation=4"))
    ledger = ledger_of(trial).read()
    assert [charge.release.place for charge in ledger.charges] == [1, 2, 0, 0, 1]
    assert {charge.release.separation for charge in ledger.charges} == {4}


def test_devices_that_are_asked_beyond_the_cohort_come_again_sooner(trial):
    """Nine clients by three, of whom half as many more are asked: five a round, so that each may come every round."""
    with pytest.raises(IncompatibleError, match="again after 1 round:"):
        trial.prepare(ftrl(bands=2), "devices.over_selection=0.5", "devices.speed=100")


def test_two_runs_on_one_population_add_up(trial):
    for _ in range(2):
        result = train(*trial.prepare(ftrl(noise_multiplier=4.0)))
    said = result.summary["transforms"]["dp-ftrl"]
    both = {release: 2 * count for release, count in cyclic(4.0, 3, 3).over(5).items()}
    assert said["population_epsilon"] == pytest.approx(epsilon(both, 1e-5, "zero-out"))
    assert said["population_epsilon"] > said["epsilon"]


@pytest.fixture
def cli(capsys):
    from flctl.cli import run

    def call(*arguments):
        code = run(["dp", *map(str, arguments), "--json"])
        told = json.loads(capsys.readouterr().out)
        return code, told.get("data") or told["error"]

    return call


PLAN = ("plan", "--population", 1000, "--cohort", 100, "--rounds", 25, "--sampling", "cyclic")


def test_a_plan_knows_how_often_a_client_comes(cli):
    code, data = cli(*PLAN, "--noise-multiplier", 2, "--bands", 4)
    assert code == 0
    assert data["epsilon"] == epsilon(cyclic(2.0, 4, 10).over(25), 1e-5, "zero-out")
    assert "DP-FTRL of 4 bands, separation 10, at most 3 participations, z=2 T=25" in data["statement"]
    code, data = cli(*PLAN, "--target-epsilon", 2)
    assert 1.99 < data["epsilon"] <= 2
    assert data["epsilon"] == data["observer_epsilon"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--bands", 11], 3, "again after 10 rounds"),
        (["--sampling", "poisson", "--bands", 2], 2, "no effect"),
        (["--cohort", 1.5], 2, "whole number"),
        (["--relation", "add-remove"], 3, "changes the selection"),
    ],
)
def test_plans_that_cannot_be_are_told(cli, arguments, code, said):
    found, error = cli(*PLAN, "--noise-multiplier", 2, *arguments)
    assert (found, said in error["message"]) == (code, True), error


def test_what_is_left_counts_from_the_round_that_comes_next(trial, cli):
    train(*trial.prepare(ftrl(noise_multiplier=2.0), "rounds=4"))
    code, data = cli("status", trial.partition.path, "--target-epsilon", 5)
    left = data["rounds_left"]
    assert (code, data["charges"], data["like"]) == (0, 4, "DP-FTRL of 3 bands, separation 3")
    assert epsilon(cyclic(2.0, 3, 3).over(4 + left), 1e-5, "zero-out") <= 5
    assert epsilon(cyclic(2.0, 3, 3).over(5 + left), 1e-5, "zero-out") > 5


def test_ledgers_keep_rounds_of_this_kind_and_of_the_older_ones():
    for release in (cyclic(2.0, 3, 4), cyclic(2.0, 3, 4).at(4), Release("all", 2.0), Release("poisson", 1.0, rate=0.5)):
        assert Release.of(json.loads(json.dumps(release.fields())), "line 3") == release
    assert set(Release("all", 2.0).fields()) == {"sampling", "noise_multiplier", "rate", "cohort", "population"}
    for wrong in ({"bands": 3.0}, {"place": 9}, {"more": 1}, {"separation": None}):
        with pytest.raises(IntegrityError):
            Release.of({**cyclic(2.0, 3, 4).fields(), **wrong}, "line 3")
