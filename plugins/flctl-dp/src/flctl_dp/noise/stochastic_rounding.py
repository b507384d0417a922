"""Conditional stochastic rounding: whole numbers whose mean stays, and whose length has a bound that always holds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flctl_dp.noise.entropy import Words

__all__ = ["ATTEMPTS", "BIAS", "reach_of", "rounded"]

BIAS = math.exp(-0.5)
"""beta: the chance, at most, with which one attempt at rounding comes out too long (Kairouz, Liu and Steinke 2021)."""
ATTEMPTS = 64
"""Attempts that are made; all of them fail with a chance below beta^64, which is 2^-46."""
_EXACT = 2.0**52


def reach_of(clip: float, dimension: int) -> int:
    """The squared L2 norm that a vector of norm `clip` (in cells of the lattice) has at most, once it is rounded.

    Kairouz, Liu and Steinke (2021), Algorithm 1: min{(c + sqrt(D))^2, c^2 + D/4 + sqrt(2 ln(1/beta)) (c + sqrt(D)/2)}
    with beta = e^(-1/2). Whole numbers have whole squares, so it is rounded down.
    """
    root = math.sqrt(dimension)
    likely = clip**2 + dimension / 4 + math.sqrt(2 * math.log(1 / BIAS)) * (clip + root / 2)
    return math.floor(min((clip + root) ** 2, likely))


def rounded(vector: npt.NDArray[np.float64], reach: int, words: Words) -> npt.NDArray[np.int64]:
    """The vector [D], each value rounded up or down at random with its own mean, under the condition that the squared
    norm is at most `reach` (below 2^52), whatever the vector is.

    Attempts that come out longer are thrown away, which biases the mean by no more than beta / (1 - beta) of what it
    is conditioned on (Proposition 24 there). Where all attempts fail, values are rounded towards zero; and a vector
    that is too long even so, or not finite, counts as zeros.
    """
    if not np.isfinite(vector).all():
        return np.zeros(vector.size, np.int64)
    low = np.floor(vector)
    chance = (vector - low) * 2.0**32
    for _ in range(ATTEMPTS):
        found = low + (words.draw(vector.size, np.uint32) < chance)
        if _fits(found, reach):
            return found.astype(np.int64)
    towards = np.trunc(vector)
    return towards.astype(np.int64) if _fits(towards, reach) else np.zeros(vector.size, np.int64)


def _fits(whole: npt.NDArray[np.float64], reach: int) -> bool:
    """Exact where it says yes: whole numbers with squares that add up to less than 2^52 are exact as float64."""
    with np.errstate(over="ignore"):
        return bool(np.einsum("i,i", whole, whole) <= min(float(reach), _EXACT))
