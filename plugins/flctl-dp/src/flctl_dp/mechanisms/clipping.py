"""Clipping to an L2 norm: factors that are safe for any update, and the margin for rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from flctl import Arrays, ConfigError
from flctl.errors import counted

from flctl_dp.noise.lattice import Lattice

__all__ = ["ROUNDING", "margin", "scaled", "shortened", "shrinking"]

ROUNDING = 2.0**-10
"""Fraction of the clipping norm that is reserved for float32 rounding of norms and products."""
_OF_SUMS = 2.0**-22
"""The same per client of a cohort, for float32 sums: a sum of K equal updates is rounded to 2^-24 K clipping norms."""


def margin(cohort: float) -> float:
    """Fraction of the clipping norm that is reserved for rounding if `cohort` clients are expected: four times what
    updates in one direction were measured to need, and never less than `ROUNDING`. Cohorts larger than expected are
    covered to six standard deviations."""
    return max(ROUNDING, _OF_SUMS * (cohort + 6 * math.sqrt(cohort)))


def shrinking(norms: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.float64]:
    """Factors [K] that bring updates of these norms [K] within the bound. 0 for a norm that is NaN or infinite, and for
    a factor below the normal range of float32, which would be rounded up by too much."""
    usable = np.isfinite(norms)
    scaled = bound / np.maximum(np.where(usable, norms, bound), bound)
    return np.where(usable & (scaled >= np.finfo(np.float32).tiny), scaled, 0.0)


def shortened(
    clip: float, noise: float, coordinates: int, rounded: float = 0.0, *, cohort: float = 0.0, of: str = "an update"
) -> float:
    """The norm to clip to, so that sums of neighbours stay within `clip` after rounding; `rounded` is reserved for
    further rounding. Raises ConfigError if the noise's lattice is so coarse that nothing is left."""
    bound = clip * (1 - margin(cohort)) - Lattice(noise * clip).stretch(coordinates) - rounded
    if bound <= 0:
        raise ConfigError(
            f"noise of {noise:g} clipping norms on {counted(coordinates, 'value')} hides {of} completely",
            hint="Use a smaller noise multiplier, a smaller model, or smaller cohorts.",
        )
    return bound


def scaled(vectors: Arrays, factor: float) -> dict[str, npt.NDArray[Any]]:
    """The vectors times the factor; zeros for a factor of 0, since NaN times 0 would be NaN."""
    if not factor:
        return {name: np.zeros_like(vector) for name, vector in vectors.items()}
    return {name: vector * vector.dtype.type(factor) for name, vector in vectors.items()}
