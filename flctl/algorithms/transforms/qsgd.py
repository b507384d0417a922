"""QSGD: stochastic quantisation in buckets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, SharedContext
from flctl.algorithms.transforms.compressor import CODE, LARGEST, Compressor, Parts, Values, checked
from flctl.algorithms.transforms.packing import pack, packed_size, unpack
from flctl.types import Layout

_LEVELS, _NORMS = CODE + "levels", CODE + "norms"


class QSGD(Compressor):
    """Values rounded at random to a few levels of their bucket's norm, unbiased (Alistarh et al. 2017, section 3.1).

    A vector is cut into buckets of `bucket` values; v_i becomes ||v|| sign(v_i) l / s, where l is s |v_i| / ||v||
    rounded up or down at random so that its expectation is exact, and s = 2^(bits - 1) - 1. Levels take `bits` bits
    each (the paper's variable-length code is not used), and each bucket's L2 norm is sent as float32.
    """

    name = "qsgd"

    class Config(Compressor.Config):
        bits: int = Field(4, ge=2, le=8, description="Bits per value, including the sign.")
        bucket: int = Field(512, ge=1, description="Number of values that share one norm.")

    @property
    def levels(self) -> int:
        """s: the largest level."""
        return int(2 ** (self.config.bits - 1) - 1)

    def parts(self, length: int) -> Layout:
        return {_LEVELS: packed_size(length, self.config.bits), _NORMS: -(-length // self.config.bucket)}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        norms = self._norms(values)
        each = np.repeat(norms, self.config.bucket)[: values.size].astype(np.float64)
        share = np.divide(values, each, out=np.zeros(values.size), where=each > 0)
        # floor(x + U) with U uniform on [0, 1) has expectation x: the quantisation error averages out over clients.
        levels = np.floor(share * self.levels + ctx.rng.random(values.size)).astype(np.int64)
        words = (np.clip(levels, -self.levels, self.levels) + self.levels).astype(np.uint8)
        return {_LEVELS: pack(words, self.config.bits), _NORMS: norms}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        checked(parts[_LEVELS].dtype == np.uint8, f"the levels of '{name}' are {parts[_LEVELS].dtype}, expected uint8")
        words = unpack(parts[_LEVELS], self.config.bits, length)
        checked(int(words.max(initial=0)) <= 2 * self.levels, f"'{name}' has a level above {self.levels}")
        norms = np.repeat(parts[_NORMS], self.config.bucket)[:length]
        return np.asarray((words.astype(np.float64) - self.levels) * (norms / self.levels), np.float32)

    def _norms(self, values: Values) -> Values:
        """Returns each bucket's L2 norm, between its largest magnitude and float32's largest value, so that no level
        exceeds s."""
        padded = np.zeros(-(-values.size // self.config.bucket) * self.config.bucket)
        padded[: values.size] = values
        buckets = padded.reshape(-1, self.config.bucket)
        norms = np.sqrt(np.square(buckets).sum(axis=1))
        largest = np.abs(buckets).max(axis=1)
        # Rounding to float32 may put a norm below the bucket's largest value: then |v_i| / ||v|| would exceed 1.
        return np.asarray(np.maximum(np.minimum(norms, LARGEST), largest), np.float32)
