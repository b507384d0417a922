"""Compressing transforms against hand arithmetic, oracles and statistics; and what a run makes of them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Hidden, OneByOne, ScriptedEngine, checkpoint_digests, make_run, train_run, untimed_lines
from support.compressors import (
    LINEAR,
    OPTIONS,
    arrived,
    context,
    make,
    memory_of,
    pipeline,
    through,
    update,
    work_of,
)

from flctl import arrays, hookimpl, wire
from flctl.algorithms.aggregator import Aggregator, Phase
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateCollector, UpdateIntake
from flctl.algorithms.transforms.packing import pack, packed_size, unpack
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, IncompatibleError
from flctl.plugins.registry import Registry
from flctl.run.run import Run
from flctl.server.aggregation import Aggregation, update_intake
from flctl.server.collect import RoundTraffic
from flctl.server.rounds import Rounds
from flctl.server.training import train
from flctl.timing import PhaseTimer
from flctl.types import WEIGHT, Aggregate, Failure

FEEDBACK = {name: {"error_feedback": True} for name in ("topk", "randomk", "ef-signsgd", "powersgd")}


def normal(length: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=length)).astype(np.float32)


@pytest.fixture(params=OPTIONS)
def name(request) -> str:
    return request.param


# What every compressor promises


@pytest.mark.parametrize("layout", [{"delta": 12}, {"delta": 30, "control": 30, "buffers": 4, "tau": 1}, {"delta": 2}])
def test_what_is_sent_is_laid_out_as_announced_and_decodes_to_what_was_given(name, layout):
    line = pipeline(make(name), length=layout["delta"], **{k: n for k, n in layout.items() if k != "delta"})
    given = update(normal(layout["delta"]), **{k: normal(n) for k, n in layout.items() if k != "delta"})
    sent, kept = line.send(given, work_of(line), memory_of(line))
    assert arrays.layout_of(sent.arrays) == dict(line.sent)
    assert arrays.layout_of(kept) == dict(line.memory_layout)
    back = arrived(line, sent, work_of(line))
    assert arrays.layout_of(back.arrays) == layout
    for untouched in {"buffers", "tau"} & layout.keys():
        np.testing.assert_array_equal(back.arrays[untouched], given.arrays[untouched])


def test_vectors_of_nothing_and_of_zeros_pass(name):
    line = pipeline(make(name), length=16, extra=0)
    zeros = update(np.zeros(16), extra=np.zeros(0))
    for weight in (0.0, 3.0):
        with np.errstate(all="raise"):
            sent, kept = line.send(dataclasses.replace(zeros, weight=weight), work_of(line), memory_of(line))
        assert sent.arrays["extra"].size == 0
        back = arrived(line, sent, work_of(line)).arrays["delta"]
        assert name == "signsgd" or not back.any()  # a vote has no third side
        assert all(not vector.any() for vector in kept.values())


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e-30, 1e-44])
def test_values_at_the_ends_of_float32_stay_finite(name, scale):
    line = pipeline(make(name), length=24)
    values = (scale * np.resize([1.0, -1.0, 0.5], 24)).astype(np.float32)
    memory = memory_of(line)
    for number in (1, 2):
        sent, memory = line.send(update(values), work_of(line, number), memory)
        back = arrived(line, sent, work_of(line, number)).arrays["delta"]
        for vectors in (sent.arrays, memory, {"delta": back}):
            assert arrays.is_finite(vectors)


def test_equal_arguments_give_equal_codes_and_nothing_is_changed(name):
    line, values = pipeline(make(name), length=40), normal(40)
    given = update(values.copy())
    given.arrays["delta"].flags.writeable = False
    sent = [line.send(given, work_of(line), memory_of(line))[0].arrays for _ in range(2)]
    for part in sent[0]:
        np.testing.assert_array_equal(sent[0][part], sent[1][part])
    np.testing.assert_array_equal(given.arrays["delta"], values)


def test_codes_do_not_depend_on_who_was_asked_before(name):
    """The generator is the client's own, so that a client may be asked again, or elsewhere."""
    line = pipeline(make(name), length=40)
    alone = line.send(update(normal(40), client="b"), work_of(line), memory_of(line))[0].arrays
    line.send(update(normal(40, 1), client="a"), work_of(line), memory_of(line))
    after = line.send(update(normal(40), client="b"), work_of(line), memory_of(line))[0].arrays
    for part in alone:
        np.testing.assert_array_equal(alone[part], after[part])


# Unbiased ones

DRAWS = 4000


