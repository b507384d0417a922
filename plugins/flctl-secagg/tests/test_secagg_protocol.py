"""Sessions from end to end through bytes: every pattern of dropouts gives the sum of the survivors to the bit, or an
error; and nobody's update, weight or secret is to be seen on the way."""

import dataclasses

import numpy as np
import pytest
from flctl_secagg.client.policy import Policy
from flctl_secagg.encoding.packing import WIDTHS, lane, reduce
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.degrees import choose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from secagg_support import ASKED, AttemptError, attempt_of, cohort_of, vectors

from flctl import ProtocolError

LAYOUT = (("delta", 20), ("tau", 1))
PHASES = {
    "hbc": (frames.HELLO, frames.KEYS, frames.DELIVER, frames.UNMASK),
    "active": (frames.HELLO, frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK),
}


class Recording:
    """A cohort whose clients' words are written down before they are masked."""

    def __init__(self, monkeypatch):
        from flctl_secagg.encoding.vectors import Encoding

        self.words = []
        encode = Encoding.encode_counted
        monkeypatch.setattr(Encoding, "encode_counted", lambda coding, vector: self._kept(encode(coding, vector)))

    def _kept(self, encoded):
        self.words.append(encoded[0].copy())
        return encoded


@pytest.fixture(scope="module")
def recording():
    with pytest.MonkeyPatch.context() as patch:
        yield Recording(patch)


def plain_sum(recording, cohort, survivors, attempt):
    """The modular sum of the survivors' own words, without any mask."""
    masked = [name for kind, name, _ in cohort.heard if kind == frames.DELIVER and name not in cohort.refusals]
    by_name = dict(zip(masked, recording.words, strict=True))
    bits = attempt.session.parameters.bits
    total = np.zeros(attempt.session.encoding.words, lane(bits))
    for name in survivors:
        total += by_name[name]
    return reduce(total, bits)


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_dropouts_give_the_sum_of_the_survivors_to_the_bit_or_an_error(recording, data):
    count = data.draw(st.integers(3, 16), "clients")
    mode = data.draw(st.sampled_from(("hbc", "active")), "mode")
    bits = data.draw(st.sampled_from(WIDTHS), "bits")
    lost = data.draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from(PHASES[mode]), max_size=count), "lost")
    play_with_losses(recording, count, lost, mode=mode, bits=bits)


@pytest.mark.slow
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_so_they_do_on_a_sparse_graph_and_in_larger_cohorts(recording, data):
    count = data.draw(st.integers(14, 40), "clients")
    bits = data.draw(st.sampled_from(WIDTHS), "bits")
    lost = data.draw(st.dictionaries(st.integers(0, count - 1), st.sampled_from(PHASES["hbc"]), max_size=6), "lost")
    sparse = data.draw(st.booleans(), "sparse")
    with pytest.MonkeyPatch.context() as patch:
        choose.cache_clear()
        patch.setattr("flctl_secagg.protocol.degrees.COMPLETE_BELOW", 3)  # else a cohort of 40 has no sparse graph
        play_with_losses(
            recording, count, lost, mode="hbc", bits=bits, **({"neighbours": 12, "threshold": 6} if sparse else {})
        )


@pytest.fixture(autouse=True)
def fresh_choices():
    yield
    choose.cache_clear()


def play_with_losses(recording, count, lost, **changes):
    recording.words.clear()
    cohort = cohort_of(count, lost=lambda kind, name: lost.get(int(name[1:])) == kind)
    cohort.vectors = vectors(cohort.names, layout=LAYOUT)
    attempt = attempt_of(cohort, layout=LAYOUT, **changes)
    threshold, degree = attempt.session.parameters.threshold, attempt.session.parameters.neighbours
    try:
        unmasked = cohort.play(attempt)
    except AttemptError:
        assert len(lost) > degree - threshold or count - len(lost) < 3, (lost, cohort.refusals)
        return
    assert cohort.refusals == {}
    gone = {name for place, name in enumerate(cohort.names) if lost.get(place, frames.UNMASK) < frames.SURVIVORS}
    assert set(unmasked.survivors) == set(cohort.names) - gone
    assert len(unmasked.survivors) >= 3
    np.testing.assert_array_equal(unmasked.words, plain_sum(recording, cohort, unmasked.survivors, attempt))


