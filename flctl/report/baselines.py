"""A run beside its baselines, client by client: a metric, and paired differences with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flctl import atomic
from flctl.baselines.outcome_files import Rows
from flctl.errors import ConfigError
from flctl.evaluation.client_metrics import client_scores
from flctl.evaluation.intervals import paired_intervals
from flctl.evaluation.outcomes import ClassificationOutcomes
from flctl.metrics import METRICS
from flctl.report.comparison import Difference, client_difference
from flctl.types import FloatArray

__all__ = ["COLUMNS", "GAIN", "PAIRS", "ComparedClient", "ComparedClients", "compare_clients", "write_client_table"]

COLUMNS = ("alone", "federated", "pooled", "personal", "left-out")
"""Models of a client: trained on its rows alone, the run's, on all rows, its own in the run, the run's without it."""
PAIRS = (
    ("alone", "federated"),
    ("federated", "pooled"),
    ("alone", "personal"),
    ("federated", "personal"),
    ("left-out", "federated"),
)
"""Differences: the second model's metric minus the first's."""
GAIN = "federated - alone"
RANKINGS = ("auroc", "auprc")


@dataclass(frozen=True, slots=True)
class ComparedClient:
    """A client: its id, training rows, and the outcomes of each model on its test rows, by column."""

    client: str
    rows: int
    outcomes: Mapping[str, Rows]

    @property
    def test_rows(self) -> int:
        """Rows that each of the models was scored on."""
        return len(next(iter(self.outcomes.values())))


@dataclass(frozen=True, slots=True)
class ComparedClients:
    """The comparison. `values`: column -> metric [K]; `differences`: pair -> one for each client; `means` and
    `mean_differences`: each client counted once, with intervals that draw clients."""

    metric: str
    clients: Sequence[str]
    rows: Sequence[int]
    test_rows: Sequence[int]
    values: Mapping[str, FloatArray]
    differences: Mapping[str, Sequence[Difference]]
    means: Mapping[str, float]
    mean_differences: Mapping[str, Difference]

    @property
    def higher_is_better(self) -> bool:
        """Direction of the metric."""
        return METRICS[self.metric].higher_is_better

    @property
    def order(self) -> list[int]:
        """Clients in the order of their gain from federation, from the largest loss to the largest gain."""
        pair = GAIN if GAIN in self.differences else next(iter(self.differences), None)
        if pair is None:
            return list(range(len(self.clients)))
        sign = 1 if self.higher_is_better else -1
        values = [sign * one.value for one in self.differences[pair]]
        return sorted(range(len(values)), key=lambda k: (math.isnan(values[k]), values[k], k))

    def verdicts(self, pair: str = GAIN) -> dict[str, int]:
        """Number of clients by verdict: gain or lose if the interval excludes 0, else undecided."""
        found = [verdict(one, higher_is_better=self.higher_is_better) for one in self.differences.get(pair, ())]
        return {name: found.count(name) for name in ("gain", "lose", "undecided")}

    def data(self) -> dict[str, Any]:
        """Returns the comparison as JSON values; NaN becomes null."""
        rows = list(self.client_rows())
        return {
            "metric": self.metric,
            "clients": rows,
            "means": {name: _plain(value) for name, value in self.means.items()},
            "mean_differences": {pair: _difference(one) for pair, one in self.mean_differences.items()},
            "verdicts": self.verdicts(),
        }

    def client_rows(self) -> Iterator[dict[str, Any]]:
        """Each client's numbers, in client order."""
        for k, client in enumerate(self.clients):
            yield {
                "client": client,
                "rows": self.rows[k],
                "test_rows": self.test_rows[k],
                **{name: _plain(float(values[k])) for name, values in self.values.items()},
                "differences": {pair: _difference(found[k]) for pair, found in self.differences.items()},
            }


def verdict(difference: Difference, *, higher_is_better: bool) -> str:
    """gain or lose if the interval excludes 0, else undecided."""
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "undecided"
    return "gain" if (difference.low > 0) == higher_is_better else "lose"


def compare_clients(
    subjects: Sequence[ComparedClient], metric: str, classes: int, positive: int = 1, seed: int = 0
) -> ComparedClients:
    """Compares the models of each client on its test rows. `classes` is the number of classes (0: regression),
    and `positive` the code of the positive one of two.

    Intervals are a paired bootstrap over a client's test rows; those of the means draw clients. Raises ConfigError for
    a metric that clients do not have.
    """
    columns = [name for name in COLUMNS if all(name in one.outcomes for one in subjects)]
    values = {
        name: np.array([_value(one.outcomes[name], metric, positive) for one in subjects], np.float64)
        for name in columns
    }
    pairs = [(a, b) for a, b in PAIRS if a in values and b in values]
    differences = {
        f"{b} - {a}": [_paired((one.outcomes[a], one.outcomes[b]), metric, classes, positive, seed) for one in subjects]
        for a, b in pairs
    }
    return ComparedClients(
        metric=metric,
        clients=[one.client for one in subjects],
        rows=[one.rows for one in subjects],
        test_rows=[one.test_rows for one in subjects],
        values=values,
        differences=differences,
        means={
            name: float(np.nanmean(found)) if np.isfinite(found).any() else math.nan for name, found in values.items()
        },
        mean_differences={f"{b} - {a}": client_difference(values[a], values[b], seed) for a, b in pairs},
    )


def _mean(values: FloatArray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _value(outcomes: Rows, metric: str, positive: int) -> float:
    found = client_scores(outcomes, np.array([0, len(outcomes)]), positive)
    if metric not in found:
        known = ", ".join(name for name in METRICS if name in found)
        raise ConfigError(f"clients have no metric '{metric}'", hint=f"They have: {known}.")
    return float(found[metric][0])


def _paired(models: tuple[Rows, Rows], metric: str, classes: int, positive: int, seed: int) -> Difference:
    first, second = models
    value = _value(second, metric, positive) - _value(first, metric, positive)
    if metric not in RANKINGS:
        first, second = _unranked(first), _unranked(second)
    interval = paired_intervals(first, second, classes, positive, seed).get(metric)
    return Difference(value) if interval is None else Difference(value, interval.low, interval.high)


def _unranked(outcomes: Rows) -> Rows:
    """The outcomes without scores: rankings cost most of a bootstrap."""
    return replace(outcomes, log_probability=None) if isinstance(outcomes, ClassificationOutcomes) else outcomes


def write_client_table(out: Path, compared: ComparedClients) -> Path:
    """Writes a CSV with a line for each client. Raises ConfigError where `out` exists."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = list(compared.differences)
    ends = ("", " low", " high")
    writer.writerow(
        ["client", "rows", "test_rows", *compared.values, *(f"{pair}{end}" for pair in pairs for end in ends)]
    )
    for row in compared.client_rows():
        parts = [row["differences"][pair][key] for pair in pairs for key in ("value", "low", "high")]
        cells = [row["client"], row["rows"], row["test_rows"], *(row[name] for name in compared.values), *parts]
        writer.writerow(["" if cell is None else cell for cell in cells])
    atomic.write_file(out, text.getvalue().encode(), replace=False)
    return out


def _difference(one: Difference) -> dict[str, float | None]:
    return {key: _plain(value) for key, value in asdict(one).items() if key != "p"}


def _plain(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