@pytest.mark.parametrize(
    ("chosen", "options", "variance"),
    [
        # randomk keeps a value with probability k / n = 3 / 8 and sends 8 / 3 of it: v^2 (8 / 3 - 1).
        ("randomk", {"fraction": 0.375}, lambda v: v**2 * (8 / 3 - 1)),
        # A number rounded to neighbours at distance s has a variance of at most s^2 / 4; s = 2 / 7.
        ("quantise", {"bits": 4, "bound": 2.0}, lambda v: np.full(v.size, (2 / 7) ** 2 / 4)),
        # The same at s = ||v|| / 3, ||v|| over the bucket of all eight.
        ("qsgd", {"bits": 3, "bucket": 8}, lambda v: np.full(v.size, (np.linalg.norm(v) / 3) ** 2 / 4)),
    ],
)
def test_the_mean_of_many_codes_is_the_value(chosen, options, variance):
    """Within six standard errors, which one in 500 million right coordinates exceeds."""
    values = np.array([0.0, 1.0, -1.5, 0.01, -0.3, 1.9, 0.7, -2.0], np.float32)
    line = pipeline(make(chosen, **options), length=8)
    draws = np.stack([through(line, update(values), number) for number in range(1, DRAWS + 1)])
    error = 6 * np.sqrt(variance(values.astype(np.float64)) / DRAWS)
    assert (np.abs(draws.mean(axis=0) - values) <= error + 1e-6).all()
    assert (draws.var(axis=0) <= 1.2 * variance(values.astype(np.float64)) + 1e-9).all()


def test_randomk_draws_the_same_places_for_all_clients_of_a_round_and_others_in_the_next():
    line = pipeline(make("randomk"), length=50)
    places = [
        tuple(np.flatnonzero(through(line, update(np.ones(50), client=client), number)))
        for number, client in ((1, "a"), (1, "b"), (2, "a"))
    ]
    assert len(places[0]) == 20
    assert places[0] == places[1] != places[2]


# Error feedback


@pytest.mark.parametrize(
    "chosen",
    [
        *(("topk",), ("randomk",), ("ef-signsgd",), ("powersgd",)),
        *(("topk", "float16"), ("powersgd", "bfloat16"), ("topk", "qsgd")),
    ],
)
def test_what_was_sent_and_the_residual_sum_up_to_the_true_updates(chosen):
    """sum_t q_t + e_T = sum_t v_t for what left through all transforms (Karimireddy et al. 2019)."""
    first = {**OPTIONS[chosen[0]], **FEEDBACK[chosen[0]]}
    line = pipeline(make(chosen[0], **first), *map(make, chosen[1:]), length=36)
    memory, sent_sum, true_sum = memory_of(line), np.zeros(36), np.zeros(36)
    for number in range(1, 30):
        values = normal(36, number)
        sent, memory = line.send(update(values), work_of(line, number), memory)
        memory = {key: vector.astype(np.float32) for key, vector in memory.items()}
        sent_sum += arrived(line, sent, work_of(line, number)).arrays["delta"]
        true_sum += values
    residual = memory[f"transform.{chosen[0]}/residual.delta"]
    assert np.abs(residual).max() > 0.01
    np.testing.assert_allclose(sent_sum + residual, true_sum, atol=2e-4)


def test_a_value_that_is_never_large_is_sent_in_the_end():
    """By hand: (10.5, 1) with one value kept. The residual of the second grows by 1 until it is larger than 10.5."""
    line = pipeline(make("topk", fraction=0.5), length=2)
    memory, sent = memory_of(line), []
    for number in range(1, 12):
        message, memory = line.send(update([10.5, 1.0]), work_of(line, number), memory)
        sent.append(arrived(line, message, work_of(line, number)).arrays["delta"].tolist())
    assert sent == [[10.5, 0.0]] * 10 + [[0.0, 11.0]]


def test_an_update_that_counts_for_nothing_stays_in_the_residual():
    line = pipeline(make("topk", fraction=0.5), length=4)
    _, memory = line.send(update([1, 2, 3, 4], weight=0.0), work_of(line), memory_of(line))
    np.testing.assert_array_equal(memory["transform.topk/residual.delta"], [1, 2, 3, 4])


def test_without_error_feedback_nothing_is_remembered():
    for chosen, options in FEEDBACK.items():
        options = {**OPTIONS[chosen], "error_feedback": False}
        if chosen == "powersgd":
            options["warm_start"] = False
        assert pipeline(make(chosen, **options), length=30).memory_layout == {}


# Each by hand


