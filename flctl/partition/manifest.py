"""Manifest of a partition: `manifest.json`, format "flctl-partition/1"."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flctl.data.preprocessing import FittedPreprocessing, Inputs, Standardisation
from flctl.errors import IntegrityError
from flctl.json_files import JsonFormat
from flctl.types import TaskKind

__all__ = [
    "FORMAT",
    "MANIFEST",
    "Column",
    "DatasetInfo",
    "Manifest",
    "RowCounts",
    "digest_of",
    "parse",
    "preprocessing_of",
    "serialise",
]

FORMAT = "flctl-partition/1"
MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20
_DESCRIBED = JsonFormat(FORMAT, "Partition the data again.", MAX_BYTES)
REQUIRED = frozenset({"x", "y", "bounds", "client_ids", "source_row"})
OWN_TEST = frozenset({"test_x", "test_y"})
VALIDATION = frozenset({"validation_x", "validation_y", "validation_bounds", "validation_row"})
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_X_TYPES = {"next-character": ("|u1", "<i4", "<i8")}
_Y_TYPES = {"regression": ("<f4", "<f8"), "next-character": ("<i4",)}


@dataclass(frozen=True, slots=True)
class Column:
    """One packed `.npy` file: its bare name, little-endian dtype, shape and SHA-256."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    file: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """The data set that was partitioned. `source` is a base name; `digest` is over the rows as they were read;
    `shape` is one example's; `numeric` are the features to standardise (None: all)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    name: str
    task: TaskKind
    source: str
    digest: str
    classes: tuple[str, ...]
    features: tuple[str, ...]
    shape: tuple[int, ...]
    numeric: tuple[int, ...] | None
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Rows of clients for training and for testing, of the source's own test part, and those without an owner.

    `validation` counts rows that clients hold back from training, `central_validation` the central validation rows: the
    source's own, or those of the clients together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    train: int
    test: int
    central_test: int
    left_out: int
    validation: int = 0
    central_validation: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a partition but its rows. `scheme` holds the scheme's name and parameters, `inputs` the
    columns of a table and their encoding: None for other data, and in partitions of versions that did not keep it;
    `validation_fraction` the share of each client's training rows that is held back for validation."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    format: str
    flctl: str
    dataset: DatasetInfo
    scheme: dict[str, Any]
    seed: int
    clients: int
    test_fraction: float
    test_split: Literal["random", "last", "own"]
    rows: RowCounts
    preprocess: Standardisation
    central_test: Literal["own", "clients"]
    columns: dict[str, Column]
    inputs: Inputs | None = None
    validation_fraction: float = 0.0

    @property
    def has_validation(self) -> bool:
        """True if it has the columns of validation rows."""
        return not VALIDATION.isdisjoint(self.columns)

    @property
    def own_validation(self) -> int:
        """Number of the source's own validation rows."""
        columns = self.columns
        return sum(columns["validation_x"].shape[:1]) - self.rows.validation if self.has_validation else 0


def preprocessing_of(manifest: Manifest) -> FittedPreprocessing:
    """Returns the preprocessing that the partition was fitted with, as runs and exported models keep it."""
    info, options = manifest.dataset, dict(manifest.dataset.options)
    return FittedPreprocessing(
        task=info.task,
        shape=info.shape,
        dtype=manifest.columns["x"].dtype,
        standardisation=manifest.preprocess,
        classes=info.classes,
        features=info.features,
        inputs=manifest.inputs,
        reader=str(options.pop("reader", "")),
        options=options,
    )


def digest_of(serialised: bytes) -> str:
    """Returns the digest of a partition: that of its serialised manifest, which holds the digest of each column."""
    return f"sha256:{hashlib.sha256(serialised).hexdigest()}"


