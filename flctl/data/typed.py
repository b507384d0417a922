"""Typed tables: columns of Parquet, Arrow and JSON as numbers and words, nested ones spread out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flctl.data.columns import CellError, is_number
from flctl.data.extras import optional
from flctl.data.options import as_option
from flctl.data.schema import ColumnPlan, Declared
from flctl.data.sheets import Batch
from flctl.errors import DataError, FlctlError, counted

__all__ = ["TypedColumn", "TypedFile", "TypedSheets", "columns_of"]

MOST_ELEMENTS = 100_000
"""Elements of a list beyond which it is no vector of features."""


_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
"""First bytes of PNG, JPEG and GIF."""


class TypedFile(Protocol):
    """A file of typed columns."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def schema(self) -> Any:
        """Its Arrow schema."""

    def batches(self, names: Sequence[str]) -> Iterator[Any]:
        """Record batches of the named columns, in that order."""


@dataclass(frozen=True, slots=True)
class TypedColumn:
    """A column as it is named: the column `source` of the file, or a part of it. `path` are fields of structs and
    positions in lists, `kind` is the Arrow type of what lies there, `width` the length of the list. `is_picture`: it
    holds encoded pictures, as bytes or as a struct with `bytes`."""

    name: str
    source: str
    kind: Any
    path: tuple[str | int, ...] = ()
    width: int = 0
    is_picture: bool = False

    @property
    def is_number(self) -> bool:
        """True for numbers."""
        types, kind = _types(), self.kind
        known = (types.is_integer, types.is_floating, types.is_decimal, types.is_null)
        return any(is_kind(kind) for is_kind in known)

    @property
    def is_text(self) -> bool:
        """True for text, which may hold numbers."""
        types, kind = _types(), _value_type(self.kind)
        known = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
        return any(getattr(types, name)(kind) for name in known if hasattr(types, name))

    @property
    def is_feature(self) -> bool:
        """True if it can be a feature without being a category."""
        return self.is_number or self.is_text or _types().is_boolean(self.kind) or is_time(self.kind)


def columns_of(file: TypedFile) -> tuple[TypedColumn, ...]:
    """The columns of a file: structs as `name.field`, lists of numbers of one length as `name[0]`, `name[1]` ..."""
    return tuple(column for field in file.schema for column in _spread(file, field.name, field.name, field.type, ()))


def _spread(file: TypedFile, name: str, source: str, kind: Any, path: tuple[str | int, ...]) -> Iterator[TypedColumn]:
    types = _types()
    whole = TypedColumn(name, source, kind, path, is_picture=_holds_pictures(file, source, kind, path))
    if types.is_struct(kind) and not whole.is_picture and kind.num_fields:
        for field in kind:
            yield from _spread(file, f"{name}.{field.name}", source, field.type, (*path, field.name))
        return
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    element = kind.value_type if lists else None
    if not lists or not (types.is_integer(element) or types.is_floating(element) or types.is_boolean(element)):
        yield whole
        return
    width = kind.list_size if types.is_fixed_size_list(kind) else _first_length(file, source, path)
    if not 0 < width <= MOST_ELEMENTS:
        yield whole
        return
    for position in range(width):
        yield TypedColumn(f"{name}[{position}]", source, element, (*path, position), width)


def _first_length(file: TypedFile, source: str, path: tuple[str | int, ...]) -> int:
    first = _first_value(file, source, path)
    return 0 if first is None else len(first)


def _holds_pictures(file: TypedFile, source: str, kind: Any, path: tuple[str | int, ...]) -> bool:
    types = _types()
    if types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    first = _first_value(file, source, path) if types.is_binary(kind) or types.is_large_binary(kind) else None
    return first is not None and (first.startswith(_PICTURES) or (first[:4] == b"RIFF" and first[8:12] == b"WEBP"))


def _first_value(file: TypedFile, source: str, path: tuple[str | int, ...]) -> Any:
    """The first value of a column that is not null; None if all are null."""
    for batch in file.batches([source]):
        known = _compute().drop_null(_inside(batch.column(0), path))
        if len(known):
            return known[0].as_py()
    return None