def test_topk_by_hand():
    """Of eight values the three largest, and a byte that says where: bits 1, 3 and 6."""
    line = pipeline(make("topk", fraction=0.3), length=8)
    sent, memory = line.send(update([0, -5, 1, 3, 0, 2, -4, 1]), work_of(line), memory_of(line))
    assert sent.arrays["delta.values"].tolist() == [-5, 3, -4]
    assert sent.arrays["delta:mask"].tolist() == [0b01010010]
    assert memory["transform.topk/residual.delta"].tolist() == [0, 0, 1, 0, 0, 2, 0, 1]


def test_topk_sends_places_or_bits_whichever_is_shorter():
    """One in a hundred: 4 bytes for each of ten values; one in ten: 125 bytes of bits rather than 400."""
    assert pipeline(make("topk", fraction=0.01), length=1000).sent == {"delta:indices": 10, "delta.values": 10}
    assert pipeline(make("topk", fraction=0.1), length=1000).sent == {"delta:mask": 125, "delta.values": 100}


def test_a_share_that_floating_point_cannot_hold_is_rounded_right():
    assert pipeline(make("topk", fraction=0.07), length=100).sent["delta.values"] == 7
    assert pipeline(make("randomk", fraction=0.07), length=101).sent == {"delta": 8}


def test_quantise_by_hand():
    """Bound 1 and two bits: L = 1, the lattice is -1, 0, 1; values beyond the bound count as the bound."""
    line = pipeline(make("quantise", bits=2, bound=1.0), length=5)
    sent, _ = line.send(update([1, -1, 0, 7, -7]), work_of(line), {})
    assert sent.arrays["delta"].dtype == np.int8
    assert sent.arrays["delta"].tolist() == [1, -1, 0, 1, -1]
    assert through(line, update([1, -1, 0, 7, -7])).tolist() == [1, -1, 0, 1, -1]
    wide, _ = pipeline(make("quantise", bits=16, bound=1.0), length=2).send(update([1, -1]), work_of(line), {})
    assert (wide.arrays["delta"].dtype, wide.arrays["delta"].tolist()) == (np.int16, [32767, -32767])


def test_the_bound_of_quantise_follows_the_mean():
    """Bound 0.1 at first; the mean's largest value is 0.5 and the spread 3: 1.5 in the next round, which is told."""
    transform = make("quantise", bound=0.1, spread=3.0)
    line = pipeline(transform, length=3)
    state = transform.init({"delta": 3})
    assert transform.broadcast(state)["bound.delta"].tolist() == pytest.approx([0.1])
    mean = Aggregate({"delta": np.array([1.0, -2.0, 0.0], np.float32)}, 4.0, 2)
    same, state = transform.on_server(mean, state, context(line, "quantise", work_of(line)))
    assert same is mean
    assert state["bound.delta"].tolist() == [1.5]
    nobody = Aggregate({"delta": np.zeros(3, np.float32)}, 0.0, 0)
    assert transform.on_server(nobody, state, context(line, "quantise", work_of(line)))[1] == state
    work = work_of(line, 2, {"quantise": state})
    sent, _ = line.send(update([1.5, -1.5, 0.0]), work, {})
    assert sent.arrays["delta"].tolist() == [127, -127, 0]


def test_qsgd_by_hand():
    """Bucket (3, 4) has the norm 5, (0, 0) the norm 0, (-2, -) the norm 2. With one level a value is 0 or the norm."""
    line = pipeline(make("qsgd", bits=2, bucket=2), length=5)
    sent, _ = line.send(update([3, 4, 0, 0, -2]), work_of(line), {})
    assert sent.arrays["delta:norms"].tolist() == [5, 0, 2]
    assert sent.arrays["delta:levels"].size == 2
    back = through(line, update([3, 4, 0, 0, -2]))
    assert set(back[:2].tolist()) <= {0.0, 5.0}
    assert back[2:].tolist() == [0, 0, -2]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_packing_keeps_every_number(bits, count, seed):
    words = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack(words, bits)
    assert packed.size == packed_size(count, bits)
    np.testing.assert_array_equal(unpack(packed, bits, count), words)
    oracle = "".join(f"{word:0{bits}b}" for word in words).ljust(8 * packed.size, "0")
    assert packed.tobytes() == int(oracle or "0", 2).to_bytes(packed.size, "big")


