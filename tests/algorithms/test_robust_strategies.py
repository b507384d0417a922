"""Robust rules: against numbers by hand, against a straightforward oracle, and against clients that lie."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support import ScriptedEngine, make_run

from flctl import arrays, wire
from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.algorithms.strategies import centered_clipping, krum, update_matrix
from flctl.algorithms.strategy import StepContext, Strategy
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import IncompatibleError
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.types import WEIGHT, Aggregate, ClientUpdate, Failure, LocalWork, Trained, Work

ROOT = "00"
OPTIONS = {"fltrust": {"root": ROOT}}
ROBUST = sorted(
    name for name in Registry().offers("strategy") if issubclass(Registry().get("strategy", name), update_matrix.Robust)
)
WITHIN = ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"]
"""Rules whose result lies within the range of the honest clients' values, coordinate by coordinate."""
quick = settings(deadline=None, max_examples=25)
thorough = settings(deadline=None, max_examples=100)


def make(name: str, **options) -> Strategy:
    return Registry().get("strategy", name).from_options({**OPTIONS.get(name, {}), **options})


def updates(values, weights=None, split=None) -> list[ClientUpdate]:
    """One client for each line of `values` [n, D]; with `split`, the columns from there on are its buffers."""
    values = np.asarray(values)
    values = values if values.dtype.kind == "f" and values.dtype != np.float64 else values.astype(np.float32)
    weights = np.ones(len(values)) if weights is None else weights
    return [
        ClientUpdate(f"{i:02d}", _vectors(line, split), float(weight))
        for i, (line, weight) in enumerate(zip(values, weights, strict=True))
    ]


def _vectors(line, split):
    return {"delta": line} if split is None else {"delta": line[:split], "buffers": line[split:]}


def result(strategy: Strategy, clients: list[ClientUpdate]) -> np.ndarray:
    return np.concatenate(list(strategy.combine(clients).values()))


# By hand


def test_median_by_hand():
    clients = updates([[1, 0, 9], [2, 5, -9], [3, 4, 0]], [1, 100, 1])
    np.testing.assert_array_equal(result(make("fedmedian"), clients), [2, 4, 0])
    np.testing.assert_array_equal(result(make("fedmedian"), clients[:2]), [1.5, 2.5, 0])


