"""The write side of the partition store: a data set and a scheme become packed columns, whole or not at all.

Rows stream to disk in chunks, so that nothing of the size of the data is held beside the data itself.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl import atomic, seeds
from flctl.data.dataset import Dataset, Split
from flctl.data.preprocessing import InputColumn, Inputs, Standardisation
from flctl.errors import ConfigError, DataError, PluginError, counted
from flctl.partition import manifest as manifests
from flctl.partition.impute import imputed
from flctl.partition.manifest import Column, DatasetInfo, Manifest, RowCounts
from flctl.partition.npy import ColumnWriter, write_column
from flctl.partition.own_tests import group_of, incomplete, own_tests
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.preprocess import Standardise, Statistics, kind_of
from flctl.partition.split import Drawn, Mode, SplitPlan, hold_back, plan, plan_own
from flctl.partition.store import Partition
from flctl.types import Batch, IntArray
from flctl.version import __version__

__all__ = ["PartitionOrigin", "PartitionSpec", "dataset_digest", "rows_of", "write_partition"]

CHUNK_BYTES = 4 << 20
Y_TYPES = {"regression": ("<f4", "<f8"), "next-character": ("<i4",)}


@dataclass(frozen=True, slots=True)
class PartitionOrigin:
    """Origin of a data set for the manifest: a source and the reader's options."""

    source: str = ""
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """Everything but the data set and the scheme that decides the bytes of a partition.

    `by` names the groups of the data set that a natural scheme uses. `test_fraction` of each client's rows is held out
    for testing (see `split.test_counts`): its last rows if the data set is in order of time, else random ones. A client
    with test rows of its own in the source (`own_tests`) has exactly these. `validation_fraction` of the training rows
    that are left is held back in the same way. `standardisation` are constants in place of statistics of the rows.
    """

    clients: int | None
    test_fraction: float
    seed: int
    standardise: Standardise = "auto"
    by: str | Sequence[str] | None = None
    test_split: Literal["auto", "random", "last"] = "auto"
    validation_fraction: float = 0.0
    origin: PartitionOrigin = PartitionOrigin()
    standardisation: Standardisation | None = None

    @property
    def names(self) -> list[str]:
        """The groups that `by` names."""
        return [self.by] if isinstance(self.by, str) else list(self.by or ())

    def choice(self, dataset: Dataset) -> Drawn:
        """Returns the choice of held-out rows, with "auto" resolved for a data set."""
        if self.test_split != "auto":
            return self.test_split
        return "last" if dataset.time_ordered else "random"

    def rng(self, purpose: str) -> np.random.Generator:
        """Returns the random numbers for a step: assign, test or validation."""
        return seeds.rng(self.seed, "partition", purpose)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Stored rows that follow each other: values, and for each its client and whether it is for training."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    client: IntArray
    train: npt.NDArray[np.bool_]


def write_partition(out: Path, dataset: Dataset, partitioner: Partitioner, spec: PartitionSpec) -> Partition:
    """Partitions `dataset` by `partitioner` into the new directory `out`, and opens it. Equal arguments give equal
    bytes.

    Raises ConfigError for invalid arguments or an `out` that exists, DataError for an impossible request, StorageError
    if `out` cannot be written; then nothing is left there.
    """
    _check_request(out, dataset, spec)
    kind = "none" if spec.standardisation else kind_of(dataset, spec.standardise)
    assignment = partitioner.assign(rows_of(dataset, spec.by), spec.clients, spec.rng("assign"))
    given, (dataset, mode, planned) = dataset, _planned(dataset, assignment, spec)
    with atomic.new_directory(out) as directory:
        statistics = Statistics(dataset, kind)
        columns = _write_columns(directory, dataset, planned, partitioner, spec.seed, statistics)
        manifest = Manifest(
            format=manifests.FORMAT,
            flctl=__version__,
            dataset=_describe(given if mode == "own" else dataset, spec.origin),
            scheme=_scheme(partitioner, spec.by),
            seed=spec.seed,
            clients=assignment.clients,
            test_fraction=spec.test_fraction,
            test_split=mode,
            rows=_row_counts(dataset, planned),
            preprocess=spec.standardisation or statistics.result(),
            central_test="clients" if dataset.test is None else "own",
            columns=columns,
            inputs=_inputs(dataset),
            validation_fraction=spec.validation_fraction,
        )
        (directory / manifests.MANIFEST).write_bytes(manifests.serialise(manifest))
    return Partition.open(out)