def votes(line, rows, weights):
    """What the server makes of several clients' updates through one pipeline."""
    work = work_of(line)
    total = SumAccumulator(intake(line, work), multiplied=False)
    for number, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        sent, _ = line.send(update(row, weight, str(number)), work, memory_of(line))
        total.add(str(number), wire.pack("vector", arrays={**sent.arrays, WEIGHT: np.array([sent.weight])}))
    aggregate = total.aggregate()
    for name, transform in reversed(line.transforms.items()):
        aggregate = line.decoded(aggregate, name, line.shared(name, 1, work.transforms))
        aggregate, _ = transform.on_server(aggregate, {}, context(line, name, work))
    return aggregate


def test_the_majority_votes_by_hand():
    """Three clients: two say +, -, -; one says the opposite, and it has most rows. Magnitudes do not count."""
    rows, weights = [[1, -1, -9], [0.1, -0.1, -1], [-100, 100, 100]], [1, 1, 50]
    equal = votes(pipeline(make("signsgd", step=0.5), length=3), rows, weights)
    np.testing.assert_allclose(equal.mean("delta"), [0.5, -0.5, -0.5])
    assert (equal.weight, equal.count) == (3.0, 3)
    weighed = votes(pipeline(make("signsgd", step=0.5, weighted=True), length=3), rows, weights)
    np.testing.assert_allclose(weighed.mean("delta"), [-0.5, 0.5, 0.5])


def test_a_tie_moves_nothing_and_who_made_no_step_has_no_vote():
    line = pipeline(make("signsgd", step=0.5), length=2)
    assert votes(line, [[1, 1], [-1, -1]], [1, 1]).mean("delta").tolist() == [0, 0]
    assert votes(line, [[1, 1], [-1, -1]], [1, 0]).mean("delta").tolist() == [0.5, 0.5]


def test_values_of_zero_vote_at_random():
    """Of 4000 zeros about half are positive: within 6 standard deviations of 31.6."""
    back = through(pipeline(make("signsgd"), length=4000), update(np.zeros(4000)))
    assert set(back.tolist()) == {-1.0, 1.0}
    assert abs(int((back > 0).sum()) - 2000) < 190


def test_scaled_signs_by_hand():
    """(3, -1, 2, 2): the mean magnitude is 2."""
    line = pipeline(make("ef-signsgd"), length=4)
    sent, memory = line.send(update([3, -1, 2, 2]), work_of(line), memory_of(line))
    assert sent.arrays["delta:scale"].tolist() == [2]
    assert sent.arrays["delta:signs"].tolist() == [0b10110000]
    assert memory["transform.ef-signsgd/residual.delta"].tolist() == [1, 1, 0, 0]


def test_bfloat16_is_torchs():
    values = np.concatenate([normal(5000, 3, 10.0**p) for p in (-38, -20, -3, 0, 3, 30)])
    values = np.concatenate([values, np.float32([0, -0.0, 1e-45, 3.4028235e38, -3.4028235e38, 1.00390625, 1.01171875])])
    found = through(pipeline(make("bfloat16"), length=values.size), update(values))
    expected = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    largest = float(torch.finfo(torch.bfloat16).max)
    np.testing.assert_array_equal(found, np.clip(expected, -largest, largest))


def test_float16_is_numpys_within_its_range():
    values = np.concatenate([normal(1000, 3), np.float32([1e6, -1e6, 1e-9, 65504, 65519])])
    found = through(pipeline(make("float16"), length=values.size), update(values))
    np.testing.assert_array_equal(found[:1000], values[:1000].astype(np.float16).astype(np.float32))
    assert found[1000:].tolist() == [65504, -65504, 0, 65504, 65504]


# PowerSGD


def low_rank(rows, columns, rank, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))).astype(np.float32)


def powersgd(rank, *tensors, **options):
    shaped = make("powersgd", rank=rank, **options).shaped({"params": tensors})
    return pipeline(shaped, length=sum(int(np.prod(tensor)) for tensor in tensors))


def test_a_matrix_of_that_rank_arrives_as_it_was():
    """Two matrices and a bias: 2 (6 + 9) and 2 (8 + 5) numbers of the 54 and 40, and the 6 as they are."""
    line = powersgd(2, (6, 9), (6,), (8, 5))
    assert line.sent == {"delta.left": 2 * 6 + 2 * 8, "delta.right": 2 * 9 + 2 * 5, "delta.rest": 6}
    values = np.concatenate([low_rank(6, 9, 2).ravel(), normal(6), low_rank(8, 5, 2, 1).ravel()])
    np.testing.assert_allclose(through(line, update(values)), values, atol=1e-5)


