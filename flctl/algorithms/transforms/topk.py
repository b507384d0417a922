"""Top-k sparsification."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, SharedContext
from flctl.algorithms.transforms.compressor import CODE, ErrorFeedback, Parts, Values, checked, share
from flctl.errors import counted
from flctl.types import Layout

_INDICES, _MASK, _VALUES = CODE + "indices", CODE + "mask", ".values"


class TopK(ErrorFeedback):
    """The k values of largest magnitude of each vector, and their positions (Stich et al. 2018, top_k with memory).

    k = `fraction` of the vector, rounded up. Positions are sent as int32, or as a bit mask if that is shorter. The
    choice among equal magnitudes is unspecified.
    """

    name = "topk"

    class Config(ErrorFeedback.Config):
        fraction: float = Field(0.01, gt=0, le=1, description="Fraction of each vector's values that is sent.")

    def count(self, length: int) -> int:
        """Returns k."""
        return share(self.config.fraction, length)

    def parts(self, length: int) -> Layout:
        k = self.count(length)
        mask = -(-length // 8)
        return {_MASK: mask, _VALUES: k} if mask < 4 * k else {_INDICES: k, _VALUES: k}

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        k = self.count(values.size)
        # O(n), where a full sort would be O(n log n); sorting the k positions makes the code canonical.
        chosen = np.sort(np.argpartition(np.abs(values), values.size - k)[values.size - k :])
        if _INDICES in self.parts(values.size):
            return {_INDICES: chosen.astype(np.int32), _VALUES: values[chosen]}
        mask = np.zeros(values.size, np.uint8)
        mask[chosen] = 1
        return {_MASK: np.packbits(mask), _VALUES: values[chosen]}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        positions = _positions(name, parts, length)
        whole = np.zeros(length, np.float32)
        whole[positions] = parts[_VALUES]
        return whole


def _positions(name: str, parts: Parts, length: int) -> npt.NDArray[np.integer]:
    """Returns the positions of the values. Raises ProtocolError for positions outside the vector."""
    if _INDICES in parts:
        indices = parts[_INDICES]
        sound = indices.dtype.kind in "iu" and bool(((indices >= 0) & (indices < length)).all())
        checked(sound, f"'{name}' has values at positions outside 0 to {length - 1}")
        return indices
    checked(parts[_MASK].dtype == np.uint8, f"the position mask of '{name}' is {parts[_MASK].dtype}, expected uint8")
    positions = np.flatnonzero(np.unpackbits(parts[_MASK], count=length))
    checked(
        positions.size == parts[_VALUES].size,
        f"'{name}' has {counted(parts[_VALUES].size, 'value')} for {counted(positions.size, 'position')}",
    )
    return positions
