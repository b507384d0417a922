"""Columns that grow batch by batch: numbers, levels of text, and a target of either kind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.data.extras import optional
from flctl.data.options import Task, as_option
from flctl.data.precision import merges, middle
from flctl.data.targets import AUTO_CLASSES, MAX_CLASSES, Target, from_levels, from_numbers
from flctl.errors import DataError
from flctl.types import FloatArray, IntArray

__all__ = [
    "CellError",
    "Growing",
    "Levels",
    "Numbers",
    "TargetColumn",
    "as_numbers",
    "is_missing",
    "is_number",
    "refuse_too_many",
    "trimmed",
]

MISSING = -1
NOT_A_NUMBER = "not a number"
UNDECLARED = -2
CODE = re.compile(r"[+-]?0\d+")
"""A number with leading zeros is a code: 01 and 1 are two labels."""
Array = Any  # a pyarrow array


class CellError(Exception):
    """A cell that cannot be used, by column and row. The source adds the file and the line to the message."""

    def __init__(self, column: int, row: int, reason: str, *, of_target: bool = False) -> None:
        super().__init__(reason)
        self.column, self.row, self.reason, self.of_target = column, row, reason, of_target

    def advice(self, name: str, cell: str | None = None) -> str:
        """Hint for the column `name` and the cell as it is written, if that is known."""
        missing = [f"--na {as_option([cell])} if it means missing"] if cell else []
        if self.of_target:
            return ", ".join([*missing, "--task classification if these are labels, else another --target."])
        option = as_option([name])
        return ", ".join([*missing, f"--categorical {option} if it is a category, else --drop {option}."])


class Growing:
    """An array that grows in place by rows: a quarter at a time, so at most a quarter of it lies idle."""

    def __init__(self, width: int | None, dtype: npt.DTypeLike) -> None:
        self._array: npt.NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype)
        self._rows = 0

    def extend(self, rows: int) -> npt.NDArray[Any]:
        """The view of `rows` new rows to fill; it must be let go before the next call."""
        start, self._rows = self._rows, self._rows + rows
        if self._rows > len(self._array):
            self._resize(max(self._rows, int(self._rows * 1.25)))
        return self._array[start : self._rows]

    def finish(self) -> npt.NDArray[Any]:
        """The array, cut to its rows; nothing is copied."""
        self._resize(self._rows)
        return self._array

    def _resize(self, rows: int) -> None:
        # Views of earlier batches are gone by contract; realloc moves pages instead of copying them.
        self._array.resize((rows, *self._array.shape[1:]), refcheck=False)


def as_numbers(
    array: Array, missing: Sequence[str], *, booleans: bool = True
) -> tuple[FloatArray, npt.NDArray[np.bool_] | None]:
    """A pyarrow array as float64 [n], and where cells are missing (None: nowhere). Text is trimmed and parsed; with
    `booleans`, True is 1 and False is 0.

    Raises CellError (column 0) for the first cell of text that is no number.
    """
    pa, pc = _arrow()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = trimmed(array, missing)
        array = _with_booleans_as_numbers(array) if booleans else array
        if not _parses(array):
            raise CellError(0, _first_unparsed(array), NOT_A_NUMBER)
    array = pc.cast(array, pa.float64(), safe=False)
    absent = None if array.null_count == 0 else array.is_null().to_numpy(zero_copy_only=False)
    return array.to_numpy(zero_copy_only=False), absent


class Numbers:
    """The numeric features of a table, float32 [n, k] of value - offset, NaN if a cell is missing.

    `merging` are the columns of which 32 bits lose distinct values, each with an offset that may keep them.
    """

    def __init__(self, columns: Sequence[int], missing: Sequence[str], offsets: Mapping[int, float]) -> None:
        self.columns = tuple(columns)
        self.absent = np.zeros(len(columns), np.int64)
        self.offsets = {column: offsets.get(column, 0.0) for column in columns}
        self.merging: dict[int, float] = {}
        self._missing = missing
        self._values = Growing(len(columns), np.float32)

    def add(self, arrays: Mapping[int, Array], rows: int) -> None:
        """Takes a batch. Raises CellError for a cell that is no finite 32-bit number."""
        block = self._values.extend(rows)
        for column_index, column in enumerate(self.columns):
            try:
                values, absent = as_numbers(arrays[column], self._missing)
            except CellError as fault:
                raise CellError(column, fault.row, fault.reason) from fault
            offset = self.offsets[column]
            if column not in self.merging and merges(values, offset):
                self.merging[column] = middle(values)
            with np.errstate(over="ignore"):
                block[:, column_index] = values - offset if offset else values
            self.absent[column_index] += _count_absent(column, block[:, column_index], absent)

    def finish(self) -> npt.NDArray[np.float32]:
        """The matrix [n, k]."""
        return self._values.finish()


class Levels:
    """A column of text as codes into `names`, in order of appearance, -1 if a cell is missing.

    `declared` are the values that the file declares, if it does; they come first, and others are refused.
    """

    def __init__(
        self, column: int, missing: Sequence[str], limit: int | None = None, declared: Sequence[str] = ()
    ) -> None:
        self.column, self.limit = column, limit
        self._missing = frozenset(["", *missing])
        self._codes = Growing(None, np.int32)
        self._index: dict[str, int] = {name: code for code, name in enumerate(declared)}
        self._closed = bool(declared)

    @property
    def names(self) -> list[str]:
        """The distinct values."""
        return list(self._index)

    @property
    def overflowed(self) -> bool:
        """True if there are more levels than the limit."""
        return self.limit is not None and len(self._index) > self.limit

    def add(self, array: Array) -> None:
        """Takes a batch. Past the limit the codes mean nothing any more.

        Raises CellError for a value that the file does not declare.
        """
        encoded = _encoded(array)
        words = [*encoded.dictionary.to_pylist(), None]
        local = np.array([self._code(word) for word in words], np.int32)
        indices = encoded.indices.fill_null(len(local) - 1).to_numpy(zero_copy_only=False)
        if self._closed and (undeclared := np.flatnonzero(local == UNDECLARED)).size:
            raise CellError(self.column, int(np.argmax(np.isin(indices, undeclared))), "not one of the declared values")
        self._codes.extend(len(array))[:] = local[indices]

    def _code(self, value: Any) -> int:
        word = "" if value is None else str(value).strip()
        if word in self._missing or self.overflowed:
            return MISSING
        if self._closed:
            return self._index.get(word, UNDECLARED)
        return self._index.setdefault(word, len(self._index))

    @property
    def codes(self) -> npt.NDArray[np.int32]:
        """Returns the codes [n]; called after the last batch."""
        return self._codes.finish()


class TargetColumn:
    """A target whose kind its values decide: numbers while every cell is one, levels while they are few.

    With `declared` values it holds labels, whatever they look like.
    """

    def __init__(self, column: int, missing: Sequence[str], declared: Sequence[str] = ()) -> None:
        self.column = column
        self._missing = missing
        self._declared = bool(declared)
        self._levels = Levels(column, missing, MAX_CLASSES, declared)
        self._numbers: Growing | None = None if declared else Growing(None, np.float64)
        self._fault: CellError | None = None

    def add(self, array: Array, rows: IntArray) -> None:
        """Takes a batch without missing cells; `rows` are their numbers in the source.

        Raises CellError where the column is neither numbers nor labels.
        """
        if not self._levels.overflowed:
            try:
                self._levels.add(array)
            except CellError as fault:
                raise CellError(self.column, int(rows[fault.row]), fault.reason, of_target=True) from fault
        if self._numbers is not None:
            self._add_numbers(self._numbers, array, rows)
        if self._numbers is None and self._levels.overflowed and self._fault is not None:
            raise self._fault

    def _add_numbers(self, numbers: Growing, array: Array, rows: IntArray) -> None:
        try:
            values, absent = as_numbers(array, self._missing, booleans=False)
            _count_absent(self.column, values, absent)
        except CellError as fault:
            self._numbers = None
            self._fault = CellError(self.column, int(rows[fault.row]), fault.reason, of_target=True)
        else:
            numbers.extend(len(values))[:] = values

    def finish(self, task: Task, name: str) -> Target:
        """Returns the encoded target. Raises CellError for a numeric target if one of its cells is not a number."""
        if self._numbers is not None and not self._holds_codes(task):
            return from_numbers(self._numbers.finish(), task, name)
        if self._declared and task == "auto":
            task = "binary" if len(self._levels.names) == 2 else "classification"
        if self._fault is not None and (task == "regression" or (task == "auto" and self._mostly_numbers())):
            raise self._fault
        return from_levels(self._levels.codes.astype(np.int64), self._levels.names, task, name)

    def _holds_codes(self, task: Task) -> bool:
        """True if the numbers are labels with leading zeros: 01 and 1 would be merged as numbers."""
        names = [] if self._levels.overflowed or task == "regression" else self._levels.names
        few = len(names) <= AUTO_CLASSES or task != "auto"
        if few and any(map(CODE.fullmatch, names)) and all("." not in name for name in names):
            return True
        # 1.1 and 1.10 are two versions; 1 and 1.0 are one whole number, which some files write either way.
        return task in ("classification", "binary") and any(not float(s[0]).is_integer() for s in self.spellings())

    def spellings(self) -> list[list[str]]:
        """Labels that are one number and are written in several ways."""
        found: dict[float, list[str]] = {}
        for name in () if self._levels.overflowed else self._levels.names:
            if is_number(name):
                found.setdefault(float(name), []).append(name)
        return [names for names in found.values() if len(names) > 1]

    def _mostly_numbers(self) -> bool:
        # 0, 1 and NA are not three classes: a token for a missing cell was forgotten.
        parsed = sum(is_number(name) for name in self._levels.names)
        return 2 * parsed >= len(self._levels.names)


def is_missing(array: Array, missing: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Returns True for cells [n] without a value: null, blank or one of the words of `--na`."""
    pa, _ = _arrow()
    text = pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    absent = (trimmed(array, missing) if text else array).is_null().to_numpy(zero_copy_only=False)
    return np.asarray(absent, np.bool_)