def test_losses_in_the_last_phases_cost_nothing_while_enough_answer():
    """9 clients, t = 6 of 8 neighbours in active mode: two may be lost after their vector, and are in the sum."""
    for kind in (frames.SURVIVORS, frames.UNMASK):
        cohort = cohort_of(9, lost=lambda at, name, kind=kind: at == kind and name in ("c03", "c08"))
        unmasked = cohort.play(attempt_of(cohort, mode="active"))
        assert unmasked.survivors == cohort.names


def test_too_few_shares_are_an_error_and_no_sum():
    cohort = cohort_of(9, lost=lambda kind, name: kind == frames.UNMASK and name in ("c03", "c04", "c05", "c08"))
    with pytest.raises(AttemptError, match="client 'c00' has 4 opened shares, 5 are needed") as caught:
        cohort.play(attempt_of(cohort))
    assert caught.value.opened  # so that no other attempt is made of the round
    assert isinstance(caught.value, ProtocolError)


def test_too_few_survivors_are_an_error_before_any_share_is_opened():
    cohort = cohort_of(9, lost=lambda kind, name: kind == frames.DELIVER and name > "c04")
    with pytest.raises(AttemptError, match="client 'c00' has 4 remaining neighbours, 5 are needed") as caught:
        cohort.play(attempt_of(cohort))
    assert not caught.value.opened
    assert caught.value.left == ("c00", "c01", "c02", "c03", "c04")
    assert frames.UNMASK not in {kind for kind, _, _ in cohort.heard}


def test_survivors_below_the_minimum_are_an_error():
    cohort = cohort_of(9, policy=Policy(minimum=7, max_weight=8.0), lost=lambda k, n: k == frames.DELIVER and n > "c05")
    with pytest.raises(AttemptError, match="6 of 9 clients sent a masked vector, 7 are needed"):
        cohort.play(attempt_of(cohort, minimum=7, survivors=7))


def test_a_client_that_says_something_twice_is_heard_once():
    cohort = cohort_of(6)
    attempt = attempt_of(cohort)
    protocol, replies = attempt.run(), None
    try:
        while True:
            phase = protocol.send(replies)
            once = list(cohort.replies(phase))
            replies = iter(once + once[:3])
    except StopIteration as finished:
        unmasked = finished.value
    decoded = attempt.session.encoding.decode(unmasked.words, 6)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)


@pytest.mark.parametrize("mode", ["hbc", "active"])
def test_nothing_of_a_vector_weight_or_secret_is_on_the_wire(mode, monkeypatch):
    """Every private value that clients draw, and their vectors and weights, are looked for in every message."""
    from flctl_secagg.client import client

    drawn = []
    monkeypatch.setattr(client, "new_key", lambda: drawn.append(bytes(range(len(drawn), len(drawn) + 32))) or drawn[-1])
    cohort = cohort_of(6)
    attempt = attempt_of(cohort, mode=mode)
    cohort.play(attempt)
    messages = b"\n".join(message for _, _, message in cohort.heard + cohort.said)
    assert len(drawn) == 18
    assert [secret.hex() for secret in drawn if secret in messages] == []
    for one in cohort.vectors.values():
        for vector in one.values():
            for kind in (np.float32, np.float64, np.float16):
                plain = vector.astype(kind).tobytes()
                assert not any(plain[at : at + 8] in messages for at in range(0, len(plain) - 7, 2))


