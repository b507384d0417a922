"""Labelled rows of a file for `flctl eval --data`: encoded as in training, and checked against training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl.component import Catalogue
from flctl.data.columns import is_number
from flctl.data.dataset import Dataset
from flctl.data.encoding import TableEncoder
from flctl.data.files import short_name
from flctl.data.made_columns import one_hot_target
from flctl.data.preprocessing import ABSENT, FittedPreprocessing
from flctl.data.table import TableReader
from flctl.errors import DataError, IncompatibleError, counted
from flctl.evaluation.subgroups import text_groups
from flctl.partition import manifest as manifests
from flctl.partition.align import align
from flctl.partition.duplicates import find_copies
from flctl.partition.manifest import Column, DatasetInfo, Manifest, RowCounts
from flctl.partition.store import Partition
from flctl.partition.writer import dataset_digest
from flctl.prediction.predictor import load_predictor, require_inputs
from flctl.prediction.rows import RowOptions, is_table, reader_for
from flctl.stored.load import LoadedModel, own_partition
from flctl.version import __version__

__all__ = ["LabelledRows", "TrainedRows", "from_rows"]

TrainedRows = Literal["refuse", "leave-out", "keep"]
MOST_COPIES = 0.1
"""Fraction of rows that may be exact copies of training rows before they are refused; discrete data has some."""
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _ArrayColumn:
    """A column in memory, read as a stored one is."""

    array: Array

    @property
    def rows(self) -> int:
        return len(self.array)

    def read(self, start: int, stop: int) -> Array:
        return self.array[start:stop].copy()

    def take(self, rows: Array, into: Array | None = None) -> Array:
        return np.take(self.array, rows, axis=0, out=into)


class LabelledRows(Partition):
    """Rows in memory as a partition of test rows alone; groups of rows are its clients. Made by `from_rows`."""

    def __init__(self, source: str, dataset: Dataset, fitted: FittedPreprocessing, group: Array) -> None:
        names, owner = np.unique(group, return_inverse=True)
        order = np.argsort(owner, kind="stable")
        ends = np.cumsum(np.bincount(owner, minlength=len(names)))
        starts = np.concatenate([[0], ends[:-1]])
        arrays = {
            "x": dataset.x[order],
            "y": dataset.y[order],
            "bounds": np.stack([starts, starts, ends], axis=1).astype(np.int64),
            "client_ids": names.astype(np.str_),
            "source_row": order.astype(np.int64),
        }
        manifest = _manifest(source, dataset, fitted, arrays)
        digest = manifests.digest_of(manifests.serialise(manifest))
        columns: Any = {name: _ArrayColumn(array) for name, array in arrays.items()}
        super().__init__(Path(source), manifest, digest, columns)

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("rows in memory cannot be sent to other processes")


def _manifest(source: str, dataset: Dataset, fitted: FittedPreprocessing, arrays: dict[str, Array]) -> Manifest:
    info = DatasetInfo(
        name=dataset.name,
        task=dataset.task,
        source=Path(source).name,
        digest=dataset_digest(dataset),
        classes=dataset.classes,
        features=dataset.features,
        shape=tuple(dataset.x.shape[1:]),
        numeric=None,
        options={},
    )
    return Manifest(
        format=manifests.FORMAT,
        flctl=__version__,
        dataset=info,
        scheme={"name": "none"},
        seed=0,
        clients=len(arrays["client_ids"]),
        test_fraction=0.0,
        test_split="random",
        rows=RowCounts(0, len(dataset), len(dataset), 0),
        preprocess=fitted.standardisation,
        central_test="clients",
        columns={name: _column(name, array) for name, array in arrays.items()},
    )


def _column(name: str, array: Array) -> Column:
    digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return Column(f"{name}.npy", array.dtype.str, array.shape, digest)


def from_rows(
    run: Path, checkpoint: str, source: Path, options: RowOptions, trained: TrainedRows, registry: Catalogue
) -> LoadedModel:
    """The model of a run with the labelled rows of a file, encoded by the run's preprocessing.

    Raises IncompatibleError if rows do not fit the model or it was trained on them (`trained` decides), DataError for
    rows that cannot be read.
    """
    predictor = load_predictor(run, checkpoint, None, registry)
    dataset, group = _read(str(source), predictor.fitted, options, registry)
    own = own_partition(predictor.config, predictor.directory)
    seen, same = _trained_rows(dataset, own)
    notes = (f"rows of {source} are encoded as the training rows were", *dataset.notes)
    if own is None:
        notes += ("the run's partition is missing, so rows that it was trained on cannot be detected",)
    if seen.any():
        dataset, group, note = _decided(dataset, group, seen, trained, f"{source}", same=same)
        notes += (note,)
    rows: Partition = LabelledRows(str(source), dataset, predictor.fitted, group)
    if dataset.classes != predictor.fitted.classes:
        rows = align(rows, _as_trained(predictor.fitted, rows.manifest))
    order = rows.column("source_row")
    return LoadedModel(
        name=predictor.name,
        round=predictor.round,
        model=predictor.model,
        partition=rows,
        batch_size=predictor.batch_size,
        notes=notes,
        positive=predictor.config.eval.positive,
        own=own,
        words={name: text_groups(words[order]) for name, words in dataset.groups.items()},
    )


def _as_trained(fitted: FittedPreprocessing, manifest: Manifest) -> Manifest:
    dataset = replace(manifest.dataset, task=fitted.task, shape=fitted.shape, classes=fitted.classes)
    return replace(manifest, dataset=dataset, preprocess=fitted.standardisation)


def _read(
    source: str, fitted: FittedPreprocessing, options: RowOptions, registry: Catalogue
) -> tuple[Dataset, npt.NDArray[np.str_]]:
    """The rows with their targets, and each one's group."""
    reader = reader_for(source, fitted, options, registry)
    if is_table(reader, fitted):
        return _read_table(source, reader, fitted, options)
    dataset = reader.read(source, 0)
    if dataset.task != fitted.task or dataset.x.shape[1:] != fitted.shape:
        found = f"{dataset.task} of shape {list(dataset.x.shape[1:])}"
        raise IncompatibleError(f"{source} is {found}; the model is for {fitted.task} of shape {list(fitted.shape)}")
    return replace(dataset, test=None), np.full(len(dataset), dataset.name)


