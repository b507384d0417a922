"""New rows of any source as blocks of raw examples: tables stream, arrays and pictures come in slices."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from flctl.component import Catalogue
from flctl.data.dataset import DatasetReader, Examples
from flctl.data.encoding import TableEncoder, Tally, Unseen
from flctl.data.options import TabularOptions
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.readers.images import ImageFolderReader, holds_pictures
from flctl.data.sources import find_reader
from flctl.data.table import TableReader
from flctl.errors import ConfigError, DataError, IncompatibleError
from flctl.prediction.predictor import require_inputs

__all__ = ["NewRows", "RowBlock", "RowOptions", "is_table", "new_rows", "reader_for", "spooled"]

PIPE = "-"
VALUES = 1 << 22
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\x1f\x8b": ".csv.gz", b"PK\x03\x04": ".npz"}
_OF_TRAINING = frozenset(TabularOptions.model_fields)
"""Options that describe the training table's columns; the fitted preprocessing says what became of them."""
_OF_FILES = frozenset({"more", "test", "splits", "by"})
"""Options that name further files or columns of the training source."""


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Options for reading new rows. `reader_options` win over those that the training source was read with."""

    reader: str | None = None
    reader_options: Mapping[str, str] = field(default_factory=dict)
    unseen: Unseen = "zeros"
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows in order: the number of the first, x [n, *shape] before standardisation, and columns to write beside the
    predictions (`file` of pictures, those of `--keep`)."""

    first: int
    x: npt.NDArray[Any]
    words: Mapping[str, Sequence[str | None]]


@dataclass(frozen=True, slots=True)
class NewRows:
    """Rows to predict: `columns` are the names in each block's `words`; `tally` grows while `blocks` are read."""

    columns: tuple[str, ...]
    blocks: Iterator[RowBlock]
    tally: Tally


def new_rows(source: str, fitted: FittedPreprocessing, options: RowOptions, registry: Catalogue) -> NewRows:
    """The rows of `source` for a model with the preprocessing `fitted`.

    Raises IncompatibleError if the rows do not fit the model, DataError for a source that cannot be read.
    """
    reader = reader_for(source, fitted, options, registry)
    if is_table(reader, fitted):
        encoder = TableEncoder(_named(fitted, source), reader.open_new(source), options.unseen, options.keep)
        blocks = (RowBlock(part.first, part.x, part.words) for part in encoder.blocks())
        return NewRows(options.keep, blocks, encoder.tally)
    if options.keep:
        raise ConfigError(f"--keep {','.join(options.keep)}: {source} has no named columns")
    examples = reader.read_examples(source, fitted)
    _refuse_other(examples.x, fitted, source)
    tally = Tally()
    return NewRows(("file",) if examples.names else (), _slices(examples, tally), tally)


def is_table(reader: DatasetReader, fitted: FittedPreprocessing) -> TypeGuard[TableReader]:
    """True if the rows are a table for the model, and not pictures in one."""
    return isinstance(reader, TableReader) and (fitted.is_table or fitted.inputs is not None)


def _named(fitted: FittedPreprocessing, source: str) -> Any:
    require_inputs(fitted, source)
    return fitted.inputs


def reader_for(source: str, fitted: FittedPreprocessing, options: RowOptions, registry: Catalogue) -> DatasetReader:
    """The reader of new rows, with the training reader's options if it is the same one."""
    name = options.reader
    if name is None and len(fitted.shape) == 3 and holds_pictures(Path(source)):
        name = ImageFolderReader.name
    kind = find_reader(source, name, registry)
    own = fitted.options if kind.name == fitted.reader else {}
    dropped = _OF_TRAINING if fitted.is_table else _OF_FILES
    known = {key: value for key, value in own.items() if key not in dropped and key in kind.Config.model_fields}
    given: dict[str, Any] = {**known, **options.reader_options}
    if issubclass(kind, TableReader) and fitted.inputs is not None:
        given["features"] = [column.name for column in fitted.inputs.columns]
    for key in options.reader_options:
        if key not in kind.Config.model_fields:
            raise ConfigError(
                f"--reader-option {key}: the {kind.name} reader has no such option",
                hint=f"It has {', '.join(kind.Config.model_fields) or 'no options'}.",
            )
    try:
        return kind.from_options(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = ".".join(map(str, first["loc"]))
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ConfigError(f"--reader-option {option}={first['input']}: {message}") from error


def _refuse_other(x: npt.NDArray[Any], fitted: FittedPreprocessing, source: str) -> None:
    if x.shape[1:] != fitted.shape:
        raise IncompatibleError(
            f"{source}: an example has shape {list(x.shape[1:])}, the model needs {list(fitted.shape)}"
        )
    if fitted.dtype == "|u1" and x.dtype != np.uint8:
        raise IncompatibleError(
            f"{source} has {x.dtype}, and the model was trained on bytes (0 to 255)",
            hint="Save the pixels as they are, dtype uint8.",
        )


def _slices(examples: Examples, tally: Tally) -> Iterator[RowBlock]:
    x = examples.x
    step = max(1, VALUES // max(1, int(np.prod(x.shape[1:]))))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        tally.rows += len(part)
        names = examples.names[start : start + step]
        yield RowBlock(start, part, {"file": names} if names else {})


@contextmanager
def spooled(source: str) -> Iterator[str]:
    """`source`, or for "-" a temporary file with all of standard input, which only this user may read.

    Formats are told apart by their first bytes, and tables are read more than once, so a pipe is kept on disk.
    """
    if source != PIPE:
        yield source
        return
    stream: BinaryIO = sys.stdin.buffer
    start = stream.read(8)
    if not start:
        raise DataError("standard input is empty", hint="Pipe rows in: cat new.csv | flctl predict RUN -")
    suffix = next((ending for magic, ending in MAGIC.items() if start.startswith(magic)), ".csv")
    with tempfile.TemporaryDirectory(prefix="flctl-") as folder:
        path = Path(folder, f"standard-input{suffix}")
        with path.open("xb") as file:
            file.write(start)
            shutil.copyfileobj(stream, file, 1 << 20)
        yield str(path)
