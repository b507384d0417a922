"""A member of the cohort that signs words of its own making: sums that decoding refuses, and the bound of the rest."""

import numpy as np
import pytest
from flctl_secagg.client import client as client_module
from flctl_secagg.crypto.masks import add_masks
from flctl_secagg.encoding.packing import WIDTHS
from flctl_secagg.encoding.vectors import FRACTION
from secagg_support import attempt_of, cohort_of

from flctl import RING, ProtocolError

LAYOUT = (("delta", 40), ("tau", 1))
FORGER = "c03"


def sum_with(change, count=9, layout=LAYOUT, bits=32, **vector):
    """The decoded sum of a session through bytes in which one client changes its words before it masks them."""
    cohort = cohort_of(count)
    attempt = attempt_of(cohort, layout=layout, bits=bits)
    encoding = attempt.session.encoding
    mine = {name: np.full(size, 0.5, np.float32) for name, size in layout} | {"weight": np.ones(1)} | vector
    cohort.vectors = dict.fromkeys(cohort.names, mine)
    answer = cohort.answer

    def answered(name, message, trains):
        with pytest.MonkeyPatch.context() as patch:
            if name == FORGER:
                patch.setattr(
                    client_module, "add_masks", lambda words, streams: add_masks(change(encoding, words), streams)
                )
            return answer(name, message, trains)

    cohort.answer = answered
    return encoding.decode(cohort.play(attempt).words, count)


def weighing(units):
    """Words whose weight is `units` of 2^-24."""

    def change(encoding, words):
        words[-2 - encoding.limbs : -2] = encoding._spread(np.array([units], np.int64))
        return words

    return change


def test_a_vector_that_no_client_of_its_weight_has_is_refused():
    """Seven times the largest level, at a weight of 1 of at most 8: the sum of nine would be 28 times clip x weight."""

    def change(encoding, words):
        words[0] = 7 * encoding.levels
        return words

    with pytest.raises(ProtocolError, match="not that of 9 clients: a value of 'delta' is"):
        sum_with(change)


@pytest.mark.parametrize("total", [0.0, -5.0, 9 * 8 + 0.001])
def test_a_total_weight_out_of_bounds_is_refused(total):
    with pytest.raises(ProtocolError, match=r"the weights sum to .*, outside of \(0, 72\]"):
        sum_with(weighing(round((total - 8) * (1 << FRACTION))))


def test_a_total_weight_that_is_too_small_for_the_vector_is_refused():
    """Nine values of 0.5 and a weight of 0.001 in all would make a mean of 4,500, and clip is 4."""
    with pytest.raises(ProtocolError, match=r"a value of 'delta' is .* times the largest possible"):
        sum_with(weighing(round((0.001 - 8) * (1 << FRACTION))))


def test_counts_that_do_not_fit_are_refused():
    def sends(place, value):
        def change(encoding, words):
            words[place] = value
            return words

        return change

    with pytest.raises(ProtocolError, match="the sum counts 10 clients"):
        sum_with(sends(-1, 2))
    with pytest.raises(ProtocolError, match="17 with clipped values"):
        sum_with(sends(-2, 17))
    with pytest.raises(ProtocolError, match=r"1 sent '(delta|tau)' as whole numbers"):
        sum_with(lambda encoding, words: sends(-2 - encoding.limbs - len(LAYOUT), 1)(encoding, words))
    with pytest.raises(ProtocolError, match="a limb of 'tau' sums to"):
        sum_with(lambda encoding, words: sends(40, 9 << encoding.limb)(encoding, words))


def test_few_values_beyond_what_fixed_point_holds_are_refused():
    def change(encoding, words):
        words[40 : 40 + encoding.limbs] = encoding._spread(np.array([1 << 62], np.int64))
        return words

    with pytest.raises(ProtocolError, match="a value of 'tau' is"):
        sum_with(change)


def test_a_vector_of_the_ring_is_flagged_as_whole_numbers_by_all():
    name = "noise" + RING
    layout = ((name, 40), ("tau", 1))

    def change(encoding, words):
        words[-2 - encoding.limbs - 2] = 0
        return words

    with pytest.raises(ProtocolError, match="8 sent 'noise"):
        sum_with(change, layout=layout, **{name: np.ones(40, np.int64)})


@pytest.mark.parametrize("bits", WIDTHS)
def test_within_the_bounds_one_client_moves_the_mean_by_no_more_than_the_clip(bits):
    """It forges as much as passes, and the mean of each coordinate stays within the clip."""

    def change(encoding, words):
        most = encoding._most(9, 9.0)
        honest = round(0.5 * 8 * encoding.scale)
        words[0] = most - honest - 8
        return words

    decoded = sum_with(change, bits=bits)
    assert 0.9 * 4 < decoded.arrays["delta"][0] / decoded.weight <= 4 * (1 + 9 / 8)
    assert decoded.weight == 9