def _planned(dataset: Dataset, assignment: Assignment, spec: PartitionSpec) -> tuple[Dataset, Mode, SplitPlan]:
    """Returns the data set with its clients' own test rows, if it has any, the choice of test rows, and the stored
    order."""
    choice = spec.choice(dataset)
    own = own_tests(dataset, assignment, spec.names)
    if own is not None:
        dataset, planned = own.dataset, plan_own(own.assignment, len(own.dataset), own.trained)
    else:
        planned = plan(assignment, len(dataset), spec.test_fraction, choice, spec.rng("test"))
    if spec.validation_fraction:
        planned = hold_back(planned, spec.validation_fraction, choice, spec.rng("validation"))
    return imputed(dataset, planned), "own" if own else choice, planned


def _check_request(out: Path, dataset: Dataset, spec: PartitionSpec) -> None:
    atomic.refuse_existing(out)
    _check_validation_fraction(spec.validation_fraction)
    clients = spec.clients
    if not 0 <= spec.test_fraction <= 1:
        raise ConfigError(
            f"--test-fraction is {spec.test_fraction}; it must be between 0 and 1",
            hint="Use for example --test-fraction 0.2.",
        )
    if clients is not None and clients < 1:
        raise ConfigError(f"--clients is {clients}; it must be at least 1")
    if not len(dataset):
        raise DataError(f"'{dataset.name}' has no rows")
    if clients is not None and clients > len(dataset):
        raise DataError(
            f"--clients {clients} is more than the {counted(len(dataset), 'row')} of '{dataset.name}'",
            hint=f"Use at most --clients {len(dataset)}.",
        )
    _check_types(dataset)


def _check_validation_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"--validation-fraction is {fraction}; it must be at least 0 and below 1",
            hint="Use for example --validation-fraction 0.1.",
        )


def _check_types(dataset: Dataset) -> None:
    """Raises PluginError for a reader that breaks its contract, before its rows are used."""
    x_types = ("<u1", "<i4", "<i8") if dataset.task == "next-character" else ("<u1", "<f4")
    y_types = [np.dtype(name) for name in Y_TYPES.get(dataset.task, ("<i8",))]
    parts = [Split(dataset.x, dataset.y), *filter(None, (dataset.test, dataset.validation))]
    for part in parts:
        if part.x.dtype not in [np.dtype(name) for name in x_types] or part.y.dtype not in y_types:
            raise PluginError(f"the reader of '{dataset.name}' returned x {part.x.dtype} and y {part.y.dtype}")
        if part.x.shape[1:] != dataset.x.shape[1:] or len(part.x) != len(part.y):
            raise PluginError(f"the reader of '{dataset.name}' returned x {part.x.shape} with y {part.y.shape}")
        _check_codes(dataset, part)
    _check_names(dataset)


def _check_codes(dataset: Dataset, part: Split) -> None:
    if dataset.task == "regression" or not part.y.size:
        return
    least, classes = -1 if dataset.task == "next-character" else 0, len(dataset.classes)
    if int(part.y.min()) < least or int(part.y.max()) >= classes:
        raise PluginError(
            f"the reader of '{dataset.name}' returned y with codes outside its {counted(classes, 'class', 'classes')}"
        )


def _check_names(dataset: Dataset) -> None:
    shape = dataset.x.shape[1:]
    table = len(shape) == 1 and dataset.task != "next-character"
    if table and dataset.features and len(dataset.features) != shape[0]:
        raise PluginError(
            f"the reader of '{dataset.name}' named {len(dataset.features)} of {counted(shape[0], 'feature')}"
        )
    if dataset.numeric and not 0 <= min(dataset.numeric) <= max(dataset.numeric) < math.prod(shape):
        raise PluginError(f"the reader of '{dataset.name}' returned numeric features that do not exist")
    if dataset.task == "binary" and len(dataset.classes) != 2:
        raise PluginError(
            f"the reader of '{dataset.name}' returned {counted(len(dataset.classes), 'class', 'classes')} for a "
            "binary task"
        )
    if dataset.inputs is not None and dataset.inputs.features != tuple(dataset.features):
        raise PluginError(f"the reader of '{dataset.name}' describes inputs that differ from its features")


