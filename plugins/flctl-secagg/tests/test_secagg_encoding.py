"""Words: packed and back, the bounds of the ring, rounding that keeps the mean, whole numbers as they are."""

import numpy as np
import pytest
from flctl_secagg.encoding.packing import WIDTHS, lane, pack, packed_bytes, reduce, signed, unpack
from flctl_secagg.encoding.vectors import FEW, Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl import RING, IncompatibleError, ProtocolError

LAYOUT = (("delta", 100), ("tau", 1), ("buffers", 30))


def coding(bits=32, count=5, clip=2.0, max_weight=10.0, layout=LAYOUT):
    return Encoding(layout, bits, count, clip, max_weight)


def vector(weight=10.0, seed=0, **changed):
    rng = np.random.default_rng(seed)
    made = {name: (weight * rng.uniform(-2, 2, size)).astype(np.float32) for name, size in LAYOUT}
    return {**made, "weight": np.array([weight]), **changed}


def summed(encoding, vectors):
    words = np.zeros(encoding.words, lane(encoding.bits))
    for one in vectors:
        words += encoding.encode(one)
    return reduce(words, encoding.bits)


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 101])
def test_words_come_back_from_their_packed_form(bits, count):
    words = (
        np.random.default_rng(1).integers(0, 2**bits, count, dtype=np.uint64, endpoint=False)
        if bits < 64
        else (np.random.default_rng(1).integers(0, 2**64 - 1, count, dtype=np.uint64, endpoint=True))
    )
    words = words.astype(lane(bits))
    data = pack(words, bits)
    assert len(data) == packed_bytes(bits, count) == (bits * count + 7) // 8
    np.testing.assert_array_equal(unpack(data, bits, count), words)


def test_two_words_of_20_bits_share_five_bytes_by_hand():
    assert pack(np.array([0xABCDE, 0x12345], "<u4"), 20).hex() == "debc5a3412"
    assert unpack(bytes.fromhex("debc5a3412"), 20, 2).tolist() == [0xABCDE, 0x12345]


@pytest.mark.parametrize("bits", WIDTHS)
def test_other_lengths_are_refused_before_anything_is_read(bits):
    for wrong in (packed_bytes(bits, 7) - 1, packed_bytes(bits, 7) + 1, 0):
        with pytest.raises(ValueError, match="expected 7 words"):
            unpack(bytes(wrong), bits, 7)


def test_bits_beyond_the_last_word_are_refused():
    with pytest.raises(ValueError, match="beyond the last word"):
        unpack(b"\x00\x00\x10", 20, 1)


@pytest.mark.parametrize("bits", WIDTHS)
def test_signed_words_are_twos_complement(bits):
    high = 1 << (bits - 1)
    words = np.array([0, 1, high - 1, high, 2 * high - 1], dtype=np.uint64).astype(lane(bits))
    assert signed(words, bits).tolist() == [0, 1, high - 1, -high, -1]


@pytest.mark.parametrize("bits", WIDTHS)
def test_extremes_of_all_clients_do_not_overflow(bits):
    """Every client at +clip with the largest weight, or all at -clip: the sum is n clip W and not its opposite."""
    encoding = coding(bits, count=40 if bits == 16 else 300)
    for sign in (1, -1):
        one = {name: np.full(size, sign * 20.0, np.float32) for name, size in LAYOUT} | {"weight": np.array([10.0])}
        decoded = encoding.decode(summed(encoding, [one] * encoding.count), encoding.count)
        np.testing.assert_allclose(decoded.arrays["delta"], sign * 20.0 * encoding.count, rtol=1e-6)
        assert decoded.arrays["tau"][0] == sign * 20 * encoding.count
        assert (decoded.weight, decoded.clipped) == (10 * encoding.count, 0)
    assert encoding.levels * encoding.count < 1 << (bits - 1)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(WIDTHS), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_sum_is_within_one_level_for_each_client(bits, count, seed):
    encoding = coding(bits, count)
    rng = np.random.default_rng(seed)
    vectors = [vector(float(rng.uniform(0.1, 10)), seed + place) for place in range(count)]
    decoded = encoding.decode(summed(encoding, vectors), count)
    for name, size in LAYOUT:
        exact = sum(one[name].astype(np.float64) for one in vectors)
        unit = 1 / encoding.scale if size > FEW else 2.0**-24
        slack = np.abs(exact).max() * 1e-6
        assert np.abs(decoded.arrays[name] - exact).max() <= count * unit + slack
    assert decoded.weight == pytest.approx(sum(float(one["weight"][0]) for one in vectors), abs=count * 2.0**-25)
    assert decoded.clipped == 0


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_what_rounding_adds_to_a_client_s_length_is_within_its_bound(bits):
    """By hand: a level is clip max_weight / Q, there are 130 long values, and one of 2^-24."""
    encoding = coding(bits)
    level = 2.0 * 10.0 / encoding.levels
    assert encoding.rounding == pytest.approx((130 * level**2 + 2.0**-48) ** 0.5)
    for seed in range(20):
        one = vector(seed=seed)
        found = encoding.decode(summed(encoding, [one]), 1).arrays
        away = sum(float(np.sum((found[name].astype(float) - one[name]) ** 2)) for name in dict(LAYOUT))
        assert away**0.5 <= encoding.rounding
    assert coding(bits, layout=(("words" + RING, 100),)).rounding == 0


