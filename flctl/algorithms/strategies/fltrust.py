"""FLTrust."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from flctl.algorithms.strategies.update_matrix import Least, Weighing, products
from flctl.errors import IncompatibleError
from flctl.types import ClientUpdate, FloatArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo


class FLTrust(Weighing):
    """Mean of updates weighted by their cosine to a trusted one, scaled to its norm (Cao et al. 2021, Algorithm 2).

    g = sum_k TS_k (||g_0|| / ||g_k||) g_k / sum_k TS_k with TS_k = max(0, cos(g_k, g_0)); if all TS_k are zero the
    model does not change. g_0 is the update of the client `root`, whose rows are the server's own clean data; it is not
    part of the sum. However many of the other clients are malicious, the model moves no further than g_0 would move it.
    """

    name = "fltrust"

    class Config(Weighing.Config):
        root: str = Field(
            min_length=1,
            coerce_numbers_to_str=True,
            description="Client with rows that the server trusts; it trains in each round, in addition to the cohort.",
        )

    def least(self) -> Least:
        return Least(2, "root and one more")

    @property
    def trusted(self) -> tuple[str]:
        return (self.config.root,)

    def check(self, run: RunInfo) -> None:
        super().check(run)
        root = run.partition.index(self.config.root)
        if not run.partition.counts[root, 0]:
            raise IncompatibleError(
                f"fltrust trusts the rows of client '{self.config.root}', and that client has no training rows",
                hint="Name a client with training rows as strategy.root.",
            )
        if run.config.devices.simulated:
            raise IncompatibleError(
                f"fltrust needs client '{self.config.root}' in each round: under `devices:` it may be late or absent",
                hint="Leave the section `devices:` out.",
            )

    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        ids = [row.client_id for row in rows]
        if self.config.root not in ids:
            raise IncompatibleError(
                f"fltrust compares updates with that of client '{self.config.root}', which did not arrive",
                hint="The round's report gives the reason of that client's failure.",
            )
        return trust(products(rows), ids.index(self.config.root))


def trust(gram: FloatArray, root: int) -> FloatArray:
    """Returns the coefficients [n] of the updates, from their inner products [n, n]: TS_k ||g_0|| / (||g_k|| sum TS).

    They are 0 for the root and for updates that are zero, and 0 for all if no update has a positive cosine.
    """
    norms = np.sqrt(np.diagonal(gram))
    # cos = <g_k, g_0> / (||g_k|| ||g_0||); a zero update has no direction and gets no trust, rather than NaN.
    both = norms * norms[root]
    scores: FloatArray = np.divide(np.maximum(gram[root], 0), both, out=np.zeros(len(gram)), where=both > 0)
    scores[root] = 0
    total = float(scores.sum())
    if total == 0:
        return np.zeros(len(gram))
    return np.asarray(np.divide(scores * norms[root], norms * total, out=np.zeros(len(gram)), where=scores > 0))
