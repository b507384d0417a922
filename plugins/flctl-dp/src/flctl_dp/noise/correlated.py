"""Noise that is correlated over rounds, so that what is added in one round is partly taken back in later ones.

The noise of round t is d_t = g_t - round(sum_{j=1}^{b-1} c_j d_{t-j}), with fresh discrete Gaussian noise g_t, and what
is released of the sum x_t is y_t = x_t + d_t, all of it in whole cells of a lattice. Who knows the releases before y_t
knows sum_j c_j y_{t-j}, and d = y - x: so y_t is a discrete Gaussian mechanism on row t of C x, sum_j c_j x_{t-j},
rounded to whole cells. A neighbour moves that row by whole cells, and by at most one and a half cells a value more than
it moves the row of C x: two roundings differ by one, and float64 adds up the row to within a quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from flctl import Arrays

from flctl_dp.noise.banded_factor import coefficients, column_norm
from flctl_dp.noise.entropy import Words
from flctl_dp.noise.lattice import FINE_CELLS, fine_discrete_gaussian

__all__ = ["Past", "noised", "stretch"]

_LIMIT = 2.0**52
_PART = 1 << 18
"""Values that get their noise at once."""
_ROUNDING = 1.5
"""Upper bound, in cells per value, on what the rounding of a row adds to the distance of neighbours."""
_KEY = "past.{}.{}"


@dataclass(frozen=True, slots=True)
class Past:
    """The noise of the last rounds, in a transform's state: a ring of at most bands - 1 vectors of each name.

    `steps` is how many rounds there were; the one before lies in the slot (steps - 1) mod (bands - 1).
    """

    bands: int
    steps: int
    state: Arrays

    @classmethod
    def of(cls, state: Arrays) -> Past:
        """Reads the noise in a state."""
        return cls(int(state["bands"][0]), int(state["steps"][0]), state)

    def back(self, name: str) -> list[npt.NDArray[np.int32]]:
        """The noise of the vector `name`, of the last round first: min(steps, bands - 1) vectors [L]."""
        slots = self.bands - 1
        return [self.state[_KEY.format((self.steps - j) % slots, name)] for j in range(1, min(self.steps, slots) + 1)]

    def followed(self, noise: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The state after a round with this noise."""
        slots = self.bands - 1
        kept = {_KEY.format(self.steps % slots, name): vector for name, vector in noise.items()} if slots else {}
        return {**self.state, **kept, "steps": np.array([self.steps + 1], np.int64)}


def noised(
    vector: npt.NDArray[Any], sigma: float, back: list[npt.NDArray[np.int32]], bands: int, words: Words
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The vector [L] with correlated noise, and that noise [L] in cells, after the noise `back` of the rounds before.

    `sigma` is the standard deviation of the fresh noise. Values beyond 2^52 cells are cut there.
    """
    cell = sigma / FINE_CELLS
    released, noise = np.empty(vector.size, np.float32), np.empty(vector.size, np.int32)
    for start in range(0, vector.size, _PART):
        part = slice(start, min(start + _PART, vector.size))
        drawn = fine_discrete_gaussian(words, part.stop - part.start)
        drawn -= np.rint(_row([one[part] for one in back], bands, drawn.size)).astype(np.int64)
        noise[part] = drawn  # below 2^30: C has an inverse whose rows sum to less than 2.2 without their signs
        whole = np.clip(np.rint(np.divide(vector[part], cell, dtype=np.float64)), -_LIMIT, _LIMIT)
        released[part] = (whole.astype(np.int64) + drawn) * cell
    return released, noise


def _row(back: list[npt.NDArray[np.int32]], bands: int, size: int) -> npt.NDArray[np.float64]:
    """sum_j c_j d_{t - j}."""
    total, weights = np.zeros(size), coefficients(bands)
    for weight, one in zip(weights[1:], back, strict=False):
        total += weight * one
    return total


def stretch(sigma: float, coordinates: int, bands: int) -> float:
    """Upper bound, over the norm of a column, on what rounding adds to the distance of two sequences of sums that
    differ by one client's update: a cell a value for the sum, and `_ROUNDING` in each of the bands - 1 rows below."""
    rows = _ROUNDING * math.sqrt(bands - 1) / column_norm(bands)
    return sigma / FINE_CELLS * math.sqrt(coordinates) * (1 + rows)
