"""Attacks, one by one: against numbers by hand, and against a straightforward search or oracle; and who attacks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support import Given

from flctl.config.sections.attack import AttackConfig
from flctl.data.dataset import Dataset
from flctl.errors import ConfigError
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.simulation.attacks.adversary import _BY_NAME, Adversary
from flctl.simulation.attacks.attack import Attack, Known
from flctl.simulation.attacks.intake import forge_updates
from flctl.simulation.attacks.on_rows import stamped
from flctl.types import ClientUpdate

quick = settings(deadline=None, max_examples=60)
HONEST = [[0, 2], [2, 2], [4, 8]]
"""Mean (2, 4), standard deviation (sqrt(8/3), sqrt(8))."""
OWN = [[1, -1], [3, 5]]


def make(name: str, seed: int = 0, classes: int = 10, **options) -> Attack:
    return _BY_NAME[name](AttackConfig(name=name, **options), seed, classes)


def known(others=HONEST, own=OWN, weights=None, total_weight=10.0, count=None, number=1) -> Known:
    own, others = np.array(own, np.float32), np.array(others, np.float32)
    weights = np.ones(len(own)) if weights is None else np.array(weights, float)
    ids = [f"bad{i}" for i in range(len(own))]
    return Known(number, ids, own, others, weights, total_weight, len(own) + len(others) if count is None else count)


def updates(values, weights=None, **more) -> list[ClientUpdate]:
    """Clients 0, 1 ... with `values` [n, D] as delta."""
    weights = [1.0] * len(values) if weights is None else weights
    rows = zip(np.array(values, np.float32), weights, strict=True)
    return [ClientUpdate(str(i), {"delta": row, **more}, float(weight)) for i, (row, weight) in enumerate(rows)]


# Attacks on updates, by hand


def test_sign_flip_by_hand():
    np.testing.assert_array_equal(make("sign-flip").crafted(known()), [[-4, 4], [-12, -20]])
    np.testing.assert_array_equal(make("sign-flip", factor=0.5).crafted(known()), [[-0.5, 0.5], [-1.5, -2.5]])


def test_ipm_by_hand():
    np.testing.assert_allclose(make("ipm").crafted(known()), [-0.2, -0.4])
    np.testing.assert_allclose(make("ipm", epsilon=100).crafted(known()), [-200, -400])


def test_alie_by_hand():
    sent = make("alie", z=1.5).crafted(known())
    np.testing.assert_allclose(sent, [2 - 1.5 * (8 / 3) ** 0.5, 4 - 1.5 * 8**0.5], rtol=1e-12)


@pytest.mark.parametrize(("count", "malicious", "share"), [(25, 5, 12 / 20), (50, 24, 24 / 26), (51, 12, 25 / 39)])
def test_the_z_of_alie_is_that_of_the_paper(count, malicious, share):
    """n = 25, f = 5: s = 12 + 1 - 5 = 8 honest ones are to lie further out, so that Phi(z) = (25 - 5 - 8) / 20."""
    assert make("alie").deviations(count, malicious) == pytest.approx(stats.norm.ppf(share), rel=1e-9)


def test_the_z_of_alie_where_the_formula_gives_none():
    assert make("alie").deviations(10, 1) == 0  # Phi(z) = 4/9: below the mean nothing is to be gained
    assert 4 < make("alie").deviations(4, 3) < 5  # Phi(z) = 1 would be infinitely far


def test_min_max_by_hand():
    """On a line at 0 and 2: mean 1, deviation 1, 2 apart. 1 - gamma is 1 + gamma from the farther one, so gamma = 1."""
    np.testing.assert_allclose(make("min-max").crafted(known([[0], [2]], [[5]])), [0])
    np.testing.assert_allclose(make("min-max", direction="sign").crafted(known([[0], [2]], [[5]])), [0])
    np.testing.assert_allclose(make("min-max", direction="unit").crafted(known([[0], [2]], [[5]])), [0])


vectors = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=2, max_size=6, unique_by=tuple
)


@quick
@given(vectors, st.sampled_from(["std", "sign", "unit"]))
def test_min_max_goes_as_far_as_a_search_does(rows, direction):
    """No farther from any update than two of these are from each other, and no farther step would be."""
    others = np.array(rows, np.float32).astype(np.float64)
    mean = others.mean(axis=0)
    sent = make("min-max", direction=direction).crafted(known(rows))
    away = {"std": -others.std(axis=0), "sign": -np.sign(mean), "unit": -mean / (np.linalg.norm(mean) or 1)}[direction]
    farthest = max(np.linalg.norm(one - two) for one, two in itertools.combinations(others, 2))

    def fits(gamma: float) -> bool:
        return bool(np.linalg.norm(mean + gamma * away - others, axis=1).max() <= farthest)

    low, high = 0.0, 1e7
    for _ in range(200 if np.linalg.norm(away) > 1e-3 else 0):
        low, high = ((low + high) / 2, high) if fits((low + high) / 2) else (low, (low + high) / 2)
    if np.linalg.norm(away) > 1e-3:
        np.testing.assert_allclose(sent, mean + low * away, rtol=1e-4, atol=1e-4 * (1 + farthest))


def test_min_max_stays_at_the_mean_where_there_is_no_way_out():
    np.testing.assert_array_equal(make("min-max").crafted(known([[3, 4], [3, 4]])), [3, 4])
    np.testing.assert_array_equal(make("min-max", direction="unit").crafted(known([[1, -1], [-1, 1]])), [0, 0])


def test_gaussian_draws_for_each_client_and_round_alone():
    attack = make("gaussian", std=3.0)
    first = attack.crafted(known(own=np.zeros((2, 4000))))
    np.testing.assert_allclose(first.std(axis=1), 3, rtol=0.05)
    np.testing.assert_allclose(first.mean(axis=1), 0, atol=0.2)
    assert abs(np.corrcoef(first)[0, 1]) < 0.05
    alone = attack.crafted(known(own=np.zeros((1, 4000))))
    np.testing.assert_array_equal(alone[0], first[0])
    assert not np.isclose(attack.crafted(known(own=np.zeros((2, 4000)), number=2)), first).any()
    assert not np.isclose(make("gaussian", seed=1, std=3.0).crafted(known(own=np.zeros((2, 4000)))), first).any()


def test_replacement_counts_in_full():
    """Weights 2 and 3 of 10: boost is 2, and what the two add to the weighted mean is their own weighted mean."""
    sent = make("backdoor").crafted(known(weights=[2, 3]))
    np.testing.assert_array_equal(sent, 2 * np.array(OWN))
    share = (2 * sent[0] + 3 * sent[1]) / 10
    np.testing.assert_allclose(share, (2 * np.array(OWN[0]) + 3 * np.array(OWN[1])) / 5)
    np.testing.assert_array_equal(make("backdoor", boost=7).crafted(known()), 7 * np.array(OWN))


def test_mean_and_deviation_are_the_same_in_blocks(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(5, 103)).astype(np.float32)
    monkeypatch.setattr("flctl.simulation.attacks.attack._ELEMENTS", 50)
    seen = known(rows)
    assert len(list(seen.blocks())) == 11
    np.testing.assert_allclose(seen.mean, rows.astype(float).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(seen.deviation, rows.astype(float).std(axis=0), rtol=1e-12)
    there = make("min-max").crafted(seen)
    monkeypatch.undo()
    np.testing.assert_allclose(there, make("min-max").crafted(known(rows)), rtol=1e-9)


# A round's updates


def test_only_malicious_clients_that_trained_are_replaced():
    """Of 1, 3, 8 and one without steps, the second is malicious: it sends -10 times the mean of 1 and 8."""
    round_ = updates([[1], [3], [8], [100]], [1, 1, 5, 0])
    sent = forge_updates(make("ipm", epsilon=10), round_, frozenset("13"), 1)
    assert [(update.client_id, update.arrays["delta"].tolist(), update.weight) for update in sent] == [("1", [-45], 1)]
    assert sent[0].arrays["delta"].dtype == np.float32
    assert forge_updates(make("ipm"), round_, frozenset("3"), 1) == []
    assert forge_updates(make("ipm"), [], frozenset("3"), 1) == []


def test_they_know_the_honest_or_only_themselves():
    round_ = updates([[1], [3], [8]])
    for who, mean in (("honest", 8), ("own", 2)):
        sent = forge_updates(make("ipm", epsilon=1, knows=who), round_, frozenset("01"), 1)
        assert [update.arrays["delta"].tolist() for update in sent] == [[-mean], [-mean]]
    alone = forge_updates(make("ipm", epsilon=1), round_, frozenset("012"), 1)
    assert [update.arrays["delta"].tolist() for update in alone] == [[-4]] * 3  # nobody honest answered


def test_all_vectors_are_attacked_but_running_statistics():
    one = ClientUpdate(
        "0", {k: np.array(v, np.float32) for k, v in {"c": [5], "buffers": [9], "delta": [1, 2]}.items()}, 1
    )
    sent = forge_updates(make("sign-flip", factor=2), [one], frozenset("0"), 1)[0].arrays
    assert {name: vector.tolist() for name, vector in sent.items()} == {"c": [-10], "buffers": [9], "delta": [-2, -4]}


def test_what_is_beyond_float32_is_sent_as_the_largest_number():
    sent = forge_updates(make("sign-flip", factor=1e30), updates([[1e30, -1e30]]), frozenset("0"), 1)[0].arrays["delta"]
    np.testing.assert_array_equal(sent, np.array([-1, 1]) * np.finfo(np.float32).max)


# Attacks on rows


def test_labels_flip_by_hand():
    x = np.ones((4, 2), np.float32)
    flipped_x, flipped = make("label-flip", classes=4).altered(x, np.array([0, 1, 2, 3]))
    assert (flipped.tolist(), flipped.dtype) == ([3, 2, 1, 0], np.int64)
    np.testing.assert_array_equal(flipped_x, x)


def test_triggers_by_hand():
    image = np.zeros((1, 1, 3, 3), np.float32)
    image[0, 0, 0, 0] = 7
    np.testing.assert_array_equal(stamped(image, 2)[0, 0], [[7, 0, 0], [0, 7, 7], [0, 7, 7]])
    assert image.sum() == 7
    np.testing.assert_array_equal(stamped(np.array([[1.0, 2, -3], [-5, -6, -7]]), 2), [[1, 2, 2], [-5, 0, 0]])


def image_partition(path) -> Partition:
    """Images of 4 x 4 at three clients of 10, 20 and 30 rows."""
    rng, rows = np.random.default_rng(0), 60
    x, y = rng.normal(size=(rows, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, rows)
    dataset = Dataset("images", "classification", x, y.astype(np.int64), ("a", "b", "c"))
    return write_partition(
        path, dataset, Given(np.repeat([0, 1, 2], [10, 20, 30])), PartitionSpec(clients=3, test_fraction=0.2, seed=3)
    )


@pytest.mark.parametrize(("name", "share"), [("label-flip", 1.0), ("backdoor", 0.5)])
def test_only_rows_of_malicious_clients_change_and_only_from_that_round_on(tmp_path, name, share):
    partition = image_partition(tmp_path / "parts")
    adversary = Adversary(AttackConfig(name=name, clients=1, since=3), 5, partition)
    bad = int(adversary.malicious[0])
    assert adversary.rows(2) is partition
    seen = adversary.rows(3)
    for number in range(3):
        (x, y), (clean_x, clean_y) = seen.train(number), partition.train(number)
        made_x, made_y = adversary.attack.altered(clean_x, clean_y)
        is_made = (x == made_x).all(axis=(1, 2, 3)) & (y == made_y)
        is_clean = (x == clean_x).all(axis=(1, 2, 3)) & (y == clean_y)
        assert (is_made | is_clean).all()
        changed = int(adversary.attack.which(partition.client_ids[number], len(y)).sum())
        assert changed == round(share * len(y))
        assert int((~is_clean).sum()) <= changed * (number == bad)
        assert not is_clean.all() or number != bad
        _same_rows_in_one_go(seen, number, x, y)
        np.testing.assert_array_equal(seen.test(number)[0], partition.test(number)[0])
    np.testing.assert_array_equal(seen.central_test()[1], partition.central_test()[1])


def _same_rows_in_one_go(partition: Partition, number: int, x, y) -> None:
    into = (np.empty_like(x), np.empty_like(y))
    start = int(partition.bounds[number, 0])
    partition.take(start + np.arange(len(y))[::-1], into)
    np.testing.assert_array_equal(into[0][::-1], x)
    np.testing.assert_array_equal(into[1][::-1], y)


# Who attacks


def malicious(partition: Partition, seed: int = 0, trusted=(), **options) -> list[int]:
    return Adversary(AttackConfig(**{"name": "ipm", **options}), seed, partition, trusted).malicious.tolist()


def test_who_attacks_is_drawn_by_seed_alone(toy):
    drawn = {seed: malicious(toy, seed, fraction=0.3) for seed in range(60)}
    assert drawn == {seed: malicious(toy, seed, name="alie", z=2.0, clients=3) for seed in range(60)}
    assert all(len(set(who)) == 3 and who == sorted(who) for who in drawn.values())
    counts = np.bincount([client for who in drawn.values() for client in who], minlength=10)
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(("fraction", "count"), [(0.05, 0), (0.06, 1), (0.14, 1), (0.26, 3), (0.89, 9), (0.96, 10)])
def test_how_many_attack(toy, fraction, count):
    """Of 10; a fraction that comes to none, or leaves nobody honest, is refused."""
    if 0 < count < 10:
        assert len(malicious(toy, fraction=fraction)) == count
        return
    with pytest.raises(ConfigError, match="selects none" if count == 0 else "needs 10 malicious clients, and 10"):
        malicious(toy, fraction=fraction)


def test_clients_without_rows_and_trusted_ones_never_attack(toy, tmp_path):
    for seed in range(30):
        alone, spared = malicious(toy, seed, clients=4), malicious(toy, seed, trusted=["3"], clients=4)
        assert 3 not in spared
        assert len(set(alone) & set(spared)) >= 3  # the others stay who they are
    with pytest.raises(ConfigError, match="9 have training rows and are eligible"):
        malicious(toy, trusted=["3"], clients=9)
    sparse = write_partition(
        tmp_path / "sparse",
        _rows_of(40),
        Given([0] * 20 + [2] * 10 + [4] * 10),
        PartitionSpec(clients=5, test_fraction=0.2, seed=3),
    )
    assert {client for seed in range(20) for client in malicious(sparse, seed, clients=1)} == {0, 2, 4}


def _rows_of(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(count, 4)).astype(np.float32), rng.integers(0, 2, count)
    return Dataset("rows", "classification", x, y.astype(np.int64), ("a", "b"), tuple("pqrs"))


def test_the_malicious_of_a_cohort_by_round(toy):
    adversary = Adversary(AttackConfig(name="ipm", clients=4, since=3), 0, toy)
    cohort = np.arange(10)
    assert [adversary.among(number, cohort).tolist() for number in (2, 3)] == [[], adversary.malicious.tolist()]
    assert adversary.among(3, np.setdiff1d(cohort, adversary.malicious)).tolist() == []
    nobody = Adversary(AttackConfig(), 0, toy)
    assert (nobody.attacks, nobody.among(1, cohort).tolist(), nobody.rows(1) is toy) == (False, [], True)


def test_every_attack_of_the_section_is_there():
    assert set(_BY_NAME) == set(AttackConfig.model_fields["name"].annotation.__args__)
