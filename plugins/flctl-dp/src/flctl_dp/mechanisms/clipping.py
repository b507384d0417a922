"""Clipping to an L2 norm: factors that are safe for any update, and the margin for rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from flctl import Arrays, ConfigError

from flctl_dp.noise.lattice import Lattice

__all__ = ["ROUNDING", "scaled", "shortened", "shrinking"]

ROUNDING = 2.0**-10
"""The share of the clipping norm that is kept free for what float32 makes of norms, products and sums."""


def shrinking(norms: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.float64]:
    """What brings updates of these norms [K] to the bound, [K]; 0 for a norm that is no number or infinite, and where
    float32, which updates are, could not tell the factor from a larger one."""
    usable = np.isfinite(norms)
    scaled = bound / np.maximum(np.where(usable, norms, bound), bound)
    return np.where(usable & (scaled >= np.finfo(np.float32).tiny), scaled, 0.0)


def shortened(clip: float, noise: float, coordinates: int, rounded: float = 0.0, of: str = "an update") -> float:
    """What norms come to at most, so that rounding on the way keeps sums of neighbours within `clip`; `rounded` is what
    else is rounded. Raises ConfigError where the noise's lattice is so coarse that nothing is left."""
    bound = clip * (1 - ROUNDING) - Lattice(noise * clip).stretch(coordinates) - rounded
    if bound <= 0:
        raise ConfigError(
            f"noise of {noise:g} clipping norms on {coordinates} values leaves nothing of {of}",
            hint="Take a smaller noise multiplier, or a smaller model.",
        )
    return bound


def scaled(vectors: Arrays, factor: float) -> dict[str, npt.NDArray[Any]]:
    """The vectors times the factor; zeros for a factor of 0, whatever they hold: NaN times 0 would be NaN."""
    if not factor:
        return {name: np.zeros_like(vector) for name, vector in vectors.items()}
    return {name: vector * vector.dtype.type(factor) for name, vector in vectors.items()}
