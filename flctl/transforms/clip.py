"""Clipping an update's norm."""

from __future__ import annotations

import dataclasses

from pydantic import Field

from flctl import arrays
from flctl.transform import ClientContext, Transform
from flctl.types import ClientUpdate


class Clip(Transform):
    """Scales an update down to an L2 norm of at most `norm`, over all its vectors together (Sun et al. 2019)."""

    name = "clip"

    class Config(Transform.Config):
        norm: float = Field(gt=0, description="The largest L2 norm that an update may have.")

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        clipped, _ = arrays.clip(update.arrays, self.config.norm)
        return dataclasses.replace(update, arrays=clipped)