def _read_table(
    source: str, reader: TableReader, fitted: FittedPreprocessing, options: RowOptions
) -> tuple[Dataset, npt.NDArray[np.str_]]:
    require_inputs(fitted, source)
    inputs, sheets = fitted.inputs, reader.open_new(source)
    if one_hot := one_hot_target(sheets, None if inputs is None else inputs.target):
        sheets = replace(sheets, computed=(one_hot,))
    if inputs is None or inputs.target is None or inputs.target not in sheets.names:
        target = None if inputs is None else inputs.target
        raise DataError(
            f"{sheets.where} has no target: the model predicts '{target}'",
            hint="Use `flctl predict` for rows without a target.",
        )
    by = tuple(name for name in _groups(fitted) if name in sheets.names)
    named = tuple(dict.fromkeys((inputs.target, *by, *options.keep)))
    encoder = TableEncoder(inputs, sheets, options.unseen, named)
    blocks = list(encoder.blocks())
    if not blocks:
        raise DataError(f"{sheets.where} has no rows")
    x = np.concatenate([block.x for block in blocks])
    words = {name: [word for block in blocks for word in block.words[name]] for name in named}
    kept = np.array([word is not None for word in words[inputs.target]], bool)
    y = _targets([word for word in words[inputs.target] if word is not None], fitted, inputs.target)
    group = _joined([words[name] for name in by], len(x), short_name(source))[kept]
    notes = encoder.tally.notes
    if not kept.all():
        notes += (f"{counted(int((~kept).sum()), 'row')} without '{inputs.target}' left out",)
    name = short_name(source)
    columns = {column: np.array([word or ABSENT for word in words[column]], np.str_)[kept] for column in options.keep}
    made = Dataset(name, fitted.task, x[kept], y, fitted.classes, fitted.features, groups=columns, notes=notes)
    return made, group