def test_repeated_rounds_find_the_best_matrix_of_the_rank():
    """Without error feedback the warm start makes subspace iteration: the error falls to that of the SVD (Vogels et
    al. 2019, section 4.2), and a cold start stays above it."""
    matrix = np.random.default_rng(1).normal(size=(20, 30)) * (0.7 ** np.arange(30))
    values = matrix.astype(np.float32).ravel()
    best = np.sqrt((np.linalg.svd(matrix, compute_uv=False)[3:] ** 2).sum())
    errors = {}
    for warm in (True, False):
        line = powersgd(3, (20, 30), error_feedback=False, warm_start=warm)
        memory = memory_of(line)
        for number in range(1, 40):
            sent, memory = line.send(update(values), work_of(line, number), memory)
        found = arrived(line, sent, work_of(line, 39)).arrays["delta"]
        errors[warm] = np.linalg.norm(found - values)
    assert errors[True] == pytest.approx(best, rel=1e-3)
    assert errors[False] > 1.02 * best


def test_factors_are_those_of_one_step_of_subspace_iteration():
    """P = orth(M Q') and Q = M^T P: the projection of M on the space of M Q', whatever its basis."""
    line, values = powersgd(2, (7, 8), error_feedback=False), normal(56)
    memory = {"transform.powersgd/basis.delta": normal(16, 9)}
    sent, kept = line.send(update(values), work_of(line), memory)
    matrix, start = values.reshape(7, 8).astype(np.float64), memory["transform.powersgd/basis.delta"].reshape(8, 2)
    left = sent.arrays["delta.left"].reshape(7, 2)
    np.testing.assert_allclose(left.T @ left, np.eye(2), atol=1e-6)
    basis = np.linalg.qr(matrix @ start)[0]
    found = arrived(line, sent, work_of(line)).arrays["delta"].reshape(7, 8)
    np.testing.assert_allclose(found, basis @ basis.T @ matrix, atol=1e-5)
    np.testing.assert_array_equal(kept["transform.powersgd/basis.delta"], sent.arrays["delta.right"])


def test_a_tensor_is_its_first_dimension_against_the_others():
    """A convolution of 8 filters of 3 x 5 x 5 is a matrix of 8 x 75."""
    assert powersgd(1, (8, 3, 5, 5)).sent == {"delta.left": 8, "delta.right": 75}


def test_other_vectors_are_one_matrix_as_square_as_can_be_and_small_ones_go_as_they_are():
    assert pipeline(make("powersgd", rank=1), length=40).sent == {"delta.left": 6, "delta.right": 7}
    assert pipeline(make("powersgd", rank=3), length=20).sent == {"delta": 20}
    line = pipeline(make("powersgd", rank=1), length=40)
    outer = np.outer(np.arange(1, 7), np.arange(1, 8)).astype(np.float32).ravel()[:40]
    outer[-5:] = 0
    assert through(line, update(outer)).shape == (40,)


# The way back: on arrival, or on the sum


def intake(line, work):
    return UpdateIntake(
        {**line.sent, WEIGHT: 1},
        arrive=lambda u: line.arrive(u, line.shared_by_all(work), lambda name: context(line, name, work)),
        arrived=line.arrived,
    )


def test_the_server_keeps_one_accumulator_and_no_update(name, toy, tmp_path):
    """Codes are decoded, weighed and added as they come."""
    run, _ = make_run(toy, tmp_path / "run", f"transforms={{{name}: {OPTIONS[name]}}}")
    assert run.sums
    assert run.takes_each == (name not in LINEAR)
    server = Rounds(run, InProcessEngine())
    plan = server.plan(server.initial())
    traffic = RoundTraffic(update_intake(run, plan))
    round_of = Aggregation(run, server.engine, plan, traffic, PhaseTimer())
    assert isinstance(round_of._accumulator(), SumAccumulator)


BAD = {
    "topk": [
        {"delta:indices": [-1, 3], "delta.values": [1, 1]},
        {"delta:indices": [3, 200], "delta.values": [1, 1]},
        {"delta:indices": [0.5, 3], "delta.values": [1, 1]},
    ],
    "qsgd": [
        {"delta:levels": [255] * 100, "delta:norms": [1] * 40},
        {"delta:levels": [0.5] * 100, "delta:norms": [1] * 40},
    ],
    "signsgd": [{"delta:signs": [0.5] * 25}],
    "float16": [{"delta:float16": [1e10] * 200}],
    "bfloat16": [{"delta:bfloat16": np.full(200, 0x7F80, np.uint16)}, {"delta:bfloat16": [1] * 200}],
}