def rows_of(dataset: Dataset, by: str | Sequence[str] | None = None) -> Rows:
    """Input of a scheme. Without `by`, a data set with one group column offers that one."""
    labelled = dataset.task in ("classification", "binary")
    names = [by] if isinstance(by, str) else list(by or ())
    return Rows(
        count=len(dataset),
        target=dataset.y,
        labels=dataset.y if labelled else None,
        classes=dataset.classes,
        group=group_of(dataset, names),
        x=dataset.x,
        numeric=dataset.numeric,
        incomplete=incomplete(dataset, names),
    )


def _write_columns(
    directory: Path, dataset: Dataset, planned: SplitPlan, partitioner: Partitioner, seed: int, statistics: Statistics
) -> dict[str, Column]:
    rows = len(planned.order)
    with ExitStack() as stack:
        x = stack.enter_context(ColumnWriter(directory / "x.npy", dataset.x.dtype, rows, dataset.x.shape[1:]))
        y = stack.enter_context(ColumnWriter(directory / "y.npy", dataset.y.dtype, rows, dataset.y.shape[1:]))
        for chunk in _chunks(dataset, planned, partitioner, seed):
            x.write(chunk.x)
            y.write(chunk.y)
            statistics.add(chunk.x[chunk.train], chunk.y[chunk.train], chunk.client[chunk.train])
    small = {"bounds": planned.bounds, "client_ids": planned.client_ids, "source_row": planned.order}
    if dataset.test is not None:
        small |= {"test_x": dataset.test.x, "test_y": dataset.test.y}
    if planned.validation_bounds is not None or dataset.validation is not None:
        small |= _validation_columns(dataset, planned, partitioner, seed)
    written = {name: write_column(directory / f"{name}.npy", array) for name, array in small.items()}
    return {"x": x.column, "y": y.column, **written}


def _validation_columns(
    dataset: Dataset, planned: SplitPlan, partitioner: Partitioner, seed: int
) -> dict[str, npt.NDArray[Any]]:
    """The rows that clients hold back, altered as training rows are, and after them the source's own."""
    bounds, rows = planned.validation_bounds, planned.validation
    if bounds is None:
        bounds = np.zeros(len(planned.bounds) + 1, np.int64)
    parts = [(dataset.x[rows], dataset.y[rows])]
    if type(partitioner).alter is not Partitioner.alter:
        parts = [
            _altered(dataset, rows[start:stop], partitioner, (client, len(planned.bounds)), seed, "validation")
            for client, (start, stop) in enumerate(pairwise(bounds.tolist()))
            if start < stop
        ]
    if dataset.validation is not None:
        parts.append((dataset.validation.x, dataset.validation.y))
    x, y = (np.concatenate([part[index] for part in parts]) for index in (0, 1))
    return {"validation_x": x, "validation_y": y, "validation_bounds": bounds, "validation_row": rows}


def _chunks(dataset: Dataset, planned: SplitPlan, partitioner: Partitioner, seed: int) -> Iterator[Chunk]:
    """The stored rows in order; a scheme that alters rows is asked client by client, others are not asked."""
    if type(partitioner).alter is Partitioner.alter:
        yield from _plain_chunks(dataset, planned)
    else:
        yield from _altered_chunks(dataset, planned, partitioner, seed)