def test_values_beyond_the_clip_are_clipped_and_counted():
    encoding = coding()
    given = vector(5.0)
    given["delta"][3], given["delta"][4] = 1e30, -50.0
    decoded = encoding.decode(summed(encoding, [given, vector(5.0, seed=1)]), 2)
    other = vector(5.0, seed=1)["delta"]
    assert decoded.clipped == 1
    np.testing.assert_allclose(decoded.arrays["delta"][3:5] - other[3:5], [10.0, -10.0], atol=1e-5)


def test_a_weight_above_the_maximum_counts_as_the_maximum():
    """Weight 40 of at most 10: the vector shrinks to a quarter, and so does the weight."""
    encoding = coding()
    one = {name: np.full(size, 40.0, np.float32) for name, size in LAYOUT} | {"weight": np.array([40.0])}
    decoded = encoding.decode(summed(encoding, [one]), 1)
    np.testing.assert_allclose(decoded.arrays["delta"], 10.0, atol=1e-6)
    assert (decoded.arrays["tau"][0], decoded.weight, decoded.clipped) == (10.0, 10.0, 1)


def test_a_client_of_weight_zero_adds_nothing():
    encoding = coding()
    one = {name: np.zeros(size, np.float32) for name, size in LAYOUT} | {"weight": np.array([0.0])}
    decoded = encoding.decode(summed(encoding, [one, vector(weight=2.0)]), 2)
    np.testing.assert_allclose(decoded.arrays["delta"], vector(weight=2.0)["delta"], atol=1e-6)
    assert decoded.weight == 2


@pytest.mark.parametrize("bits", [16, 20])
def test_rounding_keeps_the_mean(bits):
    """A third of a level 90,000 times: the mean's deviation is at most 0.5 / 300 levels."""
    encoding = Encoding((("delta", 90_000),), bits, 20, 1.0, 1.0)
    value = 1 / 3 / encoding.levels
    given = {"delta": np.full(90_000, value, np.float32), "weight": np.ones(1)}
    decoded = encoding.decode(summed(encoding, [given]), 1)
    levels = decoded.arrays["delta"].astype(np.float64) * encoding.levels
    assert set(np.round(levels).tolist()) == {0.0, 1.0}
    assert abs(levels.mean() - 1 / 3) < 5 * 0.5 / 300


def test_rounding_of_few_values_keeps_the_mean():
    """A third of 2^-24, 6,400 times: the mean's deviation is at most 0.5 / 80 units."""
    encoding = Encoding((("few", 16),), 32, 4, 1.0, 1.0)
    given = {"few": np.full(16, 2.0**-24 / 3, np.float32), "weight": np.ones(1)}
    units = [encoding.decode(encoding.encode(given), 1).arrays["few"] * 2.0**24 for _ in range(400)]
    assert set(np.concatenate(units).tolist()) == {0.0, 1.0}
    assert abs(np.mean(units) - 1 / 3) < 5 * 0.5 / 80


def test_a_vector_is_rounded_differently_each_time():
    encoding = Encoding((("delta", 100),), 16, 4, 1.0, 1.0)
    given = {"delta": np.full(100, 0.3, np.float32), "weight": np.ones(1)}
    assert len({encoding.encode(given).tobytes() for _ in range(5)}) == 5