@pytest.mark.parametrize(("chosen", "place"), [(n, k) for n, codes in BAD.items() for k in range(len(codes))])
def test_a_code_that_is_none_makes_its_client_a_failed_one(chosen, place):
    options = {"fraction": 0.01} if chosen == "topk" else OPTIONS[chosen]
    line = pipeline(make(chosen, **options), length=200)
    given = {}
    for part, values in BAD[chosen][place].items():
        whole = all(isinstance(value, int) for value in values)
        given[part] = values if isinstance(values, np.ndarray) else np.array(values, np.int64 if whole else np.float32)
    if chosen == "qsgd" and place == 0:
        given["delta:levels"] = given["delta:levels"].astype(np.uint8)
    total = SumAccumulator(intake(line, work_of(line)), multiplied=False)
    total.add("bad", wire.pack("vector", arrays={**given, WEIGHT: np.ones(1)}))
    assert total.intake.failed["bad"].kind in ("protocol", "non-finite")
    sent, _ = line.send(update(normal(200)), work_of(line), memory_of(line))
    total.add("good", wire.pack("vector", arrays={**sent.arrays, WEIGHT: np.ones(1)}))
    assert total.aggregate().count == 1


def test_a_mask_with_more_places_than_values_is_refused():
    line = pipeline(make("topk", fraction=0.3), length=8)
    total = SumAccumulator(intake(line, work_of(line)), multiplied=False)
    code = {"delta:mask": np.array([255], np.uint8), "delta.values": np.ones(3, np.float32), WEIGHT: np.ones(1)}
    total.add("bad", wire.pack("vector", arrays=code))
    assert "3 values for 8 positions" in total.intake.failed["bad"].message


def test_where_updates_are_looked_at_they_are_decoded_first(name):
    """A robust rule sees changes of the model, not codes."""
    line = pipeline(make(name), length=12, each=True)
    seen = []

    def combine(updates):
        seen.extend(dict(arrays.layout_of(u.arrays)) for u in updates)
        return {}

    total, work = UpdateCollector(intake(line, work_of(line)), ["a"], combine), work_of(line)
    sent, _ = line.send(update(normal(12)), work, memory_of(line))
    total.take(total.intake.take(sent))
    assert total.aggregate().arrays["delta"].shape == (12,)
    assert seen == [{"delta": 12}]
    assert line.decoded(total.aggregate(), name, line.shared(name, 1, {})).arrays["delta"].shape == (12,)


# In runs


def chosen_transform(name, **more):
    options = {**OPTIONS[name], **more}
    text = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"transforms={{{name}: {{{text}}}}}"


LEARNING = {
    "randomk": {"error_feedback": "true"},
    "signsgd": {"step": 0.05},
    "quantise": {"bound": 0.5},
}


