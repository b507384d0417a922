"""Schemes that decide which rows each client owns; a scheme that alters rows builds on one of them."""

from __future__ import annotations

from flctl.partition.partitioner import Partitioner
from flctl.partition.schemes.continuous import Continuous
from flctl.partition.schemes.dirichlet import Dirichlet, InnerDirichlet
from flctl.partition.schemes.distribution import Distribution
from flctl.partition.schemes.natural import GroupedNatural, Natural
from flctl.partition.schemes.pathological import Pathological
from flctl.partition.schemes.quantity import (
    ExponentialSizes,
    LinearSizes,
    LogNormalSizes,
    PowerLawSizes,
    Sizes,
    SquareSizes,
)
from flctl.partition.schemes.shard import Shard
from flctl.partition.schemes.uniform import Iid, Temporal

__all__ = ["BASE_SCHEMES"]

BASE_SCHEMES: tuple[type[Partitioner], ...] = (
    Iid,
    Dirichlet,
    InnerDirichlet,
    Shard,
    Pathological,
    Distribution,
    LinearSizes,
    SquareSizes,
    ExponentialSizes,
    PowerLawSizes,
    LogNormalSizes,
    Sizes,
    Continuous,
    Natural,
    GroupedNatural,
    Temporal,
)
