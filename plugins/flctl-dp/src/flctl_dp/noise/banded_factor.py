"""The factor by which DP-FTRL correlates noise over rounds: the banded square root of prefix sums."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from flctl import IncompatibleError
from flctl.errors import counted

__all__ = ["MOST_BANDS", "USUAL_BANDS", "bands_of", "coefficients", "column_norm"]

MOST_BANDS = 4096
"""Up to here, sums over bands in float64 are right to a quarter of a cell of the lattice."""

USUAL_BANDS = 32
"""As many bands, at most, where nothing is said: each more keeps another noise vector."""


@lru_cache(maxsize=64)
def coefficients(bands: int) -> npt.NDArray[np.float64]:
    """The first column of C [bands]: c_0 = 1, c_j = c_{j-1} (2j - 1) / 2j.

    Without a limit on bands, C C is the matrix of prefix sums, lower-triangular ones (Fichtenberger, Henzinger and
    Upadhyay 2023, section 3); with one, columns of rounds that lie `bands` apart have nothing in common
    (Choquette-Choo et al. 2023, section 4).
    """
    j = np.arange(1, bands)
    found = np.concatenate([[1.0], np.cumprod((2 * j - 1) / (2 * j))])
    found.setflags(write=False)
    return found


@lru_cache(maxsize=64)
def column_norm(bands: int) -> float:
    """The L2 norm of a column of C: how far a client of clipping norm 1 moves all sums together in one round."""
    return float(np.linalg.norm(coefficients(bands)))


def bands_of(wanted: int | None, separation: int) -> int:
    """The number of bands to use. Raises IncompatibleError if a client may return within them."""
    if wanted is None:
        return min(separation, USUAL_BANDS)
    if wanted > separation:
        raise IncompatibleError(
            f"bands is {wanted}, and a client may take part again after {counted(separation, 'round')}: its rounds "
            "would overlap",
            hint=f"Use at most {counted(separation, 'band')}, or fewer clients per round.",
        )
    return wanted