def test_training_still_learns(name, toy, tmp_path):
    """The toy problem has three classes; without compression 30 rounds reach about 0.94."""
    chosen = chosen_transform(name, **LEARNING.get(name, {}))
    result = train_run(toy, tmp_path / "run", chosen, "rounds=30", "eval.every=30", "cohort.clients=8")
    assert result.summary["final"]["accuracy"] >= 0.85


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_exactly(name, toy, tmp_path):
    chosen = (chosen_transform(name), "rounds=4", "checkpoint.every=1")
    train_run(toy, tmp_path / "whole", *chosen)
    run, directory = make_run(toy, tmp_path / "cut", *chosen)
    short = run.config.model_copy(update={"rounds": 2})
    train(Run.build(short, Registry(), toy, directory.memory), directory)
    train(Run.build(run.config, Registry(), toy, directory.memory), directory)
    assert checkpoint_digests(tmp_path / "cut") == checkpoint_digests(tmp_path / "whole")
    assert untimed_lines(tmp_path / "cut") == untimed_lines(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("chosen", sorted(OPTIONS))
def test_worker_processes_give_the_same_bits(chosen, toy, tmp_path):
    """Also of what powersgd computes with linear algebra."""
    options = (chosen_transform(chosen), "model={name: mlp, hidden: [16]}", "rounds=3")
    train_run(toy, tmp_path / "one", *options)
    train_run(toy, tmp_path / "two", *options, "engine={name: pool, workers: 2}")
    assert checkpoint_digests(tmp_path / "one") == checkpoint_digests(tmp_path / "two")
    assert untimed_lines(tmp_path / "one") == untimed_lines(tmp_path / "two")


class Masked(Aggregator):
    """Whole numbers under masks that cancel in the sum, modulo 2^64; fractions and the weight in the clear."""

    name = "masked"
    hides = True

    def server(self, ctx):
        replies = yield Phase(dict.fromkeys(ctx.cohort, "\n".join(ctx.cohort).encode()), trains=True)
        total, count = {}, 0
        for _, message in replies:
            count += 1
            for name, vector in wire.unpack(message, "vector").arrays.items():
                total[name] = vector + total[name] if name in total else vector
        weight = float(total.pop(WEIGHT)[0])
        return Aggregate(
            {n: v.astype(np.int64) if v.dtype == np.uint64 else v for n, v in total.items()}, weight, count
        )

    def client(self, memory, message, vector, ctx):
        masked = dict(vector)
        for name, words in vector.items():
            if words.dtype.kind == "i":
                masked[name] = words.astype(np.uint64) + mask(message.decode().split("\n"), ctx.client_id, words.size)
        return b"", wire.pack("vector", arrays=masked)


def mask(cohort, client, size):
    """+ the mask shared with each later client, - that shared with each earlier one."""
    total = np.zeros(size, np.uint64)
    for first, second in itertools.combinations(cohort, 2):
        if client in (first, second):
            shared = np.random.default_rng([int(first), int(second)]).integers(0, 2**64, size, np.uint64)
            total = total + shared if client == first else total - shared
    return total


def registry():
    class Offer:
        @hookimpl
        def flctl_aggregators(self):
            return [Hidden, Masked]

        @hookimpl
        def flctl_engines(self):
            return [OneByOne]

    made = Registry()
    made.add(Offer(), "test")
    return made


def weights_of(path):
    from safetensors.numpy import load_file

    return load_file(max((path / "checkpoints").glob("round-*")) / "model.safetensors")


def test_what_adds_up_gives_the_same_model_under_masks(toy, tmp_path):
    """quantise in a secure sum: the words are what is masked, and the sum is exact."""
    chosen = (chosen_transform("quantise"), "rounds=3")
    train_run(toy, tmp_path / "plain", *chosen)
    train_run(toy, tmp_path / "masked", *chosen, "aggregator=masked", registry=registry())
    plain, masked = weights_of(tmp_path / "plain"), weights_of(tmp_path / "masked")
    for part, expected in plain.items():
        np.testing.assert_array_equal(masked[part], expected)


def test_randomk_adds_up_where_the_server_sees_only_a_sum(toy, tmp_path):
    chosen = (chosen_transform("randomk"), "rounds=3")
    train_run(toy, tmp_path / "plain", *chosen)
    train_run(toy, tmp_path / "hidden", *chosen, "aggregator=hidden", registry=registry())
    for part, expected in weights_of(tmp_path / "plain").items():
        np.testing.assert_allclose(weights_of(tmp_path / "hidden")[part], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chosen", sorted(set(OPTIONS) - set(LINEAR)))
def test_codes_that_do_not_add_up_are_refused_where_the_server_sees_only_a_sum(chosen, toy, tmp_path):
    with pytest.raises(IncompatibleError, match=f"transform '{chosen}' .* aggregator 'hidden' hides") as refused:
        make_run(toy, tmp_path / "run", chosen_transform(chosen), "aggregator=hidden", registry=registry())
    assert refused.value.hint == "Leave this transform out, or use --aggregator plain."


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        (
            "{topk: {}, clip: {norm: 1}}",
            "'clip' works on sums, and the codes of 'topk' before it cannot be added up",
        ),
        ("{qsgd: {}, quantise: {}}", "'quantise' works on sums, and the codes of 'qsgd'"),
        ("{topk: {}, signsgd: {}}", "'signsgd' works on sums, and the codes of 'topk'"),
        ("{quantise: {}, float16: {}}", "'quantise' sends integers, which 'float16' after it cannot encode"),
    ],
)
def test_orders_that_make_no_sense_are_refused(chosen, says, toy, tmp_path):
    with pytest.raises(IncompatibleError, match=says):
        make_run(toy, tmp_path / "run", f"transforms={chosen}")


def test_layers_before_a_code_are_undone_on_the_sum(toy, tmp_path):
    """clip, then random values, then top-k of those with float16: each is undone in its place."""
    chosen = "transforms={clip: {norm: 1}, randomk: {fraction: 0.8}, topk: {fraction: 0.5}, float16: {}}"
    result = train_run(toy, tmp_path / "run", chosen, "rounds=3")
    assert np.isfinite(result.summary["final"]["test_loss"])


def test_a_robust_rule_and_a_code_go_together(name, toy, tmp_path):
    chosen = (chosen_transform(name, **LEARNING.get(name, {})), "strategy=fedmedian", "rounds=2", "cohort.clients=5")
    assert train_run(toy, tmp_path / "run", *chosen).rounds == 2


