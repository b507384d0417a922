"""Quantity skew: rows at random, clients of unequal size (Li et al. 2022, NIID-Bench, "quantity skew")."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.errors import DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import client_count, cut, refuse_minimum, round_rows
from flctl.partition.schemes.dirichlet import client_sizes
from flctl.partition.schemes.options import SizeList
from flctl.types import FloatArray, IntArray

__all__ = ["ExponentialSizes", "LinearSizes", "LogNormalSizes", "PowerLawSizes", "Sizes", "SquareSizes"]

Minimum = Annotated[int, Field(ge=0, description="Minimum number of rows per client")]


class _Weighted(Partitioner):
    """Every client `min_size` rows, the rest in proportion to a weight."""

    class Config(Options):
        min_size: Minimum = 1

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        count = client_count(rows, clients, self.name)
        refuse_minimum(rows.count, count, self.config.min_size)
        sizes = _proportional(self.weights(count, rng), rows.count, self.config.min_size)
        return cut(rng.permutation(rows.count), sizes, rows.count)

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        """A weight above 0 for each client."""
        raise NotImplementedError


def _proportional(weights: FloatArray, rows: int, minimum: int) -> IntArray:
    rest = rows - minimum * len(weights)
    expected = weights / weights.sum() * rest
    return np.asarray(minimum + round_rows(expected[None, :], np.array([rest]))[0])


class LinearSizes(_Weighted):
    """Client k has rows in proportion to k + 1 (flwr-datasets, LinearPartitioner).

    Rows at random; each client has at least `min_size`.
    """

    name = "linear"

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        return np.arange(1, clients + 1, dtype=np.float64)


class SquareSizes(_Weighted):
    """Client k has rows in proportion to (k + 1)^2 (flwr-datasets, SquarePartitioner).

    Rows at random; each client has at least `min_size`.
    """

    name = "square"

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        return np.arange(1, clients + 1, dtype=np.float64) ** 2


class ExponentialSizes(_Weighted):
    """Client k has rows in proportion to growth^k (flwr-datasets, ExponentialPartitioner, where growth is e).

    Rows at random; each client has at least `min_size`: with many clients most have no more than that.
    """

    name = "exponential"

    class Config(Options):
        growth: Annotated[
            float, Field(gt=1, le=1e6, description="Ratio of a client's rows to those of the client before it")
        ] = math.e
        min_size: Minimum = 1

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        # Downwards from 1, so that thousands of clients underflow to 0 and never overflow.
        return np.exp(math.log(self.config.growth) * np.arange(1 - clients, 1, dtype=np.float64))


class PowerLawSizes(_Weighted):
    """Client k has rows in proportion to (k + 1)^-exponent (power-law sizes, Li et al. 2020, FedProx, section 5.1).

    The rank-size rule: client 0 is the largest. Rows at random; each client has at least `min_size`.
    """

    name = "power-law"

    class Config(Options):
        exponent: Annotated[float, Field(gt=0, le=10, description="Steepness; 1 is Zipf's law")] = 1.0
        min_size: Minimum = 1

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        return np.asarray(np.arange(1, clients + 1, dtype=np.float64) ** -self.config.exponent)


class LogNormalSizes(_Weighted):
    """Sizes drawn from a log-normal law (as FedProx's synthetic data, Li et al. 2020, code: mean 4, sigma 2).

    Without `mean` the draws are scaled to use every row, each client at least `min_size`. With `mean` a size is
    exp(N(mean, sigma^2)) rows, rounded, at least `min_size`; rows beyond their sum are left out.
    """

    name = "log-normal"

    class Config(Options):
        sigma: Annotated[float, Field(ge=0, le=10, description="Standard deviation of the log size")] = 1.0
        mean: Annotated[
            float | None, Field(ge=-20, le=40, description="Mean of the log size; null: sizes are scaled to all rows")
        ] = None
        min_size: Minimum = 1

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        if self.config.mean is None:
            return super().assign(rows, clients, rng)
        count = client_count(rows, clients, self.name)
        refuse_minimum(rows.count, count, self.config.min_size)
        drawn = np.exp(rng.normal(self.config.mean, self.config.sigma, count))
        if drawn.sum() + self.config.min_size * count > 2**62:
            raise _too_many(float(drawn.sum()), rows.count, count, self.config.sigma)
        sizes = np.maximum(np.rint(drawn).astype(np.int64), self.config.min_size)
        if sizes.sum() > rows.count:
            raise _too_many(float(sizes.sum()), rows.count, count, self.config.sigma)
        return cut(rng.permutation(rows.count), sizes, rows.count)

    def weights(self, clients: int, rng: np.random.Generator) -> FloatArray:
        return np.exp(rng.normal(0.0, self.config.sigma, clients))


def _too_many(drawn: float, rows: int, clients: int, sigma: float) -> DataError:
    fits = math.log(rows / clients) - sigma**2 / 2
    return DataError(
        f"the drawn sizes sum to {counted(drawn, 'row')}; there are {rows:,}",
        hint=f"A --mean of about {math.floor(fits * 10) / 10:g} fits on average; without it sizes are scaled to fit.",
    )


class Sizes(Partitioner):
    """Rows at random, clients of the sizes that are listed (flwr-datasets, SizePartitioner).

    `sizes` are row numbers, or shares of all rows that sum to at most 1; rows beyond them are left out.
    """

    name = "sizes"
    sets_clients: ClassVar[bool] = True

    class Config(Options):
        sizes: Annotated[SizeList, Field(description="Rows of each client, or fractions of all rows")]

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        sizes = client_sizes(rows, clients, self.config.sizes, self.name)
        return cut(rng.permutation(rows.count), sizes, rows.count)
