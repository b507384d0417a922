"""Skew between clients: in size, in labels or target, and in rows that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.partition.duplicates import Duplicates, ValidationRows, count_duplicates
from flctl.partition.schemes.deal import quantile_codes
from flctl.types import FloatArray, IntArray

if TYPE_CHECKING:
    from flctl.partition.store import Partition

__all__ = [
    "Divergence",
    "SkewReport",
    "Targets",
    "effective_classes",
    "gini",
    "hellinger",
    "jensen_shannon",
    "label_counts",
    "label_distance",
    "report_skew",
    "row_clients",
    "skew_of",
    "wasserstein",
]

Kind = Literal["classes", "bins", "none"]

BLOCK_CELLS = 1 << 22


@dataclass(frozen=True, slots=True)
class Divergence:
    """One measure over the clients that have rows: the mean weighted by rows, and the largest."""

    mean: float
    max: float
    worst: str
    """The client that has the largest value."""


@dataclass(frozen=True, slots=True)
class SkewReport:
    """The skew of a partition, over training rows.

    Sizes are rows. `kind` says what the label measures are over: `classes`, quantile `bins` of a real-valued target,
    or `none` (text), where they are None. Measures compare each client with the distribution of all rows:
    `jensen_shannon` is the divergence in bits (Lin 1991; 0..1), `hellinger` the distance (0..1),
    `earth_mover` for classes the sum of |p_k(c) - p(c)| that Zhao et al. 2018, section 3, call by this name (0..2,
    twice the total variation) and for a real-valued target the 1-Wasserstein distance in its own units;
    `effective_classes` is exp(entropy) of a client's labels (Hill 1973, order 1), the mean weighted by rows.
    `per_client` holds each measure for each client (NaN where it has no rows), and is left out of `to_json`.
    """

    clients: int
    rows: int
    empty_clients: int
    size_min: int
    size_median: float
    size_mean: float
    size_max: int
    size_gini: float
    kind: Kind
    labels: int
    jensen_shannon: Divergence | None
    hellinger: Divergence | None
    earth_mover: Divergence | None
    effective_classes: float | None
    effective_classes_min: float | None
    effective_classes_all: float | None
    duplicates: Duplicates | None
    per_client: Mapping[str, npt.NDArray[Any]]

    def to_json(self) -> dict[str, Any]:
        """The report without the per-client numbers, as plain values."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "per_client"}
        nested = ("jensen_shannon", "hellinger", "earth_mover", "duplicates")
        return {name: asdict(value) if name in nested and value else value for name, value in plain.items()}


def label_counts(client: IntArray, label: IntArray, clients: int, labels: int) -> IntArray:
    """Rows of each label for each client, [K, C]; rows with a negative client or label do not count."""
    counted = (client >= 0) & (label >= 0)
    if not counted.all():
        client, label = client[counted], label[counted]
    return np.bincount(client * labels + label, minlength=clients * labels).reshape(clients, labels)


def gini(sizes: npt.NDArray[np.integer]) -> float:
    """The Gini coefficient of sizes [K]: 0 where all are equal, (K - 1) / K where one has everything.

    G = sum_i (2 i - K - 1) s_i / (K sum s), s ascending, i from 1 (Sen 1973). 0 where there are no rows.
    """
    total = float(sizes.sum())
    if total == 0:
        return 0.0
    ordered = np.sort(sizes).astype(np.float64)
    ranks = 2 * np.arange(1, len(ordered) + 1) - len(ordered) - 1
    return float(ranks @ ordered / (len(ordered) * total))


def jensen_shannon(p: FloatArray, q: FloatArray) -> FloatArray:
    """The Jensen-Shannon divergence in bits of each row of p [K, C] from q [C] (Lin 1991, base 2).

    Between 0 and 1; its square root is the Jensen-Shannon distance.
    """
    middle = (p + q) / 2
    nats = (_plogp(p).sum(axis=1) + _plogp(q).sum()) / 2 - _plogp(middle).sum(axis=1)
    return np.asarray(np.maximum(nats, 0) / math.log(2))


def hellinger(p: FloatArray, q: FloatArray) -> FloatArray:
    """The Hellinger distance of each row of p [K, C] from q [C]: sqrt(1/2 sum (sqrt p - sqrt q)^2), 0..1."""
    return np.asarray(np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum(axis=1) / 2))


