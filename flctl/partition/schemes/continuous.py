"""Skew on a real-valued property."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.errors import DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import client_count, cut, even_sizes
from flctl.types import FloatArray

__all__ = ["Continuous"]


class Continuous(Partitioner):
    """Rows sorted by a real-valued property blurred with noise, then cut (flwr-datasets, ContinuousPartitioner).

    The key is strictness * z + (1 - strictness) * N(0, 1), z the standardised property: 0 is iid, 1 a strict
    order, clients of equal size. The property is the target, or the feature with index `feature`, counted over an
    image's values in channel, row, column order.
    """

    name = "continuous"

    class Config(Options):
        strictness: Annotated[float, Field(ge=0, le=1, description="0: iid, 1: strict order")] = 0.5
        feature: Annotated[int | None, Field(ge=0, description="Feature index; null: the target")] = None

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        sizes = even_sizes(rows.count, client_count(rows, clients, self.name))
        values = self._property(rows)
        spread = float(values.std())
        if spread == 0 and self.config.strictness > 0:
            raise DataError(
                f"the property has the same value in every row ({values[0]:g}), so it cannot order them",
                hint="Choose another --feature, or --scheme iid.",
            )
        strictness = self.config.strictness
        standardised = (values - values.mean()) / (spread or 1.0)
        key = strictness * standardised + (1 - strictness) * rng.standard_normal(rows.count)
        shuffled = rng.permutation(rows.count)
        return cut(shuffled[np.argsort(key[shuffled], kind="stable")], sizes, rows.count)

    def _property(self, rows: Rows) -> FloatArray:
        if self.config.feature is None:
            values = _real_target(rows)
        else:
            values = _feature(rows, self.config.feature)
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise DataError(
                f"the property is missing or infinite in {bad} of {counted(rows.count, 'row')}",
                hint="Choose another --feature, or drop these rows.",
            )
        return values


def _real_target(rows: Rows) -> FloatArray:
    if rows.labels is not None or rows.target.ndim != 1 or not np.issubdtype(rows.target.dtype, np.floating):
        raise DataError(
            "the target is not real-valued, so it cannot order the rows",
            hint="Name a feature by its index, for example --feature 0.",
        )
    return rows.target.astype(np.float64)


def _feature(rows: Rows, index: int) -> FloatArray:
    if rows.x is None or rows.target.ndim != 1:
        raise DataError("these rows have no features to order by", hint="Use iid, temporal or natural.")
    features = int(np.prod(rows.x.shape[1:]))
    if index >= features:
        raise DataError(
            f"there is no feature {index}; found {counted(features, 'feature')}", hint="Indices start at 0."
        )
    return np.asarray(rows.x.reshape(rows.count, -1)[:, index], np.float64)