def test_trimmed_mean_by_hand():
    clients = updates([[1, 0], [2, 5], [3, 1], [4, -90], [50, 3]], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(result(make("fedtrimmedavg", trim=0.2), clients), [3, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(result(make("fedtrimmedavg", trim=0), clients), [12, -81 / 5], rtol=1e-6)


def test_krum_by_hand():
    """On a line at 0, 1, 3, 4, 90 with f = 1 each counts its two nearest: 10, 5, 5, 10, about 15,000; the second and
    third are level, and the second comes first."""
    clients = updates([[0], [1], [3], [4], [90]])
    np.testing.assert_array_equal(result(make("krum", num_malicious=1), clients), [1])
    np.testing.assert_array_equal(result(make("multikrum", num_malicious=1, num_selected=2), clients), [2])
    np.testing.assert_array_equal(result(make("multikrum", num_malicious=1), clients), [2])  # (0 + 1 + 3 + 4) / 4


def test_bulyan_by_hand():
    """f = 1 of seven at 0, 1, 2, 3, 4, 5, 90: Krum picks 2, 3, 1, 4 and 0 in turn, and of these 1, 2 and 3 are nearest
    to the median. The turns: 2 and 3 are level at 10 with four neighbours; 3 leads by 9 to 11 with three; 1 and 4 are
    level at 10 with two; 4 and 5 at 1 with one; 0 and 5 at 25 with one."""
    found = result(make("bulyan", num_malicious=1), updates([[0], [1], [2], [3], [4], [5], [90]]))
    np.testing.assert_array_equal(found, [2])


def test_geometric_median_by_hand():
    """The middle one of three on a line, and the centre of a square; with most of the weight, the heavy client."""
    line = result(make("geometric-median"), updates([[0, 0], [1, 1], [7, 7]]))
    np.testing.assert_allclose(line, [1, 1], atol=1e-4)
    square = result(make("geometric-median"), updates([[0, 0], [0, 2], [2, 0], [2, 2]]))
    np.testing.assert_allclose(square, [1, 1], atol=1e-5)
    heavy = updates([[0, 0], [1, 1], [7, 7]], [1, 1, 5])
    np.testing.assert_allclose(result(make("geometric-median"), heavy), [7, 7], atol=1e-4)
    np.testing.assert_allclose(result(make("geometric-median", weighted=False), heavy), [1, 1], atol=1e-4)


def test_norm_bounding_by_hand():
    """Norms 5, 10 and 1 with the bound 5: (3, 4), half of (6, 8), and (0, 1) as it is; the median of norms is 5 too."""
    clients = updates([[3, 4], [6, 8], [0, 1]], [1, 1, 2])
    expected = [(3 + 3) / 4, (4 + 4 + 2) / 4]
    np.testing.assert_allclose(result(make("norm-bounding", bound=5), clients), expected, rtol=1e-6)
    np.testing.assert_allclose(result(make("norm-bounding"), clients), expected, rtol=1e-6)
    np.testing.assert_allclose(result(make("norm-bounding", weighted=False), clients), [2, 3], rtol=1e-6)
    np.testing.assert_allclose(result(make("norm-bounding", bound=50), clients), [9 / 4, 14 / 4], rtol=1e-6)


def test_centered_clipping_by_hand():
    """Around 0 with tau = 5: (3, 4) stays, (6, 8) becomes (3, 4), (0, 1) stays: v = (2, 3). Around that, the distances
    are sqrt(2), sqrt(41) and sqrt(8), so the second, (4, 5) away, is scaled by 5 / sqrt(41)."""
    clients = updates([[3, 4], [6, 8], [0, 1]], [1, 7, 2])
    np.testing.assert_allclose(result(make("centered-clipping", tau=5), clients), [2, 3], rtol=1e-6)
    scale = 5 / np.sqrt(41)
    second = [2 + (1 + 4 * scale - 2) / 3, 3 + (1 + 5 * scale - 2) / 3]
    np.testing.assert_allclose(result(make("centered-clipping", tau=5, iterations=2), clients), second, rtol=1e-6)


def test_fltrust_by_hand():
    """Root (0, 2). (0, 8): cosine 1, scaled to (0, 2). (3, 3): cosine 1 / sqrt(2), scaled to sqrt(2) (1, 1). (0, -1)
    and (5, 0): no trust. So ((0, 2) + (1, 1)) / (1 + 1 / sqrt(2))."""
    clients = updates([[0, 2], [0, 8], [3, 3], [0, -1], [5, 0]], [1, 2, 3, 4, 5])
    trust = 1 + 1 / np.sqrt(2)
    np.testing.assert_allclose(result(make("fltrust"), clients), [1 / trust, 3 / trust], rtol=1e-6)
    distrusted = updates([[0, 2], [0, -1], [0, 0]])
    np.testing.assert_array_equal(result(make("fltrust"), distrusted), [0, 0])


# Against a straightforward oracle


def oracle_krum(x, f, m):
    scores = []
    for i, one in enumerate(x):
        squared = sorted(
            sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for j, other in enumerate(x) if j != i
        )
        scores.append(sum(squared[: len(x) - f - 2]))
    chosen = sorted(range(len(x)), key=lambda i: (scores[i], i))[:m]
    return [sum(x[i][d] for i in chosen) / m for d in range(len(x[0]))]


def oracle_trimmed(x, cut):
    columns = [sorted(column)[cut : len(x) - cut] for column in zip(*x, strict=True)]
    return [sum(column) / len(column) for column in columns]


def oracle_bulyan(x, f):
    left, chosen = list(range(len(x))), []
    while len(chosen) < len(x) - 2 * f:
        scores = []
        for i in left:
            squared = sorted(sum((a - b) ** 2 for a, b in zip(x[i], x[j], strict=True)) for j in left if j != i)
            scores.append(sum(squared[: max(1, len(left) - f - 2)]))
        chosen.append(left.pop(scores.index(min(scores))))
    means = []
    for d in range(len(x[0])):
        values = sorted(x[i][d] for i in chosen)
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        nearest = sorted(values, key=lambda v: (abs(v - middle), v))[: len(chosen) - 2 * f]
        means.append(sum(nearest) / len(nearest))
    return means


def oracle_clipped(x, tau, iterations):
    v = np.zeros(len(x[0]))
    for _ in range(iterations):
        away = [np.array(one) - v for one in x]
        v = v + sum(a * min(1, tau / max(np.linalg.norm(a), 1e-300)) for a in away) / len(x)
    return v


def oracle_trust(x):
    root, total, scores = np.array(x[0]), np.zeros(len(x[0])), 0.0
    for one in map(np.array, x[1:]):
        both = np.linalg.norm(one) * np.linalg.norm(root)
        score = max(0.0, float(one @ root) / both) if both else 0.0
        if score:
            total += score * np.linalg.norm(root) / np.linalg.norm(one) * one
            scores += score
    return total / scores if scores else total


@st.composite
def cohorts(draw, least=1, most=9):
    """Lists [n, D] of small multiples of 1/2, with many ties and duplicates; sums and squares of them are exact."""
    n, d = draw(st.integers(least, most)), draw(st.integers(2, 5))
    value = st.integers(-6, 6).map(lambda i: i / 2)
    return draw(st.lists(st.lists(value, min_size=d, max_size=d), min_size=n, max_size=n))


@quick
@given(cohorts(), st.integers(0, 49))
def test_trimmed_mean_and_median_are_the_oracles(x, percent):
    cut = percent * len(x) // 100
    if percent == 0 or cut:
        found = result(make("fedtrimmedavg", trim=percent / 100), updates(x, split=1))
        np.testing.assert_allclose(found, oracle_trimmed(x, cut), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(result(make("fedmedian"), updates(x, split=1)), np.median(x, axis=0))


@pytest.mark.parametrize("n", [2, 3, 50, 101])
def test_trimming_many_is_what_scipy_does(n):
    values = np.random.default_rng(n).normal(size=(n, 30)).astype(np.float32)
    for trim in (0.0, 0.1, 0.25, 0.49):
        if trim * n >= 1 or trim == 0:
            found = result(make("fedtrimmedavg", trim=trim), updates(values))
            np.testing.assert_allclose(found, stats.trim_mean(values.astype(np.float64), trim), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result(make("fedmedian"), updates(values)), np.median(values, axis=0))


@quick
@given(cohorts(least=3), st.data())
def test_krum_and_multikrum_are_the_oracles(x, data):
    f = data.draw(st.integers(0, (len(x) - 3) // 2))
    m = data.draw(st.integers(1, len(x)))
    np.testing.assert_array_equal(result(make("krum", num_malicious=f), updates(x, split=1)), oracle_krum(x, f, 1))
    several = result(make("multikrum", num_malicious=f, num_selected=m), updates(x, split=1))
    np.testing.assert_allclose(several, oracle_krum(x, f, m), rtol=1e-6, atol=1e-6)


@quick
@given(cohorts(least=3, most=11), st.data())
def test_bulyan_is_the_oracle(x, data):
    f = data.draw(st.integers(0, (len(x) - 3) // 4))
    found = result(make("bulyan", num_malicious=f), updates(x, split=1))
    np.testing.assert_allclose(found, oracle_bulyan(x, f), rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=5)
@given(cohorts(), st.data())
def test_the_geometric_median_is_where_the_weighted_distance_is_least(x, data):
    """No step in any of many directions gets below the median found, nor does any client's update or their mean."""
    check_geometric_median(x, data)


@pytest.mark.slow
@thorough
@given(cohorts(), st.data())
def test_the_geometric_median_of_many_cohorts_is_where_the_weighted_distance_is_least(x, data):
    check_geometric_median(x, data)


def check_geometric_median(x, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(x), max_size=len(x)))
    found = result(make("geometric-median", iterations=2000, tolerance=1e-12), updates(x, weights, split=1))
    points = np.array(x)

    def distance(z):
        return np.dot(weights, np.linalg.norm(points - z, axis=1)) / np.sum(weights)

    steps = np.random.default_rng(0).normal(size=(40, points.shape[1])) * np.logspace(-3, 0, 40)[:, None]
    rivals = [*points, np.average(points, axis=0, weights=weights), *(found + steps)]
    assert distance(found) <= min(map(distance, rivals)) + 1e-4


@quick
@given(cohorts(), st.sampled_from([0.25, 1.0, 4.0]), st.integers(1, 4))
def test_centered_clipping_is_the_oracle(x, tau, iterations):
    found = result(make("centered-clipping", tau=tau, iterations=iterations), updates(x, split=1))
    np.testing.assert_allclose(found, oracle_clipped(x, tau, iterations), rtol=1e-5, atol=1e-5)


@quick
@given(cohorts(least=2))
def test_fltrust_is_the_oracle(x):
    np.testing.assert_allclose(result(make("fltrust"), updates(x, split=1)), oracle_trust(x), rtol=1e-5, atol=1e-5)


@quick
@given(cohorts(), st.sampled_from([None, 0.5, 2.0]), st.data())
def test_norm_bounding_is_the_oracle(x, bound, data):
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(x), max_size=len(x)))
    lengths = np.linalg.norm(x, axis=1)
    limit = np.median(lengths) if bound is None else bound
    expected = np.zeros(len(x[0]))
    for one, length, weight in zip(x, lengths, weights, strict=True):
        expected += weight / sum(weights) * np.array(one) * (limit / length if length > limit else 1)
    found = result(make("norm-bounding", bound=bound), updates(x, weights, split=1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_of_many_equal_scores_the_first_are_taken():
    level = np.ones((40, 40)) - np.eye(40)
    assert krum.best(level, 1, 7).tolist() == list(range(7))
    assert krum.one_by_one(level, 1, 7) == list(range(7))


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBUST)
def test_a_rule_takes_little_more_memory_than_the_updates(name, monkeypatch):
    """Its share is that of a few blocks of columns and of the result, however many clients there are."""
    monkeypatch.setattr(update_matrix, "_ELEMENTS", 1 << 16)
    clients = updates(np.random.default_rng(0).normal(size=(40, 100_000)))
    tracemalloc.start()
    result(make(name), clients)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.25 * 40 * 100_000 * 4


@pytest.mark.parametrize("name", ROBUST)
def test_walking_in_blocks_of_columns_changes_nothing(name, monkeypatch):
    clients = updates(np.random.default_rng(3).normal(size=(9, 50)), range(1, 10), split=40)
    whole = result(make(name), clients)
    monkeypatch.setattr(update_matrix, "_ELEMENTS", 9 * 7)
    np.testing.assert_allclose(result(make(name), clients), whole, rtol=1e-5, atol=1e-6)


# Reductions


@quick
@given(cohorts(least=3))
def test_rules_that_bear_nobody_are_the_unweighted_mean(x):
    mean = np.mean(x, axis=0)
    bare = {
        "fedtrimmedavg": {"trim": 0},
        "multikrum": {"num_malicious": 0, "num_selected": len(x)},
        "bulyan": {"num_malicious": 0},
        "norm-bounding": {"bound": 1e6, "weighted": False},
        "centered-clipping": {"tau": 1e6},
    }
    for name, options in bare.items():
        found = result(make(name, **options), updates(x, range(1, len(x) + 1)))
        np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ROBUST)
def test_clients_that_agree_have_their_way(name):
    found = result(make(name), updates([[1, -2, 3]] * 7))
    bounded = {"centered-clipping": 1 / np.sqrt(14)}.get(name, 1)
    np.testing.assert_allclose(found, np.array([1, -2, 3]) * bounded, rtol=1e-5)


# Clients that lie


def lies(kind: str, honest: np.ndarray, f: int) -> np.ndarray:
    """What f malicious clients send, [f, D]."""
    d = honest.shape[1]
    far = {"far": 1e6, "huge": 1e38, "largest": np.finfo(np.float32).max}.get(kind, 1e6)
    if kind == "spread":
        return far * np.random.default_rng(5).normal(size=(f, d))
    if kind == "two sides":
        return far * np.where(np.arange(f)[:, None] % 2, 1, -1) * np.ones((f, d))
    return np.full((f, d), far)


@pytest.mark.parametrize("kind", ["far", "huge", "largest", "spread", "two sides"])
@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_malicious_clients_do_not_get_through(name, kind, dtype):
    """f = 2 of 11, whatever their size: the result stays where the honest clients are, as each rule promises it."""
    honest = np.random.default_rng(2).normal(1.0, 0.3, size=(9, 6))
    bad = lies(kind, honest, 2).astype(dtype)
    clients = updates(honest, split=4)
    clients += [ClientUpdate(f"x{i}", _vectors(line, 4), 1.0) for i, line in enumerate(bad)]
    malicious = {"num_malicious": 2} if name in ("krum", "multikrum", "bulyan") else {}
    found = result(make(name, **malicious), clients)
    norms = np.linalg.norm(honest, axis=1)
    assert np.isfinite(found).all()
    if name in WITHIN:
        assert (found >= honest.min(axis=0) - 1e-6).all()
        assert (found <= honest.max(axis=0) + 1e-6).all()
    elif name == "geometric-median":  # Lopuhaa and Rousseeuw 1991: 2 (1 - a) / (1 - 2 a) times the honest radius
        radius = np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
        assert np.linalg.norm(found - honest.mean(axis=0)) <= 2 * (9 / 11) / (7 / 11) * radius
    else:
        bound = {"norm-bounding": norms.max(), "centered-clipping": 1.0, "fltrust": norms[0]}[name]
        assert np.linalg.norm(found) <= bound * (1 + 1e-5)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("value", [1e300, -1e300])
def test_values_beyond_float32_do_not_overflow(name, value):
    """Nothing keeps a client from sending float64."""
    clients = updates(np.random.default_rng(2).normal(size=(9, 3)))
    clients.append(ClientUpdate("x", {"delta": np.full(3, value)}, 1e300))
    with np.errstate(all="raise", under="ignore"):
        found = result(
            make(name, **({"weighted": False} if name in ("geometric-median", "norm-bounding") else {})), clients
        )
    assert np.abs(found).max() < 5


@pytest.mark.parametrize("name", ["geometric-median", "norm-bounding"])
def test_claimed_weights_stay_finite(name):
    clients = updates(np.random.default_rng(2).normal(size=(5, 3)), [1, 1, 1e308, 1e308, 1e-308])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(result(make(name), clients)).all()


def test_a_majority_of_updates_that_agree_far_away_wins_as_it_must():
    """The rules bound a minority; this is what the tests above would look like if they could not fail."""
    honest = np.random.default_rng(2).normal(1.0, 0.3, size=(4, 3))
    clients = updates(np.concatenate([honest, np.full((7, 3), 1e6)]))
    for name in ("fedmedian", "krum", "geometric-median", "fedtrimmedavg"):
        assert result(make(name), clients).min() > 1e3


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_never_reach_a_rule(name, value, toy, tmp_path):
    """The round of a client that sends them is, bit for bit, the round of a client that did not answer."""
    chosen = [f"strategy={{name: {name}{', root: 0' if name == 'fltrust' else ''}}}", "cohort.sampling=all"]
    run, _ = make_run(toy, tmp_path / "run", *chosen, "engine.max_failures=1")
    vector = {vector: np.full(length, value, np.float32) for vector, length in run.update_layout.items()}
    said = {"bad": wire.pack("vector", arrays={**vector, WEIGHT: np.ones(1)}), "gone": Failure("deadline", "gone")}
    played = {kind: play(run, {"5": answer}) for kind, answer in said.items()}
    np.testing.assert_array_equal(played["bad"][0].params["params"], played["gone"][0].params["params"])
    assert played["bad"][1].failed["5"].kind == "non-finite"
    assert played["bad"][1].answered == 9


def play(run, failures):
    """The first round of a run in which some clients answer as scripted."""
    engine = ScriptedEngine(InProcessEngine(), failures)
    with engine.open(run):
        rounds = Rounds(run, engine)
        return rounds.play(rounds.initial(), last=lambda seconds: False)


def test_buffers_are_not_left_to_whoever_lies():
    """An honest delta with poisoned buffers: neither gets through."""
    values = np.random.default_rng(2).normal(1.0, 0.3, size=(7, 6))
    values[6, 4:] = 1e6
    for name in WITHIN:
        assert result(make(name), updates(values, split=4)).max() < 2, name


# How many updates

NEED = {
    "krum": ({"num_malicious": 2}, 7, r"krum needs at least 7 updates \(2 num_malicious \+ 3, with num_malicious 2\)"),
    "multikrum": (
        {"num_malicious": 1, "num_selected": 6},
        6,
        r"at least 6 updates \(num_selected, with num_selected 6\)",
    ),
    "bulyan": (
        {"num_malicious": 2},
        11,
        r"bulyan needs at least 11 updates \(4 num_malicious \+ 3, with num_malicious 2\)",
    ),
    "fedtrimmedavg": ({"trim": 0.3}, 4, r"fedtrimmedavg needs at least 4 updates \(1 / trim, with trim 0.3\)"),
    "fltrust": ({"root": ROOT}, 2, "fltrust needs at least 2 updates"),
}


@pytest.mark.parametrize("name", NEED)
def test_too_few_updates_are_refused_with_the_numbers(name):
    options, least, said = NEED[name]
    clients = updates(np.random.default_rng(0).normal(size=(least, 3)))
    assert make(name, **options).combine(clients)["delta"].shape == (3,)
    with pytest.raises(IncompatibleError, match=rf"{said}.*, and {least - 1} arrived") as caught:
        make(name, **options).combine(clients[:-1])
    assert caught.value.hint


@pytest.mark.parametrize("trim", [0.29, 0.1, 0.05, 0.49, 0.3, 1 / 49])
def test_the_share_that_is_left_out_is_that_of_exact_arithmetic(trim):
    """0.29 of 100 are 29, and of as few updates as it takes to leave one out, one."""
    line = np.zeros((100, 1))
    line[: round(trim * 100)] = -1e6
    assert result(make("fedtrimmedavg", trim=trim), updates(line)) == [0]
    least = make("fedtrimmedavg", trim=trim).least().updates
    few = np.zeros((least, 1))
    few[0] = 1e6
    assert result(make("fedtrimmedavg", trim=trim), updates(few)) == [0]


def test_a_run_with_cohorts_too_small_is_refused_before_it_starts(toy, tmp_path):
    with pytest.raises(IncompatibleError, match=r"krum needs at least 5 updates .* and a cohort is 4 clients"):
        make_run(toy, tmp_path / "fixed", "strategy=krum", "cohort.clients=4")
    with pytest.raises(IncompatibleError, match="a cohort is 3 clients"):
        make_run(toy, tmp_path / "drawn", "strategy=krum", "cohort.sampling=poisson", "cohort.rate=0.3")


def test_a_round_in_which_too_few_answered_is_refused(toy, tmp_path):
    """Ten are asked, two of them fail, which the run would bear; krum would not."""
    chosen = ("strategy={name: krum, num_malicious: 3}", "cohort.sampling=all", "engine.max_failures=2")
    run, _ = make_run(toy, tmp_path / "run", *chosen)
    with pytest.raises(IncompatibleError, match=r"krum needs at least 9 updates .* and 8 arrived"):
        play(run, dict.fromkeys(("0", "7"), Failure("deadline", "gone")))


# Parts of single strategies


def test_fltrust_needs_its_root_in_each_round(toy, tmp_path):
    with pytest.raises(IncompatibleError, match="under `devices:` it may be late or absent"):
        make_run(toy, tmp_path / "late", "strategy={name: fltrust, root: 0}", "devices.availability=0.5")
    with pytest.raises(
        IncompatibleError, match="fltrust compares updates with that of client 'absent', which did not arrive"
    ):
        make("fltrust", root="absent").combine(updates(np.ones((3, 2))))


def test_fltrust_asks_its_root_beside_the_cohort(toy, tmp_path):
    chosen = ("strategy={name: fltrust, root: 2}", "cohort.clients=3")
    run, _ = make_run(toy, tmp_path / "run", *chosen)
    without, _ = make_run(toy, tmp_path / "without", "cohort.clients=3")
    cohorts = [[set(cohort) for cohort in asked(one, rounds=6)] for one in (run, without)]
    assert cohorts[0] == [cohort | {"2"} for cohort in cohorts[1]]
    assert {len(cohort) for cohort in cohorts[0]} == {3, 4}


def asked(run, rounds):
    """The cohort of each round."""
    played = Rounds(run, InProcessEngine())
    return [played.plan(replace(played.initial(), round=number)).cohort for number in range(rounds)]


def test_clipping_is_around_the_last_result_and_clients_send_their_momenta():
    """Three rounds of two clients by hand, tau = 1: what is sent, what is remembered, and where the model goes."""
    strategy = make("centered-clipping", tau=1.0, momentum=0.5)
    params = {"params": np.zeros(2, np.float32)}
    remembered = strategy.remembers({"params": 2})
    state, memories, center, momenta = strategy.init(params), [arrays.zeros(remembered)] * 2, np.zeros(2), [None] * 2
    deltas = [[[3, 4], [0.3, 0.4]], [[1, 0], [0, 0.5]], [[0, 0], [-2, 1]]]
    expected = np.zeros(2)
    for round_number, pair in enumerate(deltas, 1):
        extra = strategy.broadcast(state)
        sent = []
        for k, delta in enumerate(pair):
            local = Trained({"params": np.array(delta, np.float32)}, 0.0, 10, 1)
            work = Work(round_number, params, extra, {}, LocalWork(), {"delta": 2})
            vectors, weight, memories[k] = strategy.report(local, work, memories[k])
            assert arrays.layout_of(memories[k]) == remembered
            sent.append(ClientUpdate(str(k), vectors, weight))
            momenta[k] = np.array(delta) if momenta[k] is None else 0.5 * momenta[k] + 0.5 * np.array(delta)
            np.testing.assert_allclose(vectors["delta"], momenta[k] - center, atol=1e-6)
        away = [m - center for m in momenta]
        center = center + sum(a * min(1, 1 / np.linalg.norm(a)) for a in away) / 2
        expected = expected + center
        aggregate = Aggregate(strategy.combine(sent), 1.0, 2)
        params, state = strategy.step(params, aggregate, state, StepContext(round_number, 0, ServerOptimizer(), 2, 20))
        np.testing.assert_allclose(params["params"], expected, atol=1e-6)


def test_without_momentum_clients_remember_nothing():
    strategy = make("centered-clipping", momentum=0)
    params = {"params": np.zeros(2, np.float32)}
    work = Work(1, params, strategy.broadcast(strategy.init(params)), {}, LocalWork(), {"delta": 2})
    local = Trained({"params": np.ones(2, np.float32)}, 0.0, 10, 1)
    vectors, _, memory = strategy.report(local, work, {})
    np.testing.assert_array_equal(vectors["delta"], [1, 1])
    assert memory == strategy.remembers({"params": 2}) == {}


@quick
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99))
def test_buckets_hold_each_update_once_and_are_of_their_size(n, size, seed):
    values = np.random.default_rng(seed).normal(size=(n, 2))
    clients = updates(values)
    groups = centered_clipping.buckets(clients, update_matrix.products(clients), size)
    members = groups > 0
    assert members.sum(axis=0).tolist() == [1] * n
    assert sorted(members.sum(axis=1).tolist(), reverse=True) == [size] * (n // size) + [n % size] * (n % size > 0)
    np.testing.assert_allclose(groups.sum(axis=1), 1)


def test_buckets_are_averaged_before_they_are_clipped():
    """Whatever the deal, a client at 100 shares its bucket: its mean with an honest one is clipped to tau."""
    values = np.array([[100.0, 0], [0, 0], [0, 0], [0, 0]])
    found = result(make("centered-clipping", bucket_size=2, tau=1.0), updates(values))
    np.testing.assert_allclose(found, [1 / 2, 0])


def test_buckets_differ_from_round_to_round():
    """They follow the updates, which differ in each round."""
    deals = set()
    for seed in range(20):
        clients = updates(np.random.default_rng(seed).normal(size=(6, 2)))
        deals.add((centered_clipping.buckets(clients, update_matrix.products(clients), 2) > 0).tobytes())
    assert len(deals) > 10
