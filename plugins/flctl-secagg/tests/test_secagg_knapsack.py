"""Sums that can be taken apart: terms of few values under weights that differ. Each attack is shown to work on sessions
of clients that do not look, and then refused by clients that do."""

import itertools

import numpy as np
import pytest
from flctl_secagg.client import client as client_module
from flctl_secagg.client import disclosure
from flctl_secagg.client.disclosure import MOST_ALIKE, most_common_magnitude
from flctl_secagg.client.policy import Policy
from flctl_secagg.protocol.asked_work import AskedWork, work_digest
from secagg_support import AttemptError, attempt_of, cohort_of

from flctl import IncompatibleError, LocalWork, ProtocolError
from flctl.testing.trial import Trial

LENGTH = 3000
LAYOUT = (("delta", LENGTH),)
OPEN = Policy(minimum=3, max_weight=2000.0, corrupt=0.0, dropped=0.0, clip_floor=0.0, clipped=1.0)
"""A client that takes any clip."""


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), "model=mlp", "rounds=1")


def gaussian(cohort, weights, scale=0.01):
    rng = np.random.default_rng(7)
    updates = {name: rng.normal(scale=scale, size=LENGTH) for name in cohort.names}
    cohort.vectors = {
        name: {"delta": (weight * updates[name]).astype(np.float32), "weight": np.array([weight])}
        for (name, weight) in zip(cohort.names, weights, strict=True)
    }
    return updates


def decoded(cohort, attempt):
    return attempt.session.encoding.decode(cohort.play(attempt).words, len(cohort.names))


def peeled(sums, total, tolerance):
    """The weights whose signed sums these are: half of what is missing of the total is a sum of some of them."""
    found, reached = [], np.zeros(1)
    for part in np.unique(np.round((total - sums) / 2, 5)):
        if np.abs(reached - part).min() > tolerance:
            found.append(float(part))
            reached = np.concatenate([reached, reached + part])
    return found


WEIGHTS = [1.1, 1.73, 2.9, 3.37, 4.91, 5.83, 7.97]


def test_a_tiny_clip_gives_every_weight_and_every_sign_to_a_server_whose_clients_do_not_look():
    """The attack that the next tests refuse: one sum of seven clients, honest but for the clip."""
    cohort = cohort_of(7, policy=OPEN)
    updates = gaussian(cohort, WEIGHTS)
    found = decoded(cohort, attempt_of(cohort, clip=1e-9, layout=LAYOUT))
    sums = found.arrays["delta"] / 1e-9
    weights = peeled(sums, found.weight, 1e-3)
    np.testing.assert_allclose(weights, WEIGHTS, atol=1e-3)
    patterns = np.array(list(itertools.product((-1, 1), repeat=7)))
    read = patterns[np.abs((patterns @ weights)[None, :] - sums[:, None]).argmin(1)]
    signs = np.sign(np.stack([updates[name] for name in cohort.names], 1))
    assert (read == signs).mean() > 0.99


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "policy: the clip is 1e-09, expected 0.001 to 1000"),
        ({"clip_floor": 0.0}, "3,000 of 3,000 values of 'delta' exceed the clip, at most 5% may"),
    ],
)
@pytest.mark.parametrize("mode", ["hbc", "active"])
def test_a_client_takes_no_clip_below_its_floor_and_sends_nothing_that_is_mostly_clipped(mode, policy, said):
    cohort = cohort_of(7, policy=Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, **policy))
    gaussian(cohort, WEIGHTS)
    with pytest.raises(AttemptError, match="0 of 7 clients"):
        cohort.play(attempt_of(cohort, mode=mode, clip=1e-9, layout=LAYOUT))
    assert said in cohort.refusals["c00"].message


