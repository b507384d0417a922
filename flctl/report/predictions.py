"""Predictions, row by row, and numbers, client by client, as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.errors import ConfigError
from flctl.evaluation.evaluate import Evaluated
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes
from flctl.partition.store import Partition
from flctl.report.evaluation import client_rows
from flctl.types import PADDING, IntArray

__all__ = ["format_of", "write_client_numbers", "write_predictions"]

FORMATS = (".csv", ".npz")
CENTRAL = -1
"""The client number of a row of the source's own test part, which no client holds."""


@dataclass(frozen=True, slots=True)
class PredictedRows:
    """Predicted rows in order: `client` [n] is each one's client number or `CENTRAL`, `source_row` [n] its number in
    the source (in the test part, for central rows)."""

    client: IntArray
    source_row: IntArray
    outcomes: ClassificationOutcomes | RegressionOutcomes


def format_of(out: Path) -> str:
    """The ending of a file of predictions, in lower case. Raises ConfigError for any other."""
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{out.name} does not end in {' or '.join(FORMATS)}", hint="Name the file x.csv or x.npz.")
    return suffix


def write_predictions(out: Path, model: Evaluated, partition: Partition) -> int:
    """Writes every client's test rows, and before them the source's own test part where it has one; returns how
    many rows. Raises ConfigError where `out` exists.

    CSV: client (empty for the source's own test part), source_row, truth, prediction and, for classes, the
    probability of each (`p:NAME`); text has one line per window. NPZ: the same as arrays, `client` as a number
    into `client_ids` or -1, and truth and prediction as codes into `classes` (-1: padding, or outputs that are
    not finite).
    """
    parts = _parts(model, partition)
    if format_of(out) == ".npz":
        _write_npz(out, parts, model, partition)
    else:
        _write_csv(out, _header(model), (line for part in parts for line in _lines(part, model, partition)))
    return sum(len(part.client) for part in parts)


def write_client_numbers(out: Path, models: Sequence[Evaluated]) -> None:
    """Writes a CSV with a line for each client of each model: run, client, size, test_rows, targets and metrics.
    Raises ConfigError where `out` exists."""
    names = dict.fromkeys(name for model in models for row in _first(model) for name in row)
    rows = ({"run": model.name, **row} for model in models for row in client_rows(model.evaluation.clients))
    header = ["run", *names]
    _write_csv(out, header, ([_plain(row.get(name, "")) for name in header] for row in rows))


def _first(model: Evaluated) -> Iterator[dict[str, Any]]:
    yield from (row for row, _ in zip(client_rows(model.evaluation.clients), range(1), strict=False))


def _plain(value: Any) -> Any:
    return "" if isinstance(value, float) and np.isnan(value) else value


def _parts(model: Evaluated, partition: Partition) -> list[PredictedRows]:
    evaluation = model.evaluation
    client = np.repeat(np.arange(partition.clients), partition.counts[:, 1])
    own = PredictedRows(client, partition.column("source_row")[_test_rows(partition)], evaluation.client_outcomes)
    if evaluation.pooled:
        return [own]
    rows = np.arange(len(evaluation.central_outcomes))
    return [PredictedRows(np.full(len(rows), CENTRAL), rows, evaluation.central_outcomes), own]


def _test_rows(partition: Partition) -> IntArray:
    bounds = partition.bounds
    sizes = bounds[:, 2] - bounds[:, 1]
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(int(sizes.sum())) + np.repeat(bounds[:, 1] - before, sizes))


def _header(model: Evaluated) -> list[str]:
    outcomes = model.evaluation.central_outcomes
    scored = isinstance(outcomes, ClassificationOutcomes) and outcomes.log_probability is not None
    return ["client", "source_row", "truth", "prediction", *(f"p:{name}" for name in model.classes if scored)]


def _lines(part: PredictedRows, model: Evaluated, partition: Partition) -> Iterator[list[Any]]:
    ids = partition.client_ids
    for index, (client, row) in enumerate(zip(part.client.tolist(), part.source_row.tolist(), strict=True)):
        yield ["" if client == CENTRAL else ids[client], row, *_values(part.outcomes, index, model.classes)]


def _values(outcomes: ClassificationOutcomes | RegressionOutcomes, index: int, classes: Sequence[str]) -> list[Any]:
    if isinstance(outcomes, RegressionOutcomes):
        return [float(outcomes.truth[index]), _plain(float(outcomes.prediction[index]))]
    truth, guess = np.atleast_1d(outcomes.truth[index]), np.atleast_1d(outcomes.prediction[index])
    named = [_names(truth, classes), _names(guess, classes)]
    if outcomes.log_probability is None:
        return named
    missing = bool(guess[0] == PADDING)
    return named + ["" if missing else f"{p:.6g}" for p in np.exp(outcomes.log_probability[index].astype(np.float64))]


def _names(codes: npt.NDArray[np.int32], classes: Sequence[str]) -> str:
    return "".join(classes[code] for code in codes.tolist() if code != PADDING)


def _write_csv(out: Path, header: Sequence[str], lines: Iterator[list[Any]]) -> None:
    with atomic.new_file(out) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
        text.flush()
        text.detach()


def _write_npz(out: Path, parts: Sequence[PredictedRows], model: Evaluated, partition: Partition) -> None:
    names = ["truth", "prediction"]
    columns = {name: np.concatenate([getattr(part.outcomes, name) for part in parts]) for name in names}
    scores = [part.outcomes.log_probability for part in parts if isinstance(part.outcomes, ClassificationOutcomes)]
    if scores and scores[0] is not None:
        columns["probability"] = np.exp(np.concatenate([s for s in scores if s is not None]))
    columns["client"] = np.concatenate([part.client for part in parts])
    columns["source_row"] = np.concatenate([part.source_row for part in parts])
    columns["client_ids"] = np.array(list(partition.client_ids))
    columns["classes"] = np.array(list(model.classes), np.str_)
    with atomic.new_file(out) as raw:
        np.savez(raw, allow_pickle=False, **columns)