def label_distance(p: FloatArray, q: FloatArray) -> FloatArray:
    """The sum of |p - q| over classes for each row of p [K, C], 0..2 (the "EMD" of Zhao et al. 2018, section 3).

    Earth mover's distance with a ground distance of 2 between any two classes: labels have no order.
    """
    return np.asarray(np.abs(p - q).sum(axis=1))


def effective_classes(p: FloatArray) -> FloatArray:
    """exp(entropy) of each row of p [K, C]: 1 for one class, C for all alike (Hill 1973, order 1)."""
    return np.asarray(np.exp(-_plogp(p).sum(axis=1)))


def _plogp(p: FloatArray) -> FloatArray:
    return np.asarray(p * np.log(np.where(p > 0, p, 1.0)))


def wasserstein(client: IntArray, values: npt.NDArray[np.floating], clients: int) -> FloatArray:
    """The 1-Wasserstein distance [K] of each client's values from all values, in their units; NaN without rows.

    Exact, in O(n log n) for all clients together. W1 is the integral over u of |Q_k(u) - Q(u)|; a client's quantile
    function Q_k is a step for each of its rows, and over one step |a - Q(u)| integrates in closed form from
    prefix sums of the sorted values, split where Q crosses a.
    """
    if not len(values):
        return np.full(clients, np.nan)
    # The distance does not change with an offset, but digits would be lost to a large one.
    values = values.astype(np.float64) - np.median(values)
    by_value = np.argsort(values)
    everything = np.asarray(values[by_value], np.float64)
    by_client = np.argsort(client[by_value], kind="stable")
    a, owner = everything[by_client], client[by_value][by_client]
    share_below = np.searchsorted(everything, everything, side="right")[by_client] / len(a)
    sizes = np.bincount(owner, minlength=clients)
    rank = np.arange(len(a)) - (np.cumsum(sizes) - sizes)[owner]
    low, high = rank / sizes[owner], (rank + 1) / sizes[owner]
    crossing = np.clip(share_below, low, high)
    integral = _quantile_integral(everything)
    cost = a * (2 * crossing - low - high) + integral(low) + integral(high) - 2 * integral(crossing)
    total = np.bincount(owner, weights=np.maximum(cost, 0), minlength=clients)
    return np.where(sizes > 0, total, np.nan)


