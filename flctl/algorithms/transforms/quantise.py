"""Stochastic quantisation with one scale for all clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, ServerContext, SharedContext
from flctl.algorithms.transforms.compressor import Compressor, Parts, Values, compressible
from flctl.errors import IncompatibleError
from flctl.types import Aggregate, Arrays, Layout

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo

_BOUND = "bound."


class Quantise(Compressor):
    """Integers on a lattice that all clients share, by unbiased stochastic rounding (Suresh et al. 2017, section 2).

    v becomes the integer q next to v L / B, up or down at random so that its expectation is exact, with L = 2^(bits -
    1) - 1; values beyond the bound B are clamped. Sums of q are sums of integers, so it works under secure aggregation.
    B is `bound` for all vectors. With `spread`, B is `bound` in the first round, and then `spread` times the largest
    value of the last round's mean, which the server broadcasts.
    """

    name = "quantise"
    linear = True
    whole = True

    class Config(Compressor.Config):
        bits: int = Field(8, ge=2, le=16, description="Bits per value, including the sign.")
        bound: float = Field(
            1.0,
            gt=0,
            description="Largest magnitude, beyond which values are clamped; with a spread, in the first round.",
        )
        spread: float | None = Field(
            None,
            gt=1,
            description="Bound relative to the largest value of the last round's mean; null: `bound` in every round.",
        )

    @property
    def largest(self) -> int:
        """L: the largest integer."""
        return int(2 ** (self.config.bits - 1) - 1)

    def check(self, run: RunInfo) -> None:
        names = list(run.transforms)
        own = next(name for name, transform in run.transforms.items() if transform is self)
        after = [name for name in names[names.index(own) + 1 :] if run.transforms[name].encodes]
        if after:
            raise IncompatibleError(
                f"transform '{own}' sends integers, which '{after[0]}' after it cannot encode",
                hint=f"Put '{after[0]}' before '{own}', or leave one of them out.",
            )

    def init(self, layout: Layout) -> Arrays:
        if self.config.spread is None:
            return {}
        names = [name for name, length in layout.items() if compressible(name, length)]
        return {_BOUND + name: np.array([self.config.bound], np.float32) for name in names}

    def broadcast(self, state: Arrays) -> Arrays:
        return state

    def parts(self, length: int) -> Layout:
        return {"": length}

    def step(self, name: str, ctx: SharedContext) -> float:
        """Returns B / L: the distance between two points of the lattice."""
        return float(ctx.broadcast.get(_BOUND + name, [self.config.bound])[0]) / self.largest

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        scaled = np.clip(values.astype(np.float64) / self.step(name, ctx.shared), -self.largest, self.largest)
        # floor(x + U) with U uniform on [0, 1) has expectation x: the mean over clients is unbiased.
        words = np.floor(scaled + ctx.rng.random(values.size))
        dtype = np.int8 if self.config.bits <= 8 else np.int16
        # L + U rounds up to L + 1 in floating point for U near 1, which would not fit `bits`.
        return {"": np.minimum(words, self.largest).astype(dtype)}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        return np.asarray(parts[""] * self.step(name, ctx), np.float32)

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Sets the next round's bound."""
        if self.config.spread is None or aggregate.weight <= 0:
            return aggregate, state
        kept = dict(state)
        for key in state:
            largest = float(np.abs(aggregate.mean(key.removeprefix(_BOUND))).max())
            if largest > 0:  # a bound of 0 would quantise every later update to 0
                kept[key] = np.array([self.config.spread * largest], np.float32)
        return aggregate, kept
