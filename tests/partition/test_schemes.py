"""Every partition scheme: each row has one owner or is left out as stated, and a seed decides everything."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flctl.data.table import ABSENT
from flctl.errors import ConfigError, DataError
from flctl.partition import PARTITIONERS
from flctl.partition.partitioner import Rows
from flctl.partition.schemes.deal import even_sizes, round_rows, round_systematically
from flctl.seeds import rng

quick = settings(deadline=None, max_examples=40)
SCHEMES = {scheme.name: scheme for scheme in PARTITIONERS}
ROWS, CLIENTS, CLASSES = 600, 12, 5
# name -> options, clients, rows left out
REQUESTS = {
    "iid": ({}, CLIENTS, 0),
    "dirichlet": ({"alpha": 0.3}, CLIENTS, 0),
    "inner-dirichlet": ({"alpha": 0.3}, CLIENTS, 0),
    "shard": ({}, CLIENTS, 0),
    "pathological": ({}, CLIENTS, 0),
    "distribution": ({"matrix": [[1] * CLASSES] * CLIENTS, "values": "counts"}, None, ROWS - CLIENTS * CLASSES),
    "linear": ({}, CLIENTS, 0),
    "square": ({}, CLIENTS, 0),
    "exponential": ({}, CLIENTS, 0),
    "power-law": ({}, CLIENTS, 0),
    "log-normal": ({}, CLIENTS, 0),
    "sizes": ({"sizes": "100,200,250"}, None, 50),
    "continuous": ({"feature": 1}, CLIENTS, 0),
    "natural": ({}, None, 0),
    "grouped-natural": ({"group_size": 3}, None, 0),
    "temporal": ({"shuffle_within": 20}, CLIENTS, 0),
    "feature-rotation": ({"base": "dirichlet", "base_options": "alpha=0.3"}, CLIENTS, 0),
    "feature-noise": ({"base": "shard"}, CLIENTS, 0),
    "feature-scaling": ({}, CLIENTS, 0),
    "label-noise": ({}, CLIENTS, 0),
}
SEEDLESS = {"natural"}


def rows_of(count=ROWS, classes=CLASSES, seed=0, **fields):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    labels[:classes] = np.arange(classes)[:count]
    given = {
        "x": random.random((count, 1, 4, 4), np.float32),
        "group": np.char.add("user ", random.integers(0, 10, count).astype(str)),
    }
    names = tuple(f"class {code}" for code in range(classes))
    return Rows(count, labels, labels, names, **(given | fields))


def regression(values):
    values = np.asarray(values, np.float32)
    return Rows(len(values), values, x=np.zeros((len(values), 2), np.float32))


def assign(name, rows, clients, seed=1, **options):
    return SCHEMES[name].from_options(options).assign(rows, clients, rng(seed, "partition"))


def sizes(assignment):
    return np.bincount(assignment.owner[assignment.owner >= 0], minlength=assignment.clients)


def counts(assignment, labels, classes):
    owned = assignment.owner >= 0
    codes = assignment.owner[owned] * classes + labels[owned]
    return np.bincount(codes, minlength=assignment.clients * classes).reshape(-1, classes)


def test_every_scheme_is_in_the_table():
    assert set(REQUESTS) == set(SCHEMES)
    assert len(SCHEMES) == len(PARTITIONERS)


@pytest.mark.parametrize("name", REQUESTS)
def test_every_row_has_one_owner_or_is_left_out_as_stated(name):
    options, clients, left_out = REQUESTS[name]
    assignment = assign(name, rows_of(), clients, **options)
    assert assignment.owner.shape == (ROWS,)
    assert assignment.owner.dtype == np.int64
    assert assignment.owner.min() >= -1
    assert assignment.owner.max() < assignment.clients
    assert np.count_nonzero(assignment.owner < 0) == left_out
    if clients is not None:
        assert assignment.clients == clients
    assert assignment.client_ids is None or len(assignment.client_ids) == assignment.clients


@pytest.mark.parametrize("name", REQUESTS)
def test_the_seed_decides_everything(name):
    options, clients, _ = REQUESTS[name]
    first, again, other = (assign(name, rows_of(), clients, seed, **options).owner for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert (first.tobytes() == other.tobytes()) == (name in SEEDLESS)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_scheme_does_not_write_to_its_rows(name):
    rows = rows_of()
    for array in (rows.target, rows.x, rows.group):
        array.flags.writeable = False
    options, clients, _ = REQUESTS[name]
    assign(name, rows, clients, **options)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_docstring_starts_with_what_it_is_and_names_a_source(name):
    text = SCHEMES[name].__doc__
    first = text.splitlines()[0]
    assert first.endswith(".")
    assert any(source in text for source in ("et al.", "flwr-datasets"))


@pytest.mark.parametrize("name", [name for name in REQUESTS if REQUESTS[name][1] is not None])
@pytest.mark.parametrize(("clients", "error"), [(ROWS + 1, DataError), (0, DataError), (None, ConfigError)])
def test_an_impossible_number_of_clients_is_refused(name, clients, error):
    with pytest.raises(error) as caught:
        assign(name, rows_of(), clients, **REQUESTS[name][0])
    assert caught.value.hint


@pytest.mark.parametrize("name", ["dirichlet", "inner-dirichlet", "pathological", "shard"])
def test_label_schemes_refuse_text(name):
    text = Rows(50, np.zeros((50, 8), np.int32))
    with pytest.raises(DataError, match="have none"):
        assign(name, text, 5)


@pytest.mark.parametrize("name", ["dirichlet", "inner-dirichlet", "pathological", "shard"])
def test_label_schemes_divide_a_real_valued_target(name):
    values = np.random.default_rng(0).normal(size=2000)
    owner = assign(name, regression(values), 10).owner
    spread = [values[owner == client].std() for client in range(10) if (owner == client).any()]
    assert (owner >= 0).all()
    assert min(spread) < 0.8 * values.std()


@st.composite
def requests(draw):
    count = draw(st.integers(1, 120))
    clients = draw(st.integers(1, count))
    labels = draw(st.lists(st.integers(0, draw(st.integers(0, 9))), min_size=count, max_size=count))
    return np.array(labels, np.int64), clients, draw(st.integers(0, 2**32))


@pytest.mark.parametrize("self_balancing", [False, True])
@quick
@given(requests(), st.sampled_from([1e-3, 0.1, 1.0, 1e3, 1e9]))
def test_dirichlet_deals_every_row_once(self_balancing, request_, alpha):
    labels, clients, seed = request_
    rows = Rows(len(labels), labels, labels)
    assignment = assign("dirichlet", rows, clients, seed, alpha=alpha, self_balancing=self_balancing)
    assert (assignment.owner >= 0).all()
    assert assignment.owner.max() < clients


@quick
@given(requests(), st.sampled_from([1e-3, 0.1, 1.0, 1e3]), st.floats(0.1, 1))
def test_inner_dirichlet_keeps_the_sizes(request_, alpha, part):
    labels, clients, seed = request_
    rows = Rows(len(labels), labels, labels)
    wanted = even_sizes(max(clients, int(part * len(labels))), clients).tolist()
    assignment = assign("inner-dirichlet", rows, None, seed, alpha=alpha, sizes=wanted)
    assert sizes(assignment).tolist() == wanted


@quick
@given(requests(), st.integers(1, 5), st.sampled_from(["random", "deterministic", "first-deterministic"]))
def test_pathological_gives_no_client_more_classes(request_, width, mode):
    labels, clients, seed = request_
    width = min(width, len(np.unique(labels)))
    rows = Rows(len(labels), labels, labels)
    assignment = assign("pathological", rows, clients, seed, classes_per_client=width, mode=mode)
    held = counts(assignment, labels, 10)
    assert ((held > 0).sum(axis=1) <= width).all()
    # A class is left out wholly or not at all, and its holders differ by at most one row.
    totals = np.bincount(labels, minlength=10)
    for code in range(10):
        dealt = held[:, code]
        assert dealt.sum() in (0, totals[code])
        assert dealt.max() - dealt[dealt > 0].min(initial=dealt.max()) <= 1


@quick
@given(requests(), st.integers(1, 4))
def test_shards_use_every_row_and_sizes_differ_by_the_shards_at_most(request_, per_client):
    labels, clients, seed = request_
    per_client = min(per_client, len(labels) // clients)
    rows = Rows(len(labels), labels, labels)
    dealt = sizes(assign("shard", rows, clients, seed, shards_per_client=per_client))
    assert dealt.sum() == len(labels)
    assert dealt.max() - dealt.min() <= per_client


@pytest.mark.parametrize("name", ["iid", "linear", "square", "exponential", "power-law", "log-normal"])
@quick
@given(requests())
def test_quantity_schemes_use_every_row_and_leave_nobody_empty(name, request_):
    labels, clients, seed = request_
    dealt = sizes(assign(name, Rows(len(labels), labels, labels), clients, seed))
    assert dealt.sum() == len(labels)
    assert dealt.min() >= 1


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40).filter(lambda w: sum(w) > 0.01), st.integers(0, 500))
def test_rounding_is_exact_and_off_by_less_than_one(weights, total):
    shares = np.array(weights) / math.fsum(weights)
    random = round_systematically(shares, total, np.random.default_rng(0))
    hamilton = round_rows(shares[None, :] * total, np.array([total]))[0]
    for rounded in (random, hamilton):
        assert rounded.sum() == total
        assert (np.abs(rounded - shares * total) < 1 + 1e-6).all()


def test_systematic_rounding_is_right_in_expectation():
    shares = np.array([0.003, 0.007, 0.09, 0.9])
    random = np.random.default_rng(5)
    mean = np.mean([round_systematically(shares, 10, random) for _ in range(20_000)], axis=0)
    np.testing.assert_allclose(mean, shares * 10, atol=0.01)


class TestDirichlet:
    def test_shares_have_the_mean_and_variance_of_the_distribution(self):
        clients, classes, each, alpha = 10, 200, 1000, 0.5
        labels = np.repeat(np.arange(classes), each)
        dealt = assign("dirichlet", Rows(len(labels), labels, labels), clients, alpha=alpha)
        shares = counts(dealt, labels, classes).T / each
        variance = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
        np.testing.assert_allclose(shares.mean(axis=0), 1 / clients, atol=4 * math.sqrt(variance / classes))
        np.testing.assert_allclose(shares.var(), variance, rtol=0.1)

    def test_a_large_alpha_tends_to_iid_and_a_small_one_to_single_owners(self):
        labels = np.repeat(np.arange(10), 500)
        rows = Rows(5000, labels, labels)
        even = counts(assign("dirichlet", rows, 10, alpha=1e6), labels, 10)
        single = counts(assign("dirichlet", rows, 10, alpha=1e-4), labels, 10)
        assert abs(even - 50).max() <= 2
        assert (single.max(axis=0) > 490).all()

    def test_one_alpha_for_each_client(self):
        labels = np.repeat(np.arange(50), 100)
        dealt = sizes(assign("dirichlet", Rows(5000, labels, labels), 2, alpha="9,1"))
        assert dealt[0] / 5000 == pytest.approx(0.9, abs=0.06)
        with pytest.raises(DataError, match="2 values for 3 clients"):
            assign("dirichlet", Rows(5000, labels, labels), 3, alpha=[9, 1])

    def test_self_balancing_gives_nothing_to_a_client_that_has_its_share(self):
        labels = np.repeat(np.arange(20), 50)
        dealt = assign("dirichlet", Rows(1000, labels, labels), 8, alpha=0.2, self_balancing=True)
        by_class = counts(dealt, labels, 20).T
        before = np.cumsum(by_class, axis=0) - by_class
        assert (by_class[before >= 1000 / 8] == 0).all()
        plain = sizes(assign("dirichlet", Rows(1000, labels, labels), 8, alpha=0.2))
        assert sizes(dealt).std() < plain.std()

    def test_the_minimum_is_kept(self):
        rows = rows_of(300)
        assert sizes(assign("dirichlet", rows, 10, alpha=0.5, min_size=10)).min() >= 10

    def test_an_impossible_minimum_says_the_largest_possible(self):
        with pytest.raises(DataError, match="needs 3,100 rows") as caught:
            assign("dirichlet", rows_of(300), 10, alpha=0.5, min_size=310)
        assert "30;" in caught.value.hint

    def test_an_unlikely_minimum_is_given_up(self):
        with pytest.raises(DataError, match="none of 100 draws") as caught:
            assign("dirichlet", rows_of(300), 10, alpha=0.01, min_size=29)
        assert "--alpha" in caught.value.hint

    def test_without_a_minimum_a_draw_without_empty_clients_is_looked_for(self):
        labels = np.repeat([0, 1], 200)
        rows = Rows(400, labels, labels)
        empty = [
            [np.count_nonzero(sizes(assign("dirichlet", rows, 8, seed, alpha=0.2, **o)) == 0) for seed in range(40)]
            for o in ({}, {"min_size": 0})
        ]
        assert sum(empty[0]) < 0.3 * sum(empty[1])

    @pytest.mark.parametrize("alpha", [0, -1, "nan", "inf", 1e10, "", "x", True, None])
    def test_a_bad_alpha_is_refused(self, alpha):
        for name in ("dirichlet", "inner-dirichlet"):
            with pytest.raises(ValidationError):
                SCHEMES[name].from_options({"alpha": alpha})


class TestInnerDirichlet:
    def test_mixes_have_the_mean_and_variance_of_the_distribution(self):
        clients, classes, size, alpha = 2000, 5, 40, 0.5
        labels = np.tile(np.arange(classes), 200_000)
        rows = Rows(len(labels), labels, labels)
        dealt = assign("inner-dirichlet", rows, None, alpha=alpha, sizes=[size] * clients)
        shares = counts(dealt, labels, classes) / size
        variance = 0.2 * 0.8 / (classes * alpha + 1)
        sampling = (0.2 - variance - 0.04) / size
        np.testing.assert_allclose(shares.mean(axis=0), 0.2, atol=0.03)
        np.testing.assert_allclose(shares.var(), variance + sampling, rtol=0.08)

    def test_sizes_must_fit_the_rows_and_the_clients(self):
        with pytest.raises(DataError, match="sum to 700"):
            assign("inner-dirichlet", rows_of(), None, sizes=[350, 350])
        with pytest.raises(DataError, match="2 sizes"):
            assign("inner-dirichlet", rows_of(), 3, sizes=[10, 10])


class TestShard:
    MNIST = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)

    def test_mcmahans_mnist_shards(self):
        """200 shards of 300, two for each of 100 clients: most see two digits, nobody more than four."""
        labels = np.random.default_rng(3).permutation(np.repeat(np.arange(10), self.MNIST))
        dealt = counts(assign("shard", Rows(60_000, labels, labels), 100), labels, 10)
        assert (dealt.sum(axis=1) == 600).all()
        seen = (dealt > 0).sum(axis=1)
        assert seen.max() <= 4
        assert np.median(seen) == 2

    def test_shards_of_a_given_size(self):
        rows = rows_of(1000)
        both = assign("shard", rows, 10, shards_per_client=3, shard_size=30)
        assert (sizes(both) == 90).all()
        alone = sizes(assign("shard", rows, 7, shard_size=90))
        assert alone.sum() == 1000
        whole = sizes(assign("shard", rows, 7, shard_size=90, keep_incomplete=False))
        assert sorted(whole.tolist()) == [90, 90, 90, 180, 180, 180, 180]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shards_per_client": 101}, "1,010 shards"),
            ({"shards_per_client": 2, "shard_size": 60}, "10 x 2 shards of 60"),
            ({"shard_size": 200}, "make 5 shards"),
        ],
    )
    def test_too_few_rows(self, options, message):
        with pytest.raises(DataError, match=message):
            assign("shard", rows_of(1000), 10, **options)

    def test_a_real_valued_target_is_sorted_by_value(self):
        values = np.random.default_rng(0).permutation(100).astype(np.float32)
        owner = assign("shard", regression(values), 10, shards_per_client=1).owner
        assert all(np.ptp(values[owner == client]) == 9 for client in range(10))


class TestPathological:
    def held(self, **options):
        labels = np.repeat([0, 1, 2], [30, 20, 11])
        dealt = counts(assign("pathological", Rows(61, labels, labels), 4, **options), labels, 3)
        return [set(np.flatnonzero(row).tolist()) for row in dealt], dealt

    def test_deterministic_classes_and_even_shares(self):
        classes, dealt = self.held(mode="deterministic")
        assert classes == [{0, 1}, {1, 2}, {0, 2}, {0, 1}]
        assert sorted(dealt[:, 0].tolist()) == [0, 10, 10, 10]
        assert sorted(dealt[:, 1].tolist()) == [0, 6, 7, 7]
        assert sorted(dealt[:, 2].tolist()) == [0, 0, 5, 6]

    def test_the_first_class_is_dealt_in_turn(self):
        classes, _ = self.held(classes_per_client=1, mode="first-deterministic")
        assert classes == [{0}, {1}, {2}, {0}]

    def test_classes_that_nobody_drew_are_left_out(self):
        labels = np.arange(50).repeat(4)
        owner = assign("pathological", Rows(200, labels, labels), 3, classes_per_client=1, mode="random").owner
        assert np.count_nonzero(owner >= 0) in (4, 8, 12)

    def test_drawn_classes_are_uniform(self):
        labels = np.tile(np.arange(10), 4000)
        dealt = counts(assign("pathological", Rows(40_000, labels, labels), 4000, mode="random"), labels, 10)
        holders = (dealt > 0).sum(axis=0)
        np.testing.assert_allclose(holders, 800, atol=5 * math.sqrt(4000 * 0.2 * 0.8))

    def test_only_classes_that_occur_count(self):
        labels = np.array([2, 7] * 10)
        rows = Rows(20, labels, labels, tuple("abcdefghij"))
        assert (assign("pathological", rows, 2).owner >= 0).all()
        with pytest.raises(DataError, match="the data has 2") as caught:
            assign("pathological", rows, 2, classes_per_client=3)
        assert "2 or fewer" in caught.value.hint


class TestQuantity:
    @pytest.mark.parametrize(
        ("name", "options", "rows", "expected"),
        [
            ("linear", {}, 100, [10, 20, 30, 40]),
            ("square", {}, 300, [10, 40, 90, 160]),
            ("exponential", {"growth": 2}, 15, [1, 2, 4, 8]),
            ("power-law", {"exponent": 1}, 250, [120, 60, 40, 30]),
            ("power-law", {"exponent": 2}, 205, [144, 36, 16, 9]),
            ("log-normal", {"sigma": 0}, 10, [3, 3, 2, 2]),
        ],
    )
    def test_sizes_by_hand(self, name, options, rows, expected):
        labels = np.zeros(rows, np.int64)
        dealt = assign(name, Rows(rows, labels, labels), 4, min_size=0, **options)
        assert sizes(dealt).tolist() == expected

    def test_everyone_has_the_minimum_first(self):
        labels = np.zeros(110, np.int64)
        dealt = assign("linear", Rows(110, labels, labels), 4, min_size=15)
        assert sizes(dealt).tolist() == [20, 25, 30, 35]
        with pytest.raises(DataError) as caught:
            assign("linear", Rows(110, labels, labels), 4, min_size=28)
        assert "27" in caught.value.hint

    def test_thousands_of_exponential_clients_do_not_overflow(self):
        labels = np.zeros(10_000, np.int64)
        dealt = sizes(assign("exponential", Rows(10_000, labels, labels), 5000, growth=1000))
        assert dealt[-1] >= 5000 - 10
        assert dealt.min() == 1

    def test_log_normal_sizes_with_a_mean_leave_rows_out(self):
        labels = np.zeros(100_000, np.int64)
        rows = Rows(100_000, labels, labels)
        exact = assign("log-normal", rows, 5, mean=math.log(7), sigma=0)
        assert sizes(exact).tolist() == [7] * 5
        drawn = np.log(sizes(assign("log-normal", rows, 1000, mean=4, sigma=0.5)))
        assert drawn.mean() == pytest.approx(4, abs=0.1)
        assert drawn.std() == pytest.approx(0.5, abs=0.05)

    @pytest.mark.parametrize("mean", [10, 40])
    def test_log_normal_sizes_that_do_not_fit(self, mean):
        labels = np.zeros(1000, np.int64)
        with pytest.raises(DataError, match="there are 1,000") as caught:
            assign("log-normal", Rows(1000, labels, labels), 10, mean=mean, sigma=0)
        assert "--mean of about 4.6" in caught.value.hint

    def test_listed_sizes_and_shares(self):
        labels = np.zeros(10, np.int64)
        rows = Rows(10, labels, labels)
        assert sizes(assign("sizes", rows, None, sizes=[3, 2])).tolist() == [3, 2]
        assert sizes(assign("sizes", rows, None, sizes="0.5, 0.3, 0.2")).tolist() == [5, 3, 2]
        assert sizes(assign("sizes", rows, None, sizes=[0.25])).tolist() == [2]
        with pytest.raises(DataError, match="sum to 11"):
            assign("sizes", rows, None, sizes=[6, 5])
        with pytest.raises(DataError, match="found 2 sizes for 3"):
            assign("sizes", rows, 3, sizes=[6, 4])

    @pytest.mark.parametrize("value", [[], "", [0, 3], [-1], "1.5,2", [0.7, 0.7], ["a"], 7, ["nan"], None])
    def test_bad_sizes_are_refused(self, value):
        with pytest.raises(ValidationError):
            SCHEMES["sizes"].from_options({"sizes": value})


class TestContinuous:
    values = np.random.default_rng(0).normal(5, 3, 1000)

    def means(self, **options):
        owner = assign("continuous", regression(self.values), 10, **options).owner
        return np.array([self.values[owner == client].mean() for client in range(10)])

    def test_strictness_one_is_a_strict_order_and_zero_is_iid(self):
        owner = assign("continuous", regression(self.values), 10, strictness=1).owner
        assert (np.diff(owner[np.argsort(self.values, kind="stable")]) >= 0).all()
        assert np.ptp(self.means(strictness=0)) < 2 < 8 < np.ptp(self.means(strictness=1))
        assert np.ptp(self.means(strictness=0)) < np.ptp(self.means(strictness=0.5)) < np.ptp(self.means(strictness=1))

    def test_a_feature_by_index(self):
        x = np.random.default_rng(1).random((200, 1, 2, 2)).astype(np.float32)
        owner = assign("continuous", rows_of(200, x=x), 4, strictness=1, feature=3).owner
        assert (np.diff(owner[np.argsort(x[:, 0, 1, 1], kind="stable")]) >= 0).all()

    @pytest.mark.parametrize(
        ("rows", "options", "message"),
        [
            (rows_of(), {}, "not real-valued"),
            (rows_of(), {"feature": 16}, "found 16"),
            (rows_of(x=None), {"feature": 0}, "no features"),
            (rows_of(x=np.full((ROWS, 2), np.nan)), {"feature": 0}, f"in {ROWS} of {ROWS}"),
            (regression([2.0] * 10), {}, "the same value"),
        ],
    )
    def test_a_property_that_cannot_order_is_refused(self, rows, options, message):
        with pytest.raises(DataError, match=message):
            assign("continuous", rows, 2, **options)


class TestNatural:
    group = np.array(["10", "9", "9", "10", "10", "2"])

    def rows(self, group=None):
        return rows_of(len(group if group is not None else self.group), 2, group=self.group if group is None else group)

    def test_clients_are_called_by_their_values_in_numeric_order(self):
        assignment = assign("natural", self.rows(), None)
        assert assignment.client_ids == ("2", "9", "10")
        assert assignment.owner.tolist() == [2, 1, 1, 2, 2, 0]
        assert assign("natural", self.rows(np.array(["b", "10", "9"])), None).client_ids == ("10", "9", "b")

    def test_it_does_not_depend_on_the_order_of_rows(self):
        group = np.random.default_rng(0).integers(0, 30, 300).astype(str)
        order = np.random.default_rng(1).permutation(300)
        straight, shuffled = (assign("natural", self.rows(g), None).owner for g in (group, group[order]))
        assert (straight[order] == shuffled).all()

    def test_small_values_are_left_out_and_the_largest_kept(self):
        small = assign("natural", self.rows(), None, min_size=2)
        assert (small.client_ids, small.owner.tolist()) == (("9", "10"), [1, 0, 0, 1, 1, -1])
        top = assign("natural", self.rows(), None, top=1)
        assert (top.client_ids, top.owner.tolist()) == (("10",), [0, -1, -1, 0, 0, -1])
        with pytest.raises(DataError, match="the largest has 3"):
            assign("natural", self.rows(), None, min_size=4)

    @pytest.mark.parametrize("name", ["natural", "grouped-natural"])
    def test_missing_values(self, name):
        rows = self.rows(np.array(["a", "", "b", "(missing)", "a"]))
        with pytest.raises(DataError, match="2 of 5 rows") as caught:
            assign(name, rows, 2, missing_group="refuse")
        assert "--missing-group" in caught.value.hint
        out = assign(name, rows, 2, missing_group="leave-out")
        assert (out.owner < 0).tolist() == [False, True, False, True, False]
        own = assign(name, rows, 3)
        assert own.owner[1] == own.owner[3]
        assert len(set(own.owner.tolist())) == 3
        if name == "natural":
            assert own.client_ids == ("(missing)", "a", "b")

    def test_readers_call_missing_values_the_same(self):
        assert ABSENT == "(missing)"

    def test_only_missing_values(self):
        rows = self.rows(np.array(["", " "]))
        assert assign("natural", rows, None).client_ids == ("(missing)",)
        with pytest.raises(DataError, match="no values"):
            assign("natural", rows, None, missing_group="leave-out")

    @pytest.mark.parametrize("name", ["natural", "grouped-natural"])
    def test_without_a_column_it_is_refused(self, name):
        with pytest.raises(ConfigError) as caught:
            assign(name, rows_of(group=None), 2)
        assert "--by" in caught.value.hint

    def test_a_number_of_clients_must_be_the_number_of_values(self):
        assert assign("natural", self.rows(), 3).clients == 3
        with pytest.raises(DataError, match="3 usable values") as caught:
            assign("natural", self.rows(), 2)
        assert "--top" in caught.value.hint

    def test_many_values_of_any_length(self):
        group = np.array([f"name {'é' * (i % 7)}{i % 91}" for i in range(3000)])
        assignment = assign("natural", self.rows(group), None)
        names = np.array(assignment.client_ids)
        assert (names[assignment.owner] == group).all()
        assert sorted(set(group.tolist())) == list(assignment.client_ids)


class TestGroupedNatural:
    rows = rows_of(70, group=(np.arange(70) % 7).astype(str))

    def members(self, clients=None, **options):
        owner = assign("grouped-natural", self.rows, clients, **options).owner
        values = np.arange(70) % 7
        found = {int(value): set(owner[values == value].tolist()) for value in range(7)}
        assert all(len(owners) == 1 for owners in found.values())
        first = [next(iter(found[value])) for value in range(7)]
        return [sum(owner == client for owner in first) for client in range(max(first) + 1)]

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [("allow-smaller", [3, 3, 1]), ("allow-bigger", [4, 3]), ("drop-remainder", [3, 3])],
    )
    def test_incomplete_groups(self, mode, expected):
        assert self.members(group_size=3, mode=mode) == expected

    def test_strict_refuses_an_incomplete_group(self):
        assert self.members(group_size=7, mode="strict") == [7]
        with pytest.raises(DataError, match="the remainder is 1"):
            self.members(group_size=3, mode="strict")

    def test_values_are_spread_evenly_over_clients(self):
        assert self.members(3) == [3, 2, 2]

    def test_unshuffled_groups_follow_the_values(self):
        owner = assign("grouped-natural", self.rows, None, group_size=3, shuffle=False).owner
        assert owner[:7].tolist() == [0, 0, 0, 1, 1, 1, 2]

    @pytest.mark.parametrize(("clients", "options"), [(None, {}), (2, {"group_size": 2})])
    def test_either_a_group_size_or_clients(self, clients, options):
        with pytest.raises(ConfigError, match="either"):
            self.members(clients, **options)

    @pytest.mark.parametrize(("clients", "options"), [(8, {}), (None, {"group_size": 8})])
    def test_more_than_there_are_values(self, clients, options):
        with pytest.raises(DataError, match="7 values"):
            self.members(clients, **options)


class TestTemporal:
    def test_blocks_in_row_order(self):
        assert assign("temporal", rows_of(10), 3).owner.tolist() == [0] * 4 + [1] * 3 + [2] * 3

    @quick
    @given(st.integers(2, 60), st.integers(0, 80))
    def test_no_row_moves_as_far_as_the_window(self, rows, window):
        # One row a client: the owner is the row's new place.
        owner = assign("temporal", rows_of(rows, 2), rows, shuffle_within=window).owner
        assert sorted(owner.tolist()) == list(range(rows))
        assert abs(owner - np.arange(rows)).max() < max(window, 1)

    def test_some_row_of_many_moves_as_far_as_it_may(self):
        owner = assign("temporal", rows_of(5000), 5000, shuffle_within=4).owner
        assert abs(owner - np.arange(5000)).max() == 3


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "schemes.md").read_text()
LINES = {line.split("|")[1].strip(" `"): line for line in DOCUMENT.splitlines() if line.startswith("| `")}


class TestDocumentation:
    def test_every_scheme_has_a_line(self):
        assert set(LINES) == set(SCHEMES)

    @pytest.mark.parametrize("name", SCHEMES)
    def test_every_option_is_in_the_schemes_line(self, name):
        assert [option for option in SCHEMES[name].Config.model_fields if f"`{option}`" not in LINES[name]] == []

    @pytest.mark.parametrize("name", SCHEMES)
    def test_the_source_is_the_docstrings(self, name):
        source = LINES[name].rstrip(" |").rsplit("| ", 1)[1]
        author = source.split(" ")[0].strip(",")
        assert author in SCHEMES[name].__doc__
