"""Federated data directories: `manifest.json` of the format "flctl-federated/1", clients and no rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from flctl import atomic
from flctl.data.preprocessing import Inputs, Standardisation
from flctl.errors import DataError, IncompatibleError, IntegrityError
from flctl.partition import manifest as manifests
from flctl.partition.federated import FederatedData
from flctl.partition.manifest import Column, DatasetInfo, Manifest, RowCounts, digest_of
from flctl.partition.store import Partition, manifest_bytes

__all__ = [
    "FORMAT",
    "DeclaredClient",
    "FederatedManifest",
    "federated_data",
    "is_federated",
    "open_data",
    "write_federated",
]

FORMAT = "flctl-federated/1"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


@dataclass(frozen=True, slots=True)
class DeclaredClient:
    """A client and the row counts that it declares: exact, or rounded to two digits."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    id: str
    train: int
    test: int


@dataclass(frozen=True, slots=True)
class FederatedManifest:
    """Everything that a federation knows of its data: the data set, its constants, and each client's declared rows.

    The digest of `dataset` is that of the schema, and `dtype` that of an example before standardisation.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT
    federation: str
    dataset: DatasetInfo
    preprocess: Standardisation
    clients: tuple[DeclaredClient, ...]
    inputs: Inputs | None = None
    dtype: str = "<f4"
    format: str = FORMAT

    def serialise(self) -> bytes:
        """UTF-8 JSON: the same bytes for equal values."""
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def to_json(self) -> dict[str, Any]:
        """The manifest as plain values, as plans carry it."""
        return dict(json.loads(self.serialise()))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FederatedManifest:
        """The manifest that `to_json` made. Raises IntegrityError if it is not one."""
        return cls.parse(json.dumps(value, allow_nan=False).encode())

    @classmethod
    def parse(cls, data: bytes) -> FederatedManifest:
        """The manifest that `data` holds. Raises IntegrityError if it is not one."""
        try:
            found = _adapter().validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise _damaged(f"{place}: {first['msg']}") from error
        ids = [client.id for client in found.clients]
        if found.format != FORMAT or not ids or len(set(ids)) != len(ids):
            raise _damaged(f"its format is not '{FORMAT}', or its clients are not distinct")
        if min(min(client.train, client.test) for client in found.clients) < 0:
            raise _damaged("a declared row count is negative")
        return found


def federated_data(manifest: FederatedManifest, path: Path) -> FederatedData:
    """The clients and declared rows of a manifest, as runs see them."""
    counts = np.array([[client.train, client.test] for client in manifest.clients], np.int64)
    ids = np.array([client.id for client in manifest.clients], np.str_)
    train, test = counts.sum(axis=0).tolist()
    described = Manifest(
        format=manifests.FORMAT,
        flctl="",
        dataset=manifest.dataset,
        scheme={"name": "sites"},
        seed=0,
        clients=len(manifest.clients),
        test_fraction=0.0,
        test_split="own",
        rows=RowCounts(train=train, test=test, central_test=0, left_out=0),
        preprocess=manifest.preprocess,
        central_test="clients",
        columns=_columns(manifest, train + test, ids),
        inputs=manifest.inputs,
    )
    return FederatedData(path, described, digest_of(manifest.serialise()), ids, counts)


def _columns(manifest: FederatedManifest, rows: int, ids: npt.NDArray[np.str_]) -> dict[str, Column]:
    """The columns as a partition with these rows would have them. No file stands behind them."""
    target = "<f4" if manifest.dataset.task == "regression" else "<i8"
    types = {"x": (manifest.dtype, (rows, *manifest.dataset.shape)), "y": (target, (rows,))}
    types |= {
        "bounds": ("<i8", (len(ids), 3)),
        "client_ids": (ids.dtype.str, ids.shape),
        "source_row": ("<i8", (rows,)),
    }
    return {name: Column(f"{name}.npy", dtype, shape, "0" * 64) for name, (dtype, shape) in types.items()}


def open_data(path: Path | str) -> Partition | FederatedData:
    """Opens a partition or a federated data directory, by the format of its manifest.

    Raises what `Partition.open` raises.
    """
    path = Path(path)
    data = manifest_bytes(path)
    return federated_data(FederatedManifest.parse(data), path) if is_federated(data) else Partition.open(path)


def is_federated(data: bytes) -> bool:
    """True if a serialised manifest is one of federated data, of whatever version.

    Raises IncompatibleError for one of another version.
    """
    try:
        loaded = json.loads(data)
    except (ValueError, RecursionError):
        return False
    found = loaded.get("format") if isinstance(loaded, dict) else None
    if isinstance(found, str) and found.startswith("flctl-federated/") and found != FORMAT:
        raise IncompatibleError(
            f"the federated data have format '{found}'; this version of flctl reads '{FORMAT}'",
            hint="Make the directory again: flctl federation data FEDERATION --out DIR",
        )
    return bool(found == FORMAT)


def write_federated(out: Path, manifest: FederatedManifest, schema: bytes) -> FederatedData:
    """Writes the directory `out`: the manifest, and the schema's text as schema.yaml.

    Raises ConfigError if `out` exists, DataError if there are no clients.
    """
    if not manifest.clients:
        raise DataError("no site has declared its rows", hint="Sites declare them with `flctl site data FILE`.")
    with atomic.new_directory(out) as directory:
        (directory / manifests.MANIFEST).write_bytes(manifest.serialise())
        (directory / "schema.yaml").write_bytes(schema)
    return federated_data(manifest, out)


@cache
def _adapter() -> TypeAdapter[FederatedManifest]:
    return TypeAdapter(FederatedManifest)


def _damaged(reason: str) -> IntegrityError:
    return IntegrityError(
        f"the manifest of federated data is damaged: {reason[:300]}",
        hint="Make the directory again: flctl federation data FEDERATION --out DIR",
    )