SIZES = {
    # 15 parameters: 12 weights and 3 biases.
    "topk": {"delta:mask": (2, np.uint8), "delta.values": (5, np.float32)},
    "randomk": {"delta": (6, np.float32)},
    "quantise": {"delta": (15, np.int8)},
    "qsgd": {"delta:levels": (8, np.uint8), "delta:norms": (3, np.float32)},
    "signsgd": {"delta:signs": (2, np.uint8)},
    "ef-signsgd": {"delta:signs": (2, np.uint8), "delta:scale": (1, np.float32)},
    "powersgd": {"delta.left": (3, np.float32), "delta.right": (4, np.float32), "delta.rest": (3, np.float32)},
    "float16": {"delta:float16": (15, np.float16)},
    "bfloat16": {"delta:bfloat16": (15, np.uint16)},
}


@pytest.mark.parametrize("engine", ["inprocess", "one-by-one"])
def test_bytes_up_are_those_of_the_messages(name, engine, toy, tmp_path):
    """Whether clients' messages travel, or chunks of clients reply together; equal too to the sum by hand."""
    chosen = (chosen_transform(name), "rounds=2", f"engine.name={engine}")
    train_run(toy, tmp_path / "run", *chosen, registry=registry())
    message = {part: np.zeros(size, dtype) for part, (size, dtype) in SIZES[name].items()}
    encoded = len(wire.pack("vector", arrays={**message, WEIGHT: np.ones(1)}))
    assert [line["bytes_up"] for line in untimed_lines(tmp_path / "run")] == [4 * encoded] * 2


def test_the_sum_is_the_same_whether_chunks_reply_together_or_clients_one_by_one(name, toy, tmp_path):
    chosen = (chosen_transform(name), "rounds=2", "engine.executor=fused")
    train_run(toy, tmp_path / "together", *chosen)
    train_run(toy, tmp_path / "alone", *chosen, "engine.name=one-by-one", registry=registry())
    for part, expected in weights_of(tmp_path / "together").items():
        np.testing.assert_allclose(weights_of(tmp_path / "alone")[part], expected, rtol=1e-6, atol=1e-7)


def test_whole_numbers_that_are_hidden_travel_weighed(toy, tmp_path):
    """The server could not multiply them: 8 bytes each rather than 1."""
    chosen = (chosen_transform("quantise"), "rounds=1", "aggregator=hidden")
    train_run(toy, tmp_path / "run", *chosen, registry=registry())
    message = {"delta": np.zeros(15, np.int64), WEIGHT: np.ones(1)}
    assert untimed_lines(tmp_path / "run")[0]["bytes_up"] == 4 * len(wire.pack("vector", arrays=message))


def test_bounds_that_are_told_are_counted_on_the_way_down(toy, tmp_path):
    down = []
    for place, spread in enumerate(("null", "3.0")):
        train_run(toy, tmp_path / str(place), chosen_transform("quantise", spread=spread), "rounds=1")
        down.append(untimed_lines(tmp_path / str(place))[0]["bytes_down"])
    assert down[1] > down[0]


def test_a_client_whose_reply_was_lost_keeps_its_old_residual(toy, tmp_path):
    """What it said was not used, so nothing of it was sent."""
    run, _ = make_run(toy, tmp_path / "run", chosen_transform("topk"), "cohort.sampling=all", "engine.max_failures=1")
    engine = ScriptedEngine(InProcessEngine(), {})
    with engine.open(run):
        server = Rounds(run, engine)
        state, _ = server.play(server.initial(), last=lambda seconds: False)
        before = server.memory.newest(3, 99)
        engine.failures = {"3": Failure("deadline", "gone")}
        server.play(state, last=lambda seconds: False)
    number, vectors = server.memory.newest(3, 99)
    assert number == before[0] == 1
    np.testing.assert_array_equal(vectors["transform.topk/residual.delta"], before[1]["transform.topk/residual.delta"])
    assert server.memory.newest(4, 99)[0] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("topk: {fraction: 0}", "fraction"),
        ("qsgd: {bits: 1}", "bits"),
        ("quantise: {bits: 17}", "bits"),
        ("quantise: {spread: 1}", "spread"),
        ("powersgd: {rank: 0}", "rank"),
        ("float16: {bits: 8}", "bits"),
    ],
)
def test_options_out_of_range_are_refused(text, says, toy, tmp_path):
    with pytest.raises(ConfigError, match=says):
        make_run(toy, tmp_path / "run", f"transforms={{{text}}}")
