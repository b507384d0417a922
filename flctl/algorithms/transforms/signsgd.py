"""SignSGD: one bit per value."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, ServerContext, SharedContext
from flctl.algorithms.transforms.compressor import CODE, Compressor, ErrorFeedback, Parts, Values, checked, compressible
from flctl.types import Aggregate, Arrays, ClientUpdate, Layout

_SIGNS, _SCALE = CODE + "signs", CODE + "scale"


class SignSGD(Compressor):
    """The sign of each value, combined by majority vote (Bernstein et al. 2018, 2019, majority vote).

    Each value of the mean becomes `step` times the majority's sign, 0 in a tie. A value of 0 votes at random. As in the
    paper clients count equally, also in vectors that are not compressed; with `weighted`, by their examples.
    """

    name = "signsgd"

    class Config(Compressor.Config):
        step: float = Field(1e-3, gt=0, description="Step size: the change of each model parameter per round.")
        weighted: bool = Field(False, description="Weight votes by the number of examples that clients report.")

    def parts(self, length: int) -> Layout:
        return {_SIGNS: -(-length // 8)}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        return {_SIGNS: _signs(values, ctx.rng)}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        return _unpacked(name, parts[_SIGNS], length)

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        weight = update.weight if self.config.weighted else float(update.weight > 0)
        return dataclasses.replace(super().on_client(update, ctx), weight=weight)

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Applies the majority vote."""
        # `aggregate` holds a sum, which the strategy divides by its weight: multiplied here, each value moves by
        # `step`.
        step = self.config.step * aggregate.weight
        voted = {
            name: np.asarray(np.sign(vector) * step, np.float32) if compressible(name, vector.size) else vector
            for name, vector in aggregate.arrays.items()
        }
        return dataclasses.replace(aggregate, arrays=voted), state


class EFSignSGD(ErrorFeedback):
    """The sign of each value times their mean magnitude, with error feedback (Karimireddy et al. 2019, Algorithm 1).

    A vector v of d values is sent as sign(v) and ||v||_1 / d. A value of 0 has a random sign.
    """

    name = "ef-signsgd"

    def parts(self, length: int) -> Layout:
        return {_SIGNS: -(-length // 8), _SCALE: 1}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        scale = np.array([np.abs(values).mean(dtype=np.float64)], np.float32)
        return {_SIGNS: _signs(values, ctx.rng), _SCALE: scale}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        return np.asarray(_unpacked(name, parts[_SIGNS], length) * np.float32(parts[_SCALE][0]))


def _signs(values: Values, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Returns one bit per value: 1 if it is positive; a fair coin if it is 0, so that zeros do not vote for one
    side."""
    coins = rng.integers(0, 2, values.size, np.uint8)
    return np.packbits(np.where(values == 0, coins, values > 0).astype(np.uint8))


def _unpacked(name: str, packed: npt.NDArray[np.uint8], length: int) -> npt.NDArray[np.float32]:
    checked(packed.dtype == np.uint8, f"the signs of '{name}' are {packed.dtype}, expected uint8")
    return np.unpackbits(packed, count=length).astype(np.float32) * 2 - 1
