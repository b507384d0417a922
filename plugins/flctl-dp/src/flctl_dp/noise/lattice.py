"""Gaussian noise on a lattice: sums are rounded to it, and what is added are whole numbers of its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl_dp.noise.alias_table import discrete_gaussian_table
from flctl_dp.noise.entropy import Words

__all__ = ["CELLS", "FINE_CELLS", "Lattice", "fine_discrete_gaussian", "wide_discrete_gaussian"]

_S, _K, _L = 1024, 400, 12800
"""The table's standard deviation, and the steps of the coarser draws."""
CELLS = _S * math.sqrt(1 + _K * _K)
"""The noise's standard deviation, in cells of the lattice: about 2^18.6."""
FINE_CELLS = _S * math.sqrt(1 + _K * _K + _L * _L)
"""The same on a finer lattice, for noise that is rounded again and again: about 2^23.6."""
_LIMIT = 2.0**52
"""Whole numbers up to here are exact as float64."""
_PART = 1 << 20
"""Values that get their noise at once: large models need no more memory than their own for it."""


def wide_discrete_gaussian(words: Words, count: int) -> npt.NDArray[np.int64]:
    """`count` draws [count] of the discrete Gaussian with standard deviation `CELLS` on the whole numbers.

    X + K Y of two draws of the table. The sum's probabilities are those of the discrete Gaussian of variance
    S^2 (1 + K^2) times a theta series that varies by 2 exp(-2 pi^2 tau^2) with tau = S / sqrt(1 + K^2) = 2.56, which is
    below 2^-185 of itself (Micciancio and Walter 2017, section 3; Canonne, Kamath and Steinke 2020, definition 1).
    """
    table = discrete_gaussian_table(_S)
    fine, coarse = table.draw(words, count), table.draw(words, count)
    coarse *= _K
    coarse += fine
    return coarse


def fine_discrete_gaussian(words: Words, count: int) -> npt.NDArray[np.int64]:
    """`count` draws [count] of the discrete Gaussian with standard deviation `FINE_CELLS`, each below 2^28.

    X + K Y + L Z of three draws of the table. X + K Y is as above; for L Z, which is added to it, tau is
    S CELLS / sqrt(CELLS^2 + L^2 S^2) = 32, and the theta series varies by less than 2^-29000.
    """
    finest = wide_discrete_gaussian(words, count)
    finest += _L * discrete_gaussian_table(_S).draw(words, count)
    return finest


@dataclass(frozen=True, slots=True)
class Lattice:
    """The lattice on which noise of standard deviation `sigma` (in the units of what it is added to) is drawn."""

    sigma: float

    @property
    def cell(self) -> float:
        """The distance of neighbouring points in each coordinate."""
        return self.sigma / CELLS

    def stretch(self, coordinates: int) -> float:
        """Upper bound, in L2, on what rounding adds to the distance of two vectors: half a cell for each vector and
        coordinate."""
        return self.cell * math.sqrt(coordinates)

    def noised(self, vector: npt.NDArray[Any], words: Words) -> npt.NDArray[np.float64]:
        """The vector [L], rounded to the lattice and with noise, float64. Values beyond 2^52 cells are cut there,
        which moves no two vectors apart."""
        noised = np.empty(vector.size, np.float64)
        for start in range(0, vector.size, _PART):
            part = noised[start : start + _PART]
            np.divide(vector[start : start + _PART], self.cell, out=part, dtype=np.float64)
            np.clip(np.rint(part, out=part), -_LIMIT, _LIMIT, out=part)
            part[:] = part.astype(np.int64) + wide_discrete_gaussian(words, part.size)
            part *= self.cell
        return noised
