"""Encoded pictures in a column of a typed table, as Hugging Face stores them: {bytes, path}."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flctl.data.columns import MISSING, CellError, Levels, TargetColumn, is_missing
from flctl.data.dataset import Dataset, Split, divided
from flctl.data.extras import optional
from flctl.data.pictures import ImageForm, common_form, decode, header_of, pixels_text
from flctl.data.preprocessing import ABSENT, FittedPreprocessing
from flctl.data.schema import ColumnPlan
from flctl.data.sheets import Located
from flctl.data.splits import SplitName
from flctl.data.targets import Target
from flctl.data.typed import TypedSheets
from flctl.errors import DataError

__all__ = ["new_pictures", "picture_column", "read_pictures"]


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """The bytes of one picture; `shown` names it in messages."""

    shown: str
    content: bytes

    def open(self) -> IO[bytes]:
        """The bytes as a stream."""
        return io.BytesIO(self.content)


def picture_column(sheets: Located, columns: Iterable[int]) -> int | None:
    """The first of the columns that holds pictures; None if none does."""
    typed = sheets.sheets
    if not isinstance(typed, TypedSheets):
        return None
    return next((c for c in columns if c < len(typed.columns) and typed.columns[c].is_picture), None)


def read_pictures(sheets: Located, plan: ColumnPlan, picture: int, name: str, options: Any) -> Dataset:
    """x uint8 [n, channels, height, width] of the picture column, y codes of its label, rows without one left out."""
    target = TargetColumn(plan.target or 0, sheets.missing)
    groups = {c: Levels(c, sheets.missing) for c in plan.by}
    pictures: list[StoredPicture] = []
    parts: list[SplitName] = []
    used = replace(plan, features=(picture,), categorical=())
    for batch in sheets.batches(used, as_text=False):
        labels = batch.columns[target.column]
        kept = ~is_missing(labels, sheets.missing)
        keep = optional("pyarrow", "pyarrow", "tables").array(kept)
        rows = np.flatnonzero(kept) + len(parts)
        try:
            target.add(labels.filter(keep), rows)
        except CellError as fault:
            raise sheets.explain(fault) from fault
        for column, levels in groups.items():
            levels.add(batch.columns[column].filter(keep))
        pictures += _pictures(sheets, picture, batch.columns[picture].filter(keep), len(pictures))
        parts += [sheets.files[batch.file].part] * int(kept.sum())
    if not pictures:
        raise DataError(f"{sheets.where} has no pictures with a target")
    form, notes = common_form(pictures, options.image_size, options.channels, "--image-size")
    found = target.finish("classification" if options.task == "auto" else options.task, plan.names[target.column])
    found = _named(found, sheets, target.column)
    words = {plan.names[c]: _words(levels) for c, levels in groups.items()}
    others = [plan.names[c] for c in plan.features if c != picture]
    left_out = [f"beside pictures, columns are left out: {', '.join(others)}"] if others else []
    train, test, validation = divided(
        Split(decode(pictures, form), found.y, words), parts.count("train"), parts.count("test")
    )
    return Dataset(
        name,
        found.task,
        train.x,
        train.y,
        found.classes,
        groups=train.groups,
        test=test,
        validation=validation,
        notes=(*plan.notes, *notes, *left_out),
    )


def new_pictures(sheets: Located, picture: int, fitted: FittedPreprocessing, *, resize: bool) -> npt.NDArray[np.uint8]:
    """The pictures of new rows in the form of the training pictures. Raises DataError for another size."""
    plan = ColumnPlan(tuple(sheets.names), None, (picture,), (), ())
    found: list[StoredPicture] = []
    for batch in sheets.batches(plan, as_text=False):
        found += _pictures(sheets, picture, batch.columns[picture], len(found))
    form = ImageForm(*fitted.shape)
    for one in found if not resize else ():
        if (size := header_of(one).size) != (form.height, form.width):
            raise DataError(
                f"{one.shown} is {pixels_text(size)}, and training pictures were {form.height}x{form.width}",
                hint=f"--reader-option image_size={form.height}x{form.width} resizes all.",
            )
    return decode(found, form)


def _pictures(sheets: Located, column: int, array: Any, first: int) -> list[StoredPicture]:
    types, compute = (optional(name, "pyarrow", "tables") for name in ("pyarrow.types", "pyarrow.compute"))
    contents = (compute.struct_field(array, "bytes") if types.is_struct(array.type) else array).to_pylist()
    shown = f"{sheets.where}, column '{sheets.names[column]}', picture"
    for row, content in enumerate(contents, first):
        if content is None:
            raise DataError(f"{shown} {row} has no bytes", hint="Store the pictures in the table, not paths of files.")
    return [StoredPicture(f"{shown} {row}", content) for row, content in enumerate(contents, first)]


def _words(levels: Levels) -> npt.NDArray[np.str_]:
    names = [*levels.names, ABSENT] if (levels.codes == MISSING).any() else levels.names
    return np.array(names)[levels.codes]


def _named(target: Target, sheets: Located, column: int) -> Target:
    """Labels with the class names that Hugging Face's metadata give them."""
    typed = sheets.sheets
    names = _class_names(typed, column) if isinstance(typed, TypedSheets) else []
    if not all(name.isdecimal() and int(name) < len(names) for name in target.classes):
        return target
    return replace(target, classes=tuple(names[int(name)] for name in target.classes))


def _class_names(sheets: TypedSheets, column: int) -> Sequence[str]:
    try:
        stored = json.loads((sheets.files[0].schema.metadata or {}).get(b"huggingface", b"{}"))
        names = stored["info"]["features"][sheets.columns[column].source]["names"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return []
    return names if isinstance(names, list) and len(set(map(str, names))) == len(names) else []