def test_a_client_takes_a_few_clipped_values():
    """Of a normal distribution, 4.6 % lie beyond two deviations, and 13 % beyond one and a half."""
    for clip, sent in ((0.02, True), (0.015, False)):
        cohort = cohort_of(5, policy=Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0))
        gaussian(cohort, WEIGHTS[:5])
        attempt = attempt_of(cohort, clip=clip, layout=LAYOUT)
        if sent:
            assert decoded(cohort, attempt).clipped == 5
            continue
        with pytest.raises(AttemptError, match="sent a masked vector"):
            cohort.play(attempt)


ROWS = [412.0, 655.0, 911.0, 1333.0, 1804.0]


def coded(weights):
    """Five sites whose updates are codes of 2 bits, premultiplied."""
    cohort = cohort_of(5, policy=OPEN)
    rng = np.random.default_rng(3)
    codes = {name: rng.choice([-1, 0, 1], LENGTH, p=[0.2, 0.6, 0.2]) for name in cohort.names}
    cohort.vectors = {
        name: {"delta": codes[name] * int(weight), "weight": np.array([weight])}
        for name, weight in zip(cohort.names, weights, strict=True)
    }
    return cohort, np.stack([codes[name] for name in cohort.names], 1)


def test_codes_of_two_bits_under_unequal_weights_are_read_off_the_sum_of_clients_that_do_not_look(monkeypatch):
    monkeypatch.setattr(client_module, "require_hidden_in_a_sum", lambda *given, **more: None)
    cohort, codes = coded(ROWS)
    sums = decoded(cohort, attempt_of(cohort, max_weight=2000.0, layout=LAYOUT)).arrays["delta"]
    patterns = np.array(list(itertools.product((-1, 0, 1), repeat=5)))
    read = patterns[np.abs((patterns @ np.array(ROWS))[None, :] - sums[:, None]).argmin(1)]
    assert (read == codes).mean() > 0.97


def test_so_a_client_sends_no_whole_numbers_while_weights_differ():
    cohort, _ = coded(ROWS)
    with pytest.raises(AttemptError, match="0 of 5 clients sent a masked vector"):
        cohort.play(attempt_of(cohort, max_weight=2000.0, layout=LAYOUT))
    assert "'delta' has whole numbers, and weights go up to 2000" in cohort.refusals["c00"].message


def test_whole_numbers_are_summed_without_weights_where_each_client_counts_once():
    """The sum of the codes: how often each occurs, and at no client."""
    cohort, codes = coded(ROWS)
    found = decoded(cohort, attempt_of(cohort, max_weight=1.0, layout=LAYOUT))
    np.testing.assert_array_equal(found.arrays["delta"], codes.sum(1))
    assert found.weight == 5


def test_whole_numbers_that_are_no_multiples_of_their_weight_are_refused():
    cohort, _ = coded(ROWS)
    cohort.vectors["c03"]["delta"][5] += 1
    with pytest.raises(ProtocolError, match="whole numbers are not multiples of their weight 1333"):
        attempt_of(cohort, max_weight=1.0, layout=LAYOUT).session.encoding.encode(cohort.vectors["c03"])


def test_updates_of_one_magnitude_are_refused_while_weights_differ():
    """Signs times a constant, as Adam's first step makes them, up to float32's rounding and some zeros."""
    rng = np.random.default_rng(5)
    for weights, sent in ((ROWS, False), (ROWS, True)):
        cohort = cohort_of(5, policy=OPEN)
        for name, weight in zip(cohort.names, weights, strict=True):
            steps = 1e-3 * rng.choice([-1, 0, 1], LENGTH) * (1 + 1e-4 * rng.normal(size=LENGTH))
            cohort.vectors[name] = {"delta": (weight * steps).astype(np.float32), "weight": np.array([weight])}
        attempt = attempt_of(cohort, max_weight=1.0 if sent else 2000.0, layout=LAYOUT)
        if sent:
            assert len(cohort.play(attempt).survivors) == 5
            continue
        with pytest.raises(AttemptError, match="0 of 5 clients sent a masked vector"):
            cohort.play(attempt)
        assert "more than 20% of the values of 'delta' have one magnitude" in cohort.refusals["c00"].message


