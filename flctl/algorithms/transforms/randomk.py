"""Random-k sparsification."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.algorithms.transform import ClientContext, SharedContext
from flctl.algorithms.transforms.compressor import ErrorFeedback, Parts, Values, in_range, share
from flctl.types import IntArray, Layout


class RandomK(ErrorFeedback):
    """k values of each vector at random positions, the same for all clients of a round (Stich et al. 2018, rand_k).

    k = `fraction` of the vector, rounded up. Both sides draw the positions from the run's seed by name, so positions
    are not sent and codes add up: it works under secure aggregation. Without error feedback values are multiplied by n
    / k, which makes the mean unbiased; with it they are sent unscaled.
    """

    name = "randomk"
    linear = True

    class Config(ErrorFeedback.Config):
        fraction: float = Field(0.01, gt=0, le=1, description="Fraction of each vector's values that is sent.")
        error_feedback: bool = Field(
            False, description="Clients keep the compression error and add it to their next update; off: unbiased."
        )

    def parts(self, length: int) -> Layout:
        return {"": share(self.config.fraction, length)}

    def positions(self, name: str, length: int, ctx: SharedContext) -> IntArray:
        """Returns the positions, ascending [k], of the values of the vector `name` in this round."""
        k = self.parts(length)[""]
        return np.sort(ctx.rng(name).choice(length, k, replace=False, shuffle=False))

    def code(self, name: str, values: Values, ctx: ClientContext) -> Parts:
        chosen = values[self.positions(name, values.size, ctx.shared)]
        return {"": chosen}

    def value(self, name: str, parts: Parts, length: int, ctx: SharedContext) -> npt.NDArray[np.float32]:
        # Each value is sent with probability k / n: times n / k the expectation is exact. Under error feedback that
        # factor would make the residuals grow.
        factor = 1.0 if self.config.error_feedback else length / parts[""].size
        whole = np.zeros(length, np.float32)
        whole[self.positions(name, length, ctx)] = in_range(parts[""].astype(np.float64) * factor)
        return whole
