"""Predictions as a stream of CSV or Parquet: to a file that is whole or absent, or to standard output."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.data.extras import optional
from flctl.data.preprocessing import FittedPreprocessing
from flctl.errors import ConfigError
from flctl.prediction.outputs import Predictions
from flctl.results import results

__all__ = ["FORMATS", "Columns", "Sink", "check_out", "opened_sink", "table_of"]

FORMATS = (".csv", ".parquet")
STDOUT = "-"
PROBABILITY = "p:"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a file of predictions, in order, and which of them hold numbers and not text."""

    names: tuple[str, ...]
    numbers: frozenset[str]

    @classmethod
    def of(cls, fitted: FittedPreprocessing, words: Sequence[str]) -> Columns:
        """`row`, then `words`, `prediction`, and for classes `p:NAME` of each."""
        classes = () if fitted.task == "regression" else tuple(f"{PROBABILITY}{name}" for name in fitted.classes)
        prediction = ("prediction",) if fitted.task == "regression" else ()
        return cls(("row", *words, "prediction", *classes), frozenset((*classes, *prediction)))

    @classmethod
    def of_text(cls, words: Sequence[str]) -> Columns:
        """`row`, then `words`, the `next` characters and their `probability`."""
        return cls(("row", *words, "next", "probability"), frozenset(["probability"]))


class Sink(Protocol):
    """Takes blocks of rows, as columns of equal length in the order of the names."""

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Writes a block; None is an empty cell."""


def check_out(out: str) -> None:
    """Raises ConfigError for a file that exists or has another ending, before anything is read."""
    if out == STDOUT:
        return
    path = Path(out)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {out!r} does not end in {' or '.join(FORMATS)}", hint="For example predictions.csv.")
    atomic.refuse_existing(path)


@contextmanager
def opened_sink(out: str, columns: Columns) -> Iterator[Sink]:
    """The place for predictions: a .csv or .parquet file, which appears when all are written, or "-": CSV on stdout."""
    check_out(out)
    if out == STDOUT:
        with _csv_sink(results().buffer, columns) as sink:
            yield sink
        return
    opened = _parquet_sink if out.lower().endswith(".parquet") else _csv_sink
    with atomic.new_file(Path(out)) as handle, opened(handle, columns) as sink:
        yield sink


def table_of(
    found: Predictions, first: int, words: Mapping[str, Sequence[Any]], fitted: FittedPreprocessing
) -> dict[str, Sequence[Any]]:
    """A block as columns; cells are None where the model's outputs are not finite. Rows count from `first`."""
    if found.values is not None:
        rows = range(first, first + len(found.values))
        return {"row": rows, **words, "prediction": _finite(found.values)}
    if found.codes is None or found.probability is None:
        raise ValueError("predictions have neither values nor classes")
    named = (*fitted.classes, None)  # the code of what is not finite is -1, the last
    columns: dict[str, Sequence[Any]] = {"row": range(first, first + len(found.codes)), **words}
    columns["prediction"] = [named[code] for code in found.codes.tolist()]
    shares = zip(fitted.classes, found.probability.T, strict=True)
    return columns | {f"{PROBABILITY}{name}": _finite(share) for name, share in shares}


def _finite(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


class _CsvSink:
    """Numbers have nine significant digits, which tell any two float32 apart."""

    def __init__(self, stream: io.TextIOWrapper, columns: Columns) -> None:
        self._writer = csv.writer(stream, lineterminator="\n")
        self._columns = columns
        self._writer.writerow(columns.names)

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        cells = (self._cells(name, columns[name]) for name in self._columns.names)
        self._writer.writerows(zip(*cells, strict=True))

    def _cells(self, name: str, column: Sequence[Any]) -> Sequence[Any]:
        if name not in self._columns.numbers:
            return column
        return [None if value is None else f"{value:.9g}" for value in column]


@contextmanager
def _csv_sink(handle: BinaryIO, columns: Columns) -> Iterator[Sink]:
    text = io.TextIOWrapper(handle, encoding="utf-8", newline="")
    try:
        yield _CsvSink(text, columns)
        text.flush()
    finally:
        _let_go(text)


def _let_go(text: io.TextIOWrapper) -> None:
    """Leaves the stream below open; after a failure nothing more is written to it."""
    try:
        text.detach()
    except (OSError, ValueError):
        return


class _ParquetSink:
    def __init__(self, handle: BinaryIO, columns: Columns) -> None:
        arrow = optional("pyarrow", "pyarrow", "Parquet files")
        kinds = {name: arrow.float64() if name in columns.numbers else arrow.string() for name in columns.names}
        self._schema = arrow.schema([(name, arrow.int64() if name == "row" else kinds[name]) for name in columns.names])
        self._table = arrow.Table
        self._writer = optional("pyarrow.parquet", "pyarrow", "Parquet files").ParquetWriter(handle, self._schema)

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        block = {name: list(columns[name]) for name in self._schema.names}
        self._writer.write_table(self._table.from_pydict(block, self._schema))

    def close(self) -> None:
        """Writes the footer."""
        self._writer.close()


@contextmanager
def _parquet_sink(handle: BinaryIO, columns: Columns) -> Iterator[Sink]:
    sink = _ParquetSink(handle, columns)
    yield sink
    sink.close()