def test_a_masked_vector_of_zeros_is_uniform_and_differs_each_time():
    """Chi-squared of bytes of two masked vectors of zeros: mean 255, deviation 22.6."""
    layout = (("delta", 20_000),)
    said = []
    for _ in range(2):
        cohort = cohort_of(3)
        zero = {
            "delta": np.eye(1, 20_000, dtype=np.float32)[0],
            "weight": np.ones(1),
        }  # a client with zeros alone refuses
        cohort.vectors = dict.fromkeys(cohort.names, zero)
        cohort.play(attempt_of(cohort, layout=layout))
        said += [reply[-80_000:] for kind, _, reply in cohort.said if kind == frames.DELIVER]
    assert len(set(said)) == 6
    for one in said:
        counts = np.bincount(np.frombuffer(one, np.uint8), minlength=256)
        assert abs(((counts - 312.5) ** 2 / 312.5).sum() - 255) < 6 * 22.6


def test_no_keystream_is_used_twice(monkeypatch):
    """Over two attempts of a round, each pair's seed is derived by its two ends and the server, never for two uses."""
    from flctl_secagg.crypto import masks

    seeds = []
    keystream = masks.keystream
    monkeypatch.setattr(masks, "keystream", lambda seed: seeds.append(seed) or keystream(seed))
    cohort = cohort_of(5)
    for number in (1, 2):
        cohort.play(attempt_of(cohort, attempt=number))
    # Per session: 5 self masks, taken away again by the server, and 10 pairs at both ends.
    assert sorted(seeds.count(seed) for seed in set(seeds)) == [2] * 30
    assert len(seeds) == 60
    assert all(len(seed) == 32 for seed in seeds)


def test_256_bit_keys_give_the_same_sum():
    cohort = cohort_of(5)
    attempt = attempt_of(cohort, cipher="aes-256-ctr")
    decoded = attempt.session.encoding.decode(cohort.play(attempt).words, 5)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    np.testing.assert_allclose(decoded.arrays["delta"], exact, atol=1e-5)


@pytest.mark.parametrize("mode", ["hbc", "active"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_gives_the_sum_in_both_modes(mode, bits):
    cohort = cohort_of(5)
    attempt = attempt_of(cohort, mode=mode, bits=bits)
    decoded = attempt.session.encoding.decode(cohort.play(attempt).words, 5)
    exact = sum(one["delta"].astype(np.float64) for one in cohort.vectors.values())
    assert np.abs(decoded.arrays["delta"] - exact).max() <= 5 / attempt.session.encoding.scale + 1e-5


@pytest.mark.parametrize("max_weight", [19.0, 1.0])
def test_sums_of_weights_give_each_count_of_rows_unless_clients_count_alike(max_weight):
    """Nine sessions of five of nine clients, and least squares: a client has as many rows in each round."""
    rows = np.array([6, 8, 10, 11, 13, 14, 16, 18, 19])
    cohort = cohort_of(9)
    everybody, members, sums = cohort.names, np.zeros((9, 9)), np.zeros(9)
    for session in range(9):
        chosen = [place for place in range(9) if (place - session) % 9 in (0, 1, 2, 4, 7)]
        members[session, chosen] = 1
        cohort.names = tuple(everybody[place] for place in chosen)
        vector = np.linspace(-1, 1, 40, dtype=np.float32)
        cohort.vectors = {
            everybody[place]: {"delta": rows[place] * vector, "weight": np.array([float(rows[place])])}
            for place in chosen
        }
        attempt = attempt_of(
            cohort, round=session + 1, work=f"{session:064d}", layout=(("delta", 40),), max_weight=max_weight
        )
        cohort.policy = Policy(minimum=3, max_weight=19.0, corrupt=0.0, dropped=0.0)
        cohort.asked = lambda name, session=session: dataclasses.replace(ASKED, digest=f"{session:064d}")
        sums[session] = attempt.session.encoding.decode(cohort.play(attempt).words, 5).weight
    found = np.linalg.lstsq(members, sums, rcond=None)[0]
    np.testing.assert_allclose(found, rows if max_weight > 1 else np.ones(9), atol=1e-6)