@pytest.mark.parametrize("name", ["normal", "laplace", "uniform", "standard_t", "lognormal"])
def test_values_that_vary_are_far_from_one_magnitude(name):
    rng = np.random.default_rng(0)
    values = getattr(rng, name)(**({"df": 3} if name == "standard_t" else {}), size=200_000)
    values[rng.random(values.size) < 0.5] = 0.0
    assert most_common_magnitude(values) < MOST_ALIKE / 4


def test_few_values_say_nothing_of_how_they_vary():
    assert most_common_magnitude(np.ones(99)) == 0
    assert most_common_magnitude(np.ones(100)) == 1


def decayed_signs(optimizer):
    """Five sites after one step of AdamW with weight decay 1: a multiple of the known model and signs of one magnitude,
    which the decay spreads."""
    rng, local = np.random.default_rng(3), LocalWork(optimizer=optimizer, lr=0.01, weight_decay=1.0)
    model = rng.normal(scale=2.0, size=LENGTH).astype(np.float32)
    cohort = cohort_of(5, policy=OPEN)
    cohort.asked = lambda name: AskedWork(1, work_digest(None), local, params={"params": model})
    signs = rng.choice([-1, 1], (LENGTH, 5))
    for place, (name, weight) in enumerate(zip(cohort.names, ROWS, strict=True)):
        update = local.lr * (signs[:, place] - model)
        cohort.vectors[name] = {"delta": (weight * update).astype(np.float32), "weight": np.array([weight])}
    return cohort, signs, model


def test_signs_of_adamw_are_read_off_the_sum_less_the_decay_if_clients_do_not_look(monkeypatch):
    """With varied magnitudes, which pass the check of values of one magnitude."""
    monkeypatch.setattr(disclosure, "SIGN_LIKE", ())
    cohort, signs, model = decayed_signs("adamw")
    found = decoded(cohort, attempt_of(cohort, max_weight=2000.0, clip=0.25, layout=LAYOUT))
    sums = found.arrays["delta"] / 0.01 + sum(ROWS) * model
    patterns = np.array(list(itertools.product((-1, 1), repeat=5)))
    read = patterns[np.abs((patterns @ np.array(ROWS))[None, :] - sums[:, None]).argmin(1)]
    assert (read == signs).mean() > 0.99


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_client_sends_no_steps_of_adam_while_weights_differ(optimizer):
    cohort, _, _ = decayed_signs(optimizer)
    with pytest.raises(AttemptError, match="0 of 5 clients sent a masked vector"):
        cohort.play(attempt_of(cohort, max_weight=2000.0, layout=LAYOUT))
    assert f"steps of '{optimizer}' are almost signs, and weights go up to 2000" in cohort.refusals["c00"].message
    cohort, _, _ = decayed_signs(optimizer)
    assert len(cohort.play(attempt_of(cohort, max_weight=1.0, layout=LAYOUT)).survivors) == 5


@pytest.mark.parametrize("chosen", ["local.steps=1", "local.batch_size=5000", "local.steps=9"])
def test_adam_under_unequal_weights_is_refused_before_the_run(trial, chosen):
    adam = ("aggregator=secagg", "local.optimizer=adamw", "local.weight_decay=1", chosen)
    with pytest.raises(IncompatibleError, match="steps of 'adamw' are almost signs"):
        trial.prepare(*adam)
    trial.prepare(*adam, "aggregator.max_weight=1")


def test_codes_under_unequal_weights_are_refused_before_the_run(trial):
    with pytest.raises(IncompatibleError, match="transform 'quantise' sends whole numbers"):
        trial.prepare("aggregator=secagg", "transforms={quantise: {bits: 8}}")
    trial.prepare("aggregator=secagg", "transforms={quantise: {bits: 8}}", "aggregator.max_weight=1")


def test_adam_with_equal_weights_and_one_step_of_sgd_are_summed(trial):
    for chosen in (("local.optimizer=adam", "aggregator.max_weight=1"), ("local.steps=1",)):
        trial.train("aggregator=secagg", "engine=inprocess", *chosen)
