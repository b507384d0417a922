"""Spread of a metric over clients: quantiles, worst and best decile, Jain's index, and means by client size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flctl.types import FloatArray, IntArray

__all__ = ["PARTS", "QUANTILES", "SizeGroup", "Spread", "by_size", "is_over_clients", "jain_index", "spread"]

PARTS = ("mean", "worst_decile", "best_decile")
"""Parts of a spread that metrics.jsonl keeps, as `accuracy_worst_decile`."""
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
FEWEST = 4
"""Clients that make a group."""


def is_over_clients(metric: str) -> bool:
    """True for a metric of a run whose values are computed over single clients."""
    return metric.endswith(tuple(f"_{part}" for part in PARTS))


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric over the clients that have it.

    `weighted_mean` weighs by test rows (targets), as federated evaluation does; `mean` counts each client once.
    `worst_decile` and `best_decile` are means over the ceil(K / 10) worst and best clients (as reported by
    Li et al. 2020, "Fair resource allocation in federated learning", table 1). `jain` is Jain's index.
    """

    clients: int
    undefined: int
    weighted_mean: float
    mean: float
    std: float
    worst_decile: float
    best_decile: float
    jain: float
    quantiles: Mapping[float, float]


@dataclass(frozen=True, slots=True)
class SizeGroup:
    """Clients of similar size: `smallest` to `largest` rows each, and their unweighted mean of the metric."""

    smallest: int
    largest: int
    clients: int
    mean: float
    worst: float


def jain_index(values: FloatArray) -> float:
    """(sum x)^2 / (K sum x^2), from 1/K (one client has everything) to 1 (all equal) (Jain, Chiu and Hawe 1984).

    NaN for no values, for negative ones, and when all are zero.
    """
    squares = float((values**2).sum())
    if not len(values) or (values < 0).any() or squares == 0:
        return math.nan
    return float(values.sum()) ** 2 / (len(values) * squares)


def spread(values: FloatArray, weights: FloatArray, *, higher_is_better: bool) -> Spread:
    """The spread of a metric [K]; NaN values (undefined, or no test rows) are left out and counted among those
    that have weight."""
    defined = np.isfinite(values)
    undefined = int((~defined & (weights > 0)).sum())
    kept, weight = values[defined], weights[defined]
    if not len(kept):
        return _nothing(undefined)
    worst_first = np.sort(kept) if higher_is_better else np.sort(kept)[::-1]
    decile = math.ceil(len(kept) / 10)
    return Spread(
        clients=len(kept),
        undefined=undefined,
        weighted_mean=float(np.average(kept, weights=weight)) if weight.sum() > 0 else math.nan,
        mean=float(kept.mean()),
        std=float(kept.std()),
        worst_decile=float(worst_first[:decile].mean()),
        best_decile=float(worst_first[-decile:].mean()),
        jain=jain_index(kept),
        quantiles={q: float(v) for q, v in zip(QUANTILES, np.quantile(kept, QUANTILES), strict=True)},
    )


def _nothing(undefined: int) -> Spread:
    nan = math.nan
    return Spread(0, undefined, nan, nan, nan, nan, nan, nan, dict.fromkeys(QUANTILES, nan))


def by_size(values: FloatArray, sizes: IntArray, groups: int = 5, *, higher_is_better: bool) -> tuple[SizeGroup, ...]:
    """At most `groups` groups of about equally many clients and at least four, from small to large; clients of one
    size stay together."""
    defined = np.isfinite(values)
    kept, size = values[defined], sizes[defined]
    if not len(kept):
        return ()
    count = min(groups, max(1, len(kept) // FEWEST))
    edges = np.unique(np.quantile(size, np.linspace(0, 1, count + 1)[1:-1], method="higher"))
    group = np.searchsorted(edges, size, side="left")
    return tuple(
        _group(kept[group == g], size[group == g], higher_is_better=higher_is_better) for g in np.unique(group)
    )


def _group(values: FloatArray, sizes: IntArray, *, higher_is_better: bool) -> SizeGroup:
    worst = values.min() if higher_is_better else values.max()
    return SizeGroup(int(sizes.min()), int(sizes.max()), len(values), float(values.mean()), float(worst))