def _plain_chunks(dataset: Dataset, planned: SplitPlan) -> Iterator[Chunk]:
    row_bytes = max(1, dataset.x[:1].nbytes + dataset.y[:1].nbytes)
    step = max(1, CHUNK_BYTES // row_bytes)
    starts, train_ends = planned.bounds[:, 0], planned.bounds[:, 1]
    for start in range(0, len(planned.order), step):
        rows = planned.order[start : start + step]
        stored = np.arange(start, start + len(rows))
        # The last client that starts at or before the row: empty clients start there too, but come before it.
        client = np.searchsorted(starts, stored, side="right") - 1
        yield Chunk(dataset.x[rows], dataset.y[rows], client, stored < train_ends[client])


def _altered_chunks(dataset: Dataset, planned: SplitPlan, partitioner: Partitioner, seed: int) -> Iterator[Chunk]:
    for client, (start, train_end, end) in enumerate(planned.bounds.tolist()):
        for name, first, last in (("train", start, train_end), ("test", train_end, end)):
            if first == last:
                continue
            rows = planned.order[first:last]
            if name == "train" or partitioner.alters_test:
                x, y = _altered(dataset, rows, partitioner, (client, len(planned.bounds)), seed, name)
            else:
                x, y = dataset.x[rows], dataset.y[rows]
            yield Chunk(x, y, np.full(len(rows), client), np.full(len(rows), name == "train"))


def _altered(
    dataset: Dataset, rows: IntArray, partitioner: Partitioner, client: tuple[int, int], seed: int, part: str
) -> Batch:
    """Rows of a part (train, validation, test) as the client (its index, the number of clients) sees them."""
    random = seeds.rng(seed, "partition", "alter", client[0], part)
    x, y = partitioner.alter(dataset.x[rows], dataset.y[rows], *client, random)
    _check_altered(partitioner, dataset, rows, x, y)
    return x, y


def _check_altered(
    partitioner: Partitioner,
    dataset: Dataset,
    rows: IntArray,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
) -> None:
    for name, before, after in (("x", dataset.x, x), ("y", dataset.y, y)):
        if after.dtype != before.dtype or after.shape != (len(rows), *before.shape[1:]):
            raise PluginError(
                f"scheme '{partitioner.name}' altered {name} to {after.dtype} {after.shape}; "
                f"{before.dtype} {(len(rows), *before.shape[1:])} was expected"
            )


def _row_counts(dataset: Dataset, planned: SplitPlan) -> RowCounts:
    train = int((planned.bounds[:, 1] - planned.bounds[:, 0]).sum())
    own = 0 if dataset.test is None else len(dataset.test.y)
    held_out, held_back = len(planned.order) - train, len(planned.validation)
    return RowCounts(
        train=train,
        test=held_out,
        central_test=held_out if dataset.test is None else own,
        left_out=planned.left_out,
        validation=held_back,
        central_validation=held_back if dataset.validation is None else len(dataset.validation.y),
    )


def _describe(dataset: Dataset, origin: PartitionOrigin) -> DatasetInfo:
    return DatasetInfo(
        name=dataset.name,
        task=dataset.task,
        source=Path(origin.source).name,
        digest=dataset_digest(dataset),
        classes=tuple(dataset.classes),
        features=tuple(dataset.features),
        shape=tuple(dataset.x.shape[1:]),
        numeric=None if dataset.numeric is None else tuple(int(index) for index in dataset.numeric),
        options=_without_paths(origin.options or {}),
    )


def _inputs(dataset: Dataset) -> Inputs | None:
    """The columns of a table; features that a reader named and did not describe are numbers."""
    if dataset.inputs is not None or not dataset.features:
        return dataset.inputs
    table = len(dataset.x.shape) == 2 and dataset.task != "next-character" and dataset.numeric is None
    return Inputs(tuple(InputColumn(name, "number") for name in dataset.features)) if table else None


def _without_paths(options: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values. An absolute path can hold a user's name, so only its last part is kept."""
    plain = json.loads(json.dumps(dict(options), default=str))
    return {key: _without_path(value) for key, value in plain.items()}


def _without_path(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_path(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _scheme(partitioner: Partitioner, by: str | Sequence[str] | None) -> dict[str, Any]:
    scheme = {"name": partitioner.name, **partitioner.config.model_dump(mode="json")}
    return scheme if by is None else {**scheme, "by": by if isinstance(by, str) else list(by)}


def dataset_digest(dataset: Dataset) -> str:
    """SHA-256 over the rows as they were read, in their order, with their types, classes and features."""
    parts = {"x": dataset.x, "y": dataset.y}
    if dataset.test is not None:
        parts |= {"test_x": dataset.test.x, "test_y": dataset.test.y}
    if dataset.validation is not None:
        parts |= {"validation_x": dataset.validation.x, "validation_y": dataset.validation.y}
    head = {name: [array.dtype.str, list(array.shape)] for name, array in parts.items()}
    meta = [dataset.task, list(dataset.classes), list(dataset.features), head]
    digest = hashlib.sha256(json.dumps(meta, separators=(",", ":")).encode())
    for array in parts.values():
        step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), step):
            digest.update(np.ascontiguousarray(array[start : start + step]).reshape(-1).view(np.uint8).data)
    return f"sha256:{digest.hexdigest()}"