def serialise(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`: the same for equal manifests.

    Keys of validation rows are left out without such rows, so that the digests of these partitions stay as they were.
    """
    tree = asdict(manifest)
    if not manifest.has_validation:
        del tree["validation_fraction"], tree["rows"]["validation"], tree["rows"]["central_validation"]
    return (json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse(data: bytes) -> Manifest:
    """The manifest that `data` holds, checked against itself.

    Raises IntegrityError where it is damaged, IncompatibleError where its format is one of another version.
    """
    _DESCRIBED.parse(data, MANIFEST)
    try:
        manifest = _adapter().validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _DESCRIBED.damaged(MANIFEST, f"{key}: {first['msg']}") from error
    _check(manifest)
    return manifest


@cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _require(holds: bool, reason: str) -> None:  # noqa: FBT001
    if not holds:
        raise _DESCRIBED.damaged(MANIFEST, reason)


def _check(manifest: Manifest) -> None:
    rows = manifest.rows
    counts = (rows.train, rows.test, rows.central_test, rows.left_out, rows.validation, rows.central_validation)
    _require(min(counts) >= 0, "a row count is negative")
    _require(manifest.clients >= 1, "there are no clients")
    _require(0 <= manifest.test_fraction <= 1, "test_fraction is outside [0, 1]")
    _require(0 <= manifest.validation_fraction < 1, "validation_fraction is outside [0, 1)")
    _require(all(size >= 1 for size in manifest.dataset.shape), "an example has no values")
    _check_dataset(manifest.dataset)
    _check_inputs(manifest)
    _check_columns(manifest)
    _check_types(manifest)
    _check_shapes(manifest)
    _check_preprocess(manifest)


def _check_dataset(info: DatasetInfo) -> None:
    """Names and numbers of features and classes; what reads the rows goes by them."""
    table = len(info.shape) == 1 and info.task != "next-character"
    _require(not info.features or not table or len(info.features) == info.shape[0], "features are not one for each")
    size = math.prod(info.shape)
    numeric = info.numeric or (0,)
    _require(min(numeric) >= 0 and max(numeric) < size, "numeric names a feature that is not there")
    _require(info.task != "binary" or len(info.classes) == 2, "a binary task needs two classes")
    _require(info.task == "regression" or bool(info.classes), "there are no classes")


def _check_inputs(manifest: Manifest) -> None:
    inputs, info = manifest.inputs, manifest.dataset
    _require(inputs is None or inputs.features == info.features, "inputs do not become the features")


def _check_columns(manifest: Manifest) -> None:
    wanted = REQUIRED | OWN_TEST if manifest.central_test == "own" else REQUIRED
    wanted |= VALIDATION if manifest.has_validation else frozenset()
    _require(set(manifest.columns) == wanted, f"columns must be {', '.join(sorted(wanted))}")
    for name, column in manifest.columns.items():
        if not _NAME.fullmatch(column.file) or not column.file.endswith(".npy"):
            raise IntegrityError(
                f"{MANIFEST}: column {name} names the file {column.file[:200]!r}, which is not a bare .npy name",
                hint="A partition's files lie in its own directory; do not use this partition.",
            )
        _require(bool(_SHA256.fullmatch(column.sha256)), f"column {name}: sha256 is not 64 hex digits")
    files = [column.file for column in manifest.columns.values()]
    _require(len(set(files)) == len(files), "two columns share a file")


def _check_types(manifest: Manifest) -> None:
    columns, task = manifest.columns, manifest.dataset.task
    x_types, y_types = _X_TYPES.get(task, ("|u1", "<f4")), _Y_TYPES.get(task, ("<i8",))
    expected = {"x": x_types, "y": y_types, "bounds": ("<i8",), "source_row": ("<i8",)}
    expected |= {"test_x": x_types, "test_y": y_types, "validation_x": x_types, "validation_y": y_types}
    expected |= {"validation_bounds": ("<i8",), "validation_row": ("<i8",)}
    for name, types in expected.items():
        if name in columns:
            found = columns[name].dtype
            _require(found in types, f"column {name} has dtype {found!r}, expected {' or '.join(types)}")
    _require(bool(re.fullmatch(r"<U[1-9]\d{0,3}", columns["client_ids"].dtype)), "client_ids is not text")


def _check_shapes(manifest: Manifest) -> None:
    info, clients = manifest.dataset, manifest.clients
    rows = manifest.rows.train + manifest.rows.test
    label = info.shape if info.task == "next-character" else ()
    expected = {"x": (rows, *info.shape), "y": (rows, *label), "source_row": (rows,)}
    expected |= {"bounds": (clients, 3), "client_ids": (clients,)}
    if manifest.central_test == "own":
        tests = manifest.rows.central_test
        expected |= {"test_x": (tests, *info.shape), "test_y": (tests, *label)}
    counts, own = manifest.rows, manifest.own_validation
    _require(manifest.has_validation or not counts.central_validation, "validation rows have no columns")
    if manifest.has_validation:
        _require(own >= 0 and counts.central_validation == (own or counts.validation), "validation rows do not add up")
        held = counts.validation + own
        expected |= {"validation_x": (held, *info.shape), "validation_y": (held, *label)}
        expected |= {"validation_bounds": (clients + 1,), "validation_row": (counts.validation,)}
    for name, shape in expected.items():
        found = manifest.columns[name].shape
        _require(found == shape, f"column {name} has shape {found}, expected {shape}")


def _check_preprocess(manifest: Manifest) -> None:
    info, done = manifest.dataset, manifest.preprocess
    sizes = {"none": 0, "feature": math.prod(info.shape), "channel": info.shape[0] if info.shape else 0}
    size = sizes[done.kind]
    _require(done.kind != "channel" or len(info.shape) == 3, "channel statistics without images")
    _require(len(done.shift) == len(done.scale) == size, f"preprocess needs {size} shifts and scales")
    _require(all(scale > 0 for scale in done.scale), "a scale is not positive")
    target = done.target
    _require(target is None or (info.task == "regression" and target.scale > 0), "the target's scale is wrong")