@dataclass(frozen=True, slots=True)
class TypedSheets:
    """Typed tables of one schema, opened."""

    files: tuple[TypedFile, ...]
    columns: tuple[TypedColumn, ...]
    declared: Declared
    missing: tuple[str, ...] = ()
    advice: str = ""

    @property
    def where(self) -> str:
        """The table's name in messages."""
        others = f" and {counted(len(self.files) - 1, 'more file')}" if len(self.files) > 1 else ""
        return self.files[0].path.name + others

    @property
    def names(self) -> Sequence[str]:
        """The columns' names."""
        return [column.name for column in self.columns]

    def batches(self, plan: ColumnPlan, *, as_text: bool) -> Iterator[Batch]:
        """The planned columns; they are typed, so `as_text` changes nothing."""
        planned = sorted({*plan.features, *plan.texts})
        words = self._words(plan)
        sources = list(dict.fromkeys(self.columns[c].source for c in planned))
        first = 0
        for position, file in enumerate(self.files):
            for batch in file.batches(sources):
                arrays = dict(zip(sources, batch.columns, strict=True))
                self._refuse_other_lengths(planned, arrays, first)
                yield Batch({c: self._cells(c, arrays, word=c in words) for c in planned}, position)
                first += batch.num_rows

    def _cells(self, index: int, arrays: Mapping[str, Any], *, word: bool) -> Any:
        column = self.columns[index]
        array = _inside(arrays[column.source], column.path)
        if column.is_picture:
            return array
        array = as_word(array) if word or column.is_text else _without_nan(array)
        return array if word or not column.is_number else _without_words(array, self.missing)

    def _refuse_other_lengths(self, planned: Sequence[int], arrays: Mapping[str, Any], first: int) -> None:
        compute, seen = _compute(), set()
        for index in planned:
            column = self.columns[index]
            if not column.width or (column.source, column.path[:-1]) in seen:
                continue
            seen.add((column.source, column.path[:-1]))
            lengths = compute.list_value_length(_inside(arrays[column.source], column.path[:-1]))
            wrong = compute.fill_null(compute.not_equal(lengths, column.width), False)
            if (row := compute.index(wrong, True).as_py()) >= 0:
                found = f"in a list of {lengths[row].as_py()} values, where the first has {column.width}"
                raise CellError(index, first + row, found)

    def explain(self, fault: CellError) -> FlctlError:
        """The sentence for a cell, with its row (from 0) and column."""
        name, column = self.names[fault.column], self.columns[fault.column]
        hint = f"Cut or pad the list, or --drop {as_option([column.source])}" if column.width else fault.advice(name)
        return DataError(f"{self.where}, row {fault.row}, column '{name}': a cell is {fault.reason}", hint=hint)

    def _words(self, plan: ColumnPlan) -> frozenset[int]:
        """The columns to read as text. Raises DataError for nested types, which are neither numbers nor text."""
        words = frozenset((*plan.categorical, *plan.by))
        if plan.target is not None and not self.columns[plan.target].is_number:
            words |= {plan.target}
        wrong = [c for c in sorted({*plan.features, *words}) if not self._is_readable(c)]
        if wrong:
            column = self.columns[wrong[0]]
            listed = as_option(self.columns[c].name for c in wrong)
            raise DataError(
                f"{self.where}: column '{column.name}' has type {column.kind}, neither numbers nor text",
                hint=f"Leave {'it' if len(wrong) == 1 else 'such columns'} out: --drop {listed}",
            )
        return words

    def _is_readable(self, index: int) -> bool:
        return self.columns[index].is_feature or self.columns[index].is_picture


def is_time(kind: Any) -> bool:
    """True for points in time, times of day and durations."""
    types = _types()
    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_duration(kind) or types.is_time(kind))


def as_word(array: Any) -> Any:
    """A column as text; whole numbers without a fraction, times as ISO 8601."""
    pa, pc = _arrow(), _compute()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_decimal(array.type):
        array = pc.cast(array, pa.float64())
    try:
        return pc.cast(array if is_time(array.type) else _without_nan(array), pa.string())
    except pa.ArrowInvalid as error:
        raise DataError(f"a column of type {array.type} holds bytes that are no UTF-8 text: {error}") from error


def _inside(array: Any, path: Sequence[str | int]) -> Any:
    compute = _compute()
    for step in path:
        array = compute.list_element(array, step) if isinstance(step, int) else compute.struct_field(array, step)
    return array


def _seconds(array: Any) -> Any:
    """Times as seconds since 1970, times of day as seconds since midnight, and durations as seconds."""
    pa, pc = _arrow(), _compute()
    if pa.types.is_date(array.type):
        array = pc.cast(array, pa.timestamp("s"))
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[array.type.unit]
    if pa.types.is_time32(array.type):
        array = pc.cast(array, pa.int32())
    whole = array.view(pa.int64()) if pa.types.is_duration(array.type) else array
    return pc.divide(pc.cast(pc.cast(whole, pa.int64()), pa.float64(), safe=False), float(per_second))


def _without_nan(array: Any) -> Any:
    """NaN as null: a typed table has no other way to say that a number is missing."""
    pa, pc = _arrow(), _compute()
    if is_time(array.type):
        return _seconds(array)
    if pa.types.is_null(array.type):
        return pc.cast(array, pa.float64())
    if not pa.types.is_floating(array.type):
        return array
    array = pc.cast(array, pa.float64())
    return pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)


def _without_words(array: Any, missing: Sequence[str]) -> Any:
    """Numbers with null for those that `missing` names, such as -999."""
    pa, pc = _arrow(), _compute()
    values = [float(word) for word in missing if is_number(word)]
    if not values:
        return array
    numbers = pc.cast(array, pa.float64(), safe=False)
    return pc.if_else(pc.is_in(numbers, value_set=pa.array(values)), pa.scalar(None, pa.float64()), numbers)


def _value_type(kind: Any) -> Any:
    return kind.value_type if _types().is_dictionary(kind) else kind


def _arrow() -> Any:
    return optional("pyarrow", "pyarrow", "tables")


def _types() -> Any:
    return _arrow().types


def _compute() -> Any:
    return optional("pyarrow.compute", "pyarrow", "tables")
