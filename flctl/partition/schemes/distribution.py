"""A partition that is written down as a matrix."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator, Field, field_serializer

from flctl.component import PATH, Options
from flctl.errors import ConfigError, DataError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.deal import by_class, class_codes, deal_by_class, round_rows, size_array
from flctl.partition.schemes.options import Bins, SizeList
from flctl.types import FloatArray, IntArray

__all__ = ["Distribution"]


def _inline(value: Any) -> Any:
    """`1,2;3,4` as [[1, 2], [3, 4]]; a path stays one."""
    if not isinstance(value, str) or value.lower().endswith((".csv", ".npy")):
        return value
    return [row.split(",") for row in value.split(";") if row.strip()]


Matrix = Annotated[str | tuple[tuple[float, ...], ...], BeforeValidator(_inline)]


class Distribution(Partitioner):
    """Rows by a [clients, classes] matrix (after flwr-datasets, DistributionPartitioner).

    `matrix`: inline, `1,2;3,4` on a command line, or a `.csv` (numbers only) or `.npy` file. `values` says what it
    holds: `class-shares` divides each class among the clients in proportion to its column and uses every row of a
    class whose column is not all 0; `client-shares` makes each row one client's label distribution, with `sizes`
    rows for each client or else as many as the data allow, the same for all; `counts` are row numbers. With
    `preassigned` (for `class-shares`) each client that has rows of a class first gets this number. Rows that no client
    requests are left out.
    """

    name = "distribution"
    sets_clients: ClassVar[bool] = True

    class Config(Options):
        matrix: Annotated[Matrix, Field(description="[clients, classes]: inline, .csv or .npy", json_schema_extra=PATH)]
        values: Annotated[
            Literal["class-shares", "client-shares", "counts"], Field(description="Kind of values in the matrix")
        ] = "class-shares"
        preassigned: Annotated[int, Field(ge=0, description="Rows of a class that each of its clients gets first")] = 0
        sizes: Annotated[SizeList | None, Field(description="Rows of each client, for client-shares")] = None
        bins: Annotated[Bins, Field(description="Number of quantile bins of a real-valued target")] = 10

        @field_serializer("matrix")
        def _without_folders(self, matrix: Any) -> Any:
            """A manifest names the file and its digest, never the folder it was in."""
            return f"{Path(matrix).name} {_digest(Path(matrix))}" if isinstance(matrix, str) else matrix

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if self.config.preassigned and self.config.values != "class-shares":
            raise ConfigError("--preassigned needs values 'class-shares'", hint="Leave out --preassigned.")
        if self.config.sizes is not None and self.config.values != "client-shares":
            raise ConfigError("--sizes needs values 'client-shares'", hint="Use --values client-shares.")

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        codes, classes = class_codes(rows, self.config.bins, self.name)
        matrix = _checked(self.config.matrix, clients, classes)
        order, totals = by_class(codes, classes, rng)
        counts = self._counts(matrix, totals, rows.count)
        _refuse_excess(counts, totals, rows.classes)
        return deal_by_class(order, totals, counts.T)

    def _counts(self, matrix: FloatArray, totals: IntArray, rows: int) -> IntArray:
        """Rows of each class for each client, [K, C]."""
        if self.config.values == "counts":
            return _whole(matrix)
        if self.config.values == "class-shares":
            return _by_column(matrix, totals, self.config.preassigned)
        sums = matrix.sum(axis=1, keepdims=True)
        if not (sums > 0).all():
            raise DataError(
                f"row {int(np.argmin(sums)) + 1} of the matrix is all 0: that client has no label distribution",
                hint="Use at least one positive value in each row.",
            )
        return self._by_row(matrix / sums, totals, rows)

    def _by_row(self, mixes: FloatArray, totals: IntArray, rows: int) -> IntArray:
        if self.config.sizes is None:
            return np.floor(mixes * _largest_size(mixes, totals)).astype(np.int64)
        if len(self.config.sizes) != len(mixes):
            raise DataError(
                f"found {counted(len(self.config.sizes), 'size')} for {counted(len(mixes), 'row')} of the matrix",
                hint="Use one size for each client.",
            )
        sizes = size_array(self.config.sizes, rows)
        return round_rows(mixes * sizes[:, None], sizes)


def _by_column(matrix: FloatArray, totals: IntArray, preassigned: int) -> IntArray:
    first = preassigned * (matrix > 0).astype(np.int64)
    rest = totals - first.sum(axis=0)
    if (rest < 0).any():
        code = int(np.argmin(rest))
        raise DataError(
            f"class {code} has {counted(int(totals[code]), 'row')}; {preassigned} for each of its clients "
            f"needs {totals[code] - rest[code]}",
            hint="Lower --preassigned.",
        )
    sums = matrix.sum(axis=0)
    claimed = np.where(sums > 0, rest, 0)
    expected = matrix / np.where(sums > 0, sums, 1) * claimed
    return first + round_rows(expected.T, claimed).T


def _largest_size(mixes: FloatArray, totals: IntArray) -> float:
    """The largest number of rows that every client can have alike."""
    demand = mixes.sum(axis=0)
    return float(np.min(totals[demand > 0] / demand[demand > 0]))


def _whole(matrix: FloatArray) -> IntArray:
    if (matrix != np.floor(matrix)).any() or matrix.max(initial=0) > 2**53:
        raise DataError(
            "values 'counts' needs integers, and the matrix has other numbers",
            hint="Use --values class-shares or --values client-shares for proportions.",
        )
    return matrix.astype(np.int64)


def _refuse_excess(counts: IntArray, totals: IntArray, classes: tuple[str, ...]) -> None:
    claimed = counts.sum(axis=0)
    if (claimed > totals).any():
        code = int(np.argmax(claimed - totals))
        name = f" ('{classes[code]}')" if code < len(classes) else ""
        raise DataError(
            f"the matrix needs {counted(int(claimed[code]), 'row')} of class {code}{name}; there are {totals[code]:,}",
            hint="Lower that column, or the sizes.",
        )


def _checked(matrix: Any, clients: int | None, classes: int) -> FloatArray:
    """The matrix as float64 [K, C]. Raises DataError for a wrong shape, or for NaN, infinite or negative values."""
    values = _load(Path(matrix)) if isinstance(matrix, str) else _rectangular(matrix)
    if values.ndim != 2 or values.shape[1] != classes or not len(values):
        raise DataError(
            f"the matrix has shape {list(values.shape)}; expected [clients, {classes}], one column for each class",
            hint="Write one row for each client and one column for each class, in the order of the classes.",
        )
    if clients is not None and clients != len(values):
        raise DataError(
            f"the matrix has {counted(len(values), 'row')}, and --clients is {clients}",
            hint="Leave out --clients, or write one row for each client.",
        )
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"row {row + 1}, column {column + 1} of the matrix is {values[row, column]:g}; expected 0 or more",
            hint="Use finite values that are not negative.",
        )
    return values


def _rectangular(rows: tuple[tuple[float, ...], ...]) -> FloatArray:
    if len({len(row) for row in rows}) > 1:
        raise DataError(
            f"the rows of the matrix have {sorted({len(row) for row in rows})} values; expected the same in each",
            hint="Write one value for each class in every row.",
        )
    return np.asarray(rows, np.float64)


def _load(path: Path) -> FloatArray:
    if not path.is_file():
        raise DataError(f"the matrix file {path} does not exist", hint="Use the path of a .csv or .npy file.")
    return _load_npy(path) if path.suffix.lower() == ".npy" else _load_csv(path)


def _load_npy(path: Path) -> FloatArray:
    try:
        # Mapped, so that a header that declares more than the file holds is refused before memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"its values are {array.dtype}")
        return np.asarray(array, np.float64)
    except (ValueError, TypeError, EOFError) as error:
        raise DataError(f"{path.name} is not a .npy file of numbers: {error}") from error


def _load_csv(path: Path) -> FloatArray:
    rows: list[tuple[float, ...]] = []
    with path.open(newline="", encoding="utf-8") as lines:
        reader = csv.reader(lines)
        try:
            rows.extend(tuple(float(cell) for cell in row) for row in reader if row)
        except (ValueError, csv.Error) as error:
            raise DataError(
                f"{path.name}, line {reader.line_num}: {error}",
                hint="Write numbers only, one line for each client, without a header.",
            ) from error
    return _rectangular(tuple(rows))


def _digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
