"""Clipping an update's norm."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flctl.algorithms.transform import Transform
from flctl.types import Arrays, FloatArray


class Clip(Transform):
    """Scales an update down to an L2 norm of at most `norm`, over all its vectors together (Sun et al. 2019)."""

    name = "clip"

    class Config(Transform.Config):
        norm: float = Field(gt=0, description="Largest L2 norm of an update.")

    def factors(self, norms: FloatArray, broadcast: Arrays) -> FloatArray:
        # The inner maximum avoids 0 / 0 for a zero update; its quotient is discarded by `where`.
        return np.where(norms > self.config.norm, self.config.norm / np.maximum(norms, self.config.norm), 1.0)