def _quantile_integral(ordered: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """u -> the integral of the quantile function from 0 to u, for sorted values."""
    n = len(ordered)
    prefix = np.concatenate([[0.0], np.cumsum(ordered)]) / n

    def integral(u: FloatArray) -> FloatArray:
        position = u * n
        whole = np.minimum(position.astype(np.int64), n - 1)
        return np.asarray(prefix[whole] + (position - whole) * ordered[whole] / n)

    return integral


def skew_of(partition: Partition, *, duplicates: bool = True, bins: int = 10) -> SkewReport:
    """The skew of a stored partition's training rows; `duplicates` reads every row's features as well."""
    client, is_test = row_clients(partition)
    y = partition.column("y")
    targets = Targets(
        labels=y if partition.task in ("classification", "binary") else None,
        classes=len(partition.classes),
        values=y if partition.task == "regression" else None,
        bins=bins,
    )
    return report_skew(
        np.where(is_test, -1, client),
        partition.clients,
        targets,
        client_ids=partition.client_ids,
        duplicates=_duplicates(partition, client, is_test) if duplicates else None,
    )


def row_clients(partition: Partition) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """For each stored row its client [n] and whether it is a test row [n]."""
    counts = partition.counts
    client = np.repeat(np.arange(partition.clients), counts.sum(axis=1))
    return client, np.repeat(np.tile([False, True], partition.clients), counts.ravel())


def _duplicates(partition: Partition, client: IntArray, is_test: npt.NDArray[np.bool_]) -> Duplicates:
    table = [partition.column("x"), partition.column("y")]
    own = partition.manifest.central_test == "own"
    central = [partition.column("test_x"), partition.column("test_y")] if own else None
    validation = None
    if partition.manifest.has_validation:
        counts = partition.validation_counts
        owner = np.repeat([*range(partition.clients), -1], [*counts, partition.manifest.own_validation])
        validation = ValidationRows([partition.column("validation_x"), partition.column("validation_y")], owner)
    return count_duplicates(table, client, is_test, central, validation)


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets by which skew is measured: class `labels` [n] of `classes` classes, or real `values` [n], which count in
    `bins` quantile bins in the measures that need labels; neither for text."""

    labels: IntArray | None = None
    classes: int = 0
    values: npt.NDArray[np.floating] | None = None
    bins: int = 10

    def codes(self) -> tuple[Kind, IntArray | None, int]:
        """Returns the kind of the label measures, each row's code [n], and the number of codes."""
        if self.labels is not None:
            return "classes", self.labels, max(self.classes, int(self.labels.max(initial=-1)) + 1)
        if self.values is None or not len(self.values):
            return "none", None, 0
        codes, found = quantile_codes(self.values, self.bins)
        return "bins", codes, found


def report_skew(
    client: IntArray,
    clients: int,
    targets: Targets,
    *,
    client_ids: Sequence[str] | None = None,
    duplicates: Duplicates | None = None,
) -> SkewReport:
    """Returns the skew of rows that belong to `client` [n] (-1: no client), by their targets. `client_ids` name the
    worst clients; without them their indices do."""
    owned = client >= 0
    sizes = np.bincount(client[owned], minlength=clients)
    kind, codes, found = targets.codes()
    target = targets.values
    measures: dict[str, npt.NDArray[Any]] = {}
    overall: float | None = None
    if codes is not None:
        counts = label_counts(client, codes, clients, found)
        measures = _label_measures(counts)
        overall = _smallest(_label_measures(counts.sum(axis=0)[None, :])["effective_classes"])
    if target is not None and len(target):
        measures["earth_mover"] = wasserstein(client[owned], target[owned], clients)
    return SkewReport(
        clients=clients,
        rows=int(sizes.sum()),
        empty_clients=int(np.count_nonzero(sizes == 0)),
        size_min=int(sizes.min()),
        size_median=float(np.median(sizes)),
        size_mean=float(sizes.mean()),
        size_max=int(sizes.max()),
        size_gini=gini(sizes),
        kind=kind,
        labels=found,
        jensen_shannon=_summary(measures.get("jensen_shannon"), sizes, client_ids),
        hellinger=_summary(measures.get("hellinger"), sizes, client_ids),
        earth_mover=_summary(measures.get("earth_mover"), sizes, client_ids),
        effective_classes=_weighted_mean(measures.get("effective_classes"), sizes),
        effective_classes_min=_smallest(measures.get("effective_classes")),
        effective_classes_all=overall,
        duplicates=duplicates,
        per_client={"rows": sizes, **measures},
    )


def _label_measures(counts: IntArray) -> dict[str, FloatArray]:
    """Each measure for each client [K]; NaN for a client without rows."""
    q = counts.sum(axis=0) / max(1, counts.sum())
    step = max(1, BLOCK_CELLS // max(1, counts.shape[1]))
    blocks = [_block_measures(counts[i : i + step], q) for i in range(0, len(counts), step)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _block_measures(counts: IntArray, q: FloatArray) -> dict[str, FloatArray]:
    sizes = counts.sum(axis=1)
    p = counts / np.maximum(sizes, 1)[:, None]
    measures = {
        "jensen_shannon": jensen_shannon(p, q),
        "hellinger": hellinger(p, q),
        "earth_mover": label_distance(p, q),
        "effective_classes": effective_classes(p),
    }
    return {name: np.where(sizes > 0, values, np.nan) for name, values in measures.items()}


def _summary(values: FloatArray | None, sizes: IntArray, client_ids: Sequence[str] | None) -> Divergence | None:
    mean = _weighted_mean(values, sizes)
    if values is None or mean is None:
        return None
    worst = int(np.nanargmax(values))
    return Divergence(mean, float(values[worst]), str(client_ids[worst]) if client_ids is not None else str(worst))


def _weighted_mean(values: FloatArray | None, sizes: IntArray) -> float | None:
    if values is None or not sizes.any():
        return None
    return float(np.nansum(values * sizes) / sizes.sum())


def _smallest(values: FloatArray | None) -> float | None:
    return None if values is None or np.isnan(values).all() else float(np.nanmin(values))