def test_whole_numbers_are_summed_exactly():
    encoding = Encoding((("code", 50), ("few", 3)), 32, 4, 1.0, 1.0)
    rng = np.random.default_rng(3)
    given = [
        {"code": rng.integers(-(2**28), 2**28, 50), "few": rng.integers(-5, 5, 3, dtype=np.int8), "weight": np.ones(1)}
        for _ in range(4)
    ]
    decoded = encoding.decode(summed(encoding, given), 4)
    for name in ("code", "few"):
        np.testing.assert_array_equal(decoded.arrays[name], sum(one[name].astype(np.int64) for one in given))
        assert decoded.arrays[name].dtype == np.int64


def test_whole_numbers_that_may_overflow_are_refused_at_the_client():
    encoding = Encoding((("code", 50),), 16, 4, 1.0, 1.0)
    for value in (9000, -9000):
        with pytest.raises(ProtocolError, match="do not fit a ring of 16 bits"):
            encoding.encode({"code": np.full(50, value), "weight": np.ones(1)})


def test_whole_numbers_of_some_and_fractions_of_others_are_no_sum():
    encoding = Encoding((("code", 50),), 32, 2, 1.0, 1.0)
    mixed = [{"code": np.ones(50, kind), "weight": np.ones(1)} for kind in (np.int32, np.float32)]
    with pytest.raises(ProtocolError, match="1 sent 'code' as whole numbers"):
        encoding.decode(summed(encoding, mixed), 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["delta", "tau", "buffers"])
def test_values_that_are_not_finite_are_refused_at_the_client(name, bad):
    given = vector()
    given[name] = given[name].copy()
    given[name][0] = bad
    with pytest.raises(ProtocolError, match="NaN or infinite"):
        coding().encode(given)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_weight_that_is_none_is_refused_at_the_client(weight):
    with pytest.raises(ProtocolError, match="the weight is negative or not finite"):
        coding().encode(vector(weight=1.0) | {"weight": np.array([weight])})


def test_another_layout_is_refused_at_the_client():
    for changed in ({"delta": np.zeros(99, np.float32)}, {"more": np.zeros(1, np.float32)}):
        with pytest.raises(ProtocolError, match="do not have the layout of the session"):
            coding().encode(vector(**changed))


def test_a_sum_of_another_number_of_clients_is_refused():
    encoding = coding()
    words = summed(encoding, [vector(), vector()])
    with pytest.raises(ProtocolError, match="not that of 3 clients"):
        encoding.decode(words, 3)


def test_a_ring_that_is_too_small_is_refused_before_the_run():
    """2^15 / 3000 is 10 levels; at least 16 are needed."""
    with pytest.raises(IncompatibleError, match="have 10 levels for each of 3,000 clients"):
        coding(16, count=3000)


@pytest.mark.parametrize("bits", WIDTHS)
def test_fixed_point_numbers_are_spread_so_that_their_parts_do_not_overflow(bits):
    for count in (3, 40, 1000):
        encoding = coding(bits, count)
        assert count * (2**encoding.limb - 1) < 2**bits
        assert encoding.limb * encoding.limbs >= 64


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(WIDTHS), st.integers(1, 12), st.sampled_from([1, 3, 16, 17, 40]), st.integers(0, 2**32 - 1))
def test_vectors_of_the_ring_are_summed_exactly_modulo_its_size(bits, count, size, seed):
    """Python's whole numbers as the oracle; values reach beyond the ring, and few values take one word each."""
    name = "noise" + RING
    encoding = coding(bits, count, layout=((name, size), ("tau", 1)))
    rng = np.random.default_rng(seed)
    sent = [rng.integers(-(2**62), 2**62, size) for _ in range(count)]
    tau = np.ones(1, np.float32)
    words = summed(encoding, [{name: one, "tau": tau, "weight": np.array([1.0])} for one in sent])
    found = encoding.decode(words, count).arrays[name].tolist()
    half = 1 << (bits - 1)
    assert found == [(sum(map(int, column)) + half) % (2 * half) - half for column in zip(*sent, strict=True)]
    assert encoding.words == size + coding(bits, count, layout=(("tau", 1),)).words + 1


def test_fractions_in_a_vector_of_the_ring_are_refused():
    encoding = coding(layout=(("noise" + RING, 20),))
    with pytest.raises(ProtocolError, match="expected whole numbers"):
        encoding.encode({"noise" + RING: np.zeros(20, np.float32), "weight": np.array([1.0])})
    with pytest.raises(ProtocolError, match="weight above the maximum"):
        encoding.encode({"noise" + RING: np.zeros(20, np.int64), "weight": np.array([11.0])})