def _groups(fitted: FittedPreprocessing) -> tuple[str, ...]:
    by = fitted.options.get("by") or ()
    return tuple(by.split(",")) if isinstance(by, str) else tuple(map(str, by))


def _joined(columns: Sequence[Sequence[str | None]], rows: int, name: str) -> npt.NDArray[np.str_]:
    if not columns:
        return np.full(rows, name)
    return np.array([" / ".join(word or ABSENT for word in words) for words in zip(*columns, strict=True)])


def _targets(words: Sequence[str], fitted: FittedPreprocessing, target: str) -> Array:
    """Codes int64 [n] of class names, or numbers float32 [n]. Raises IncompatibleError for a class that training
    never had, DataError for a target that is no number."""
    if fitted.task == "regression":
        bad = next((word for word in words if not is_number(word)), None)
        if bad is not None:
            raise DataError(f"target '{target}': '{bad}' is not a number", hint="`--reader-option na=WORD` if missing.")
        return np.array([float(word) for word in words], np.float32)
    codes = {name: code for code, name in enumerate(fitted.classes)}
    named = [word if word in codes else _whole(word) for word in words]
    unknown = sorted({word for word in named if word not in codes})
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise IncompatibleError(f"target '{target}' has classes that training never had: {shown}")
    return np.array([codes[word] for word in named], np.int64)


def _whole(word: str) -> str:
    """`1.0` as `1`, the name that a class of whole numbers has."""
    if not is_number(word) or not float(word).is_integer():
        return word
    return str(int(float(word)))


def _trained_rows(dataset: Dataset, own: Partition | None) -> tuple[npt.NDArray[np.bool_], bool]:
    """(Rows that the model was trained on [n], True if the source is the training source itself)."""
    none = np.zeros(len(dataset), bool)
    if own is None or own.shape != dataset.x.shape[1:] or own.classes != dataset.classes:
        return none, False
    trained = _is_training(own)
    if dataset_digest(dataset) == own.manifest.dataset.digest:
        none[own.column("source_row")[trained]] = True
        return none, True
    x, y = own.column("x"), own.column("y")
    if x.dtype != dataset.x.dtype or y.dtype != dataset.y.dtype:
        return none, False
    members, group = find_copies([(x, y), (dataset.x, dataset.y)])
    in_own = members < len(y)
    of_training = np.zeros(int(group.max(initial=-1)) + 1, bool)
    of_training[group[in_own][trained[members[in_own]]]] = True
    none[members[~in_own & of_training[group]] - len(y)] = True
    return none, False


def _is_training(partition: Partition) -> npt.NDArray[np.bool_]:
    """True for each stored row that is one for training."""
    start, train_end, end = partition.bounds.T
    parts = np.stack([train_end - start, end - train_end], axis=1).ravel()
    return np.repeat(np.tile([True, False], partition.clients), parts)


def _decided(
    dataset: Dataset, group: Array, seen: npt.NDArray[np.bool_], trained: TrainedRows, source: str, *, same: bool
) -> tuple[Dataset, Array, str]:
    """The rows to evaluate after `--trained-rows`, and a note that says which they are."""
    count = int(seen.sum())
    found = "were trained on" if same else "are exact copies of rows that the model was trained on"
    sentence = f"{count:,} of {counted(len(seen), 'row')} {found}"
    if trained == "leave-out":
        if seen.all():
            raise DataError(f"{source}: all of {counted(count, 'row')} {found}", hint="Evaluate on other rows.")
        kept = ~seen
        columns = {name: words[kept] for name, words in dataset.groups.items()}
        left = replace(dataset, x=dataset.x[kept], y=dataset.y[kept], groups=columns)
        return left, group[kept], f"{sentence}; they are left out"
    if trained == "refuse" and (same or count > MOST_COPIES * len(seen)):
        raise IncompatibleError(
            f"{source}: {sentence}, and metrics on them would be too optimistic",
            hint="Use --trained-rows leave-out, or --trained-rows keep to evaluate on them as well.",
        )
    return dataset, group, f"{sentence}, and are included"