def refuse_too_many(levels: Levels, name: str) -> None:
    """Raises DataError for a category with too many levels to one-hot encode."""
    if levels.overflowed:
        raise DataError(
            f"--categorical column '{name}' has more than {levels.limit:,} distinct values",
            hint=f"If it is an identifier, leave it out: --drop {shlex.quote(name)}",
        )


def _count_absent(column: int, values: npt.NDArray[Any], absent: npt.NDArray[np.bool_] | None) -> int:
    finite = np.isfinite(values)
    allowed = finite if absent is None else finite | absent
    if not allowed.all():
        raise CellError(column, int(np.argmin(allowed)), "not a finite 32-bit number")
    return len(values) - int(finite.sum())


def _arrow() -> tuple[Any, Any]:
    return optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")


def trimmed(array: Array, missing: Sequence[str]) -> Array:
    """Text without blanks around it, null if it is empty or one of the words `missing`."""
    pa, pc = _arrow()
    array = pc.utf8_trim_whitespace(array)
    absent = pc.is_in(array, value_set=pa.array(["", *missing], array.type))
    return pc.if_else(absent, pa.scalar(None, array.type), array)


def _encoded(array: Array) -> Array:
    pa, pc = _arrow()
    return array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)


def _with_booleans_as_numbers(array: Array) -> Array:
    """Text with 1 for True and 0 for False, in any case, if every other cell is 0 or 1."""
    _, pc = _arrow()
    words = pc.utf8_lower(array)
    if not pc.any(pc.equal(words, "true")).as_py() and not pc.any(pc.equal(words, "false")).as_py():
        return array
    words = pc.replace_substring_regex(pc.replace_substring_regex(words, "^true$", "1"), "^false$", "0")
    return words if pc.all(pc.match_substring_regex(words, r"^[01](\.0*)?$")).as_py() else array


def _parses(array: Array) -> bool:
    pa, pc = _arrow()
    try:
        pc.cast(array, pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _first_unparsed(array: Array) -> int:
    """The index of the first cell that is no number, by halving: a slice parses or it does not."""
    start, stop = 0, len(array)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _parses(array.slice(start, middle - start)):
            start = middle
        else:
            stop = middle
    return start


def is_number(word: str) -> bool:
    """True if Python reads the word as a number, NaN and infinity among them."""
    try:
        float(word)
    except ValueError:
        return False
    return True
