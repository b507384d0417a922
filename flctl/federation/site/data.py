"""A site's rows as a partition of one client, and the row counts that it declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flctl import seeds
from flctl.data.dataset import Dataset, Split
from flctl.errors import ConfigError, DataError, counted
from flctl.federation.schema.rows import SchemaRows
from flctl.federation.schema.schema import Schema
from flctl.partition.federated import two_digits
from flctl.partition.schemes.natural import Natural
from flctl.partition.split import test_counts
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.types import IntArray

__all__ = ["DeclaredRows", "RowsDeclared", "declare", "pack"]

RowsDeclared = Literal["exact", "rounded"]
SITE = "site"
FLOOR = 10
"""Least number of training rows of a site: fewer could be recognised in what it sends."""


@dataclass(frozen=True, slots=True)
class DeclaredRows:
    """The row counts that leave a site: for training and for testing, and whether they are exact."""

    site: str
    schema: str
    train: int
    test: int
    rows: RowsDeclared

    def to_json(self) -> dict[str, Any]:
        """The declaration as plain values."""
        return {"site": self.site, "schema": self.schema, "train": self.train, "test": self.test, "rows": self.rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DeclaredRows:
        """The declaration that `to_json` made. Raises DataError for anything else."""
        names = {"site": str, "schema": str, "train": int, "test": int, "rows": str}
        sound = isinstance(value, Mapping) and value.keys() == names.keys()
        if not sound or any(type(value[name]) is not kind for name, kind in names.items()):
            raise DataError("a declaration of rows has site, schema, train, test and rows")
        if value["rows"] not in ("exact", "rounded") or min(value["train"], value["test"]) < 0:
            raise DataError(f"a declaration of rows is {value['rows']!r}, expected exact or rounded")
        return cls(**value)


def pack(out: Path, schema: Schema, sites: Mapping[str, SchemaRows], test_fraction: float, seed: int = 0) -> Partition:
    """Writes the rows of the sites, usually one, as the partition `out`; each site is a client.

    A site's test rows depend on its name, its rows and `seed` alone, so that a partition of all sites has the same
    ones. Raises DataError for fewer than 10 training rows.
    """
    if not 0 <= test_fraction < 1:
        raise ConfigError(f"--test is {test_fraction}; it must be at least 0 and below 1", hint="Use --test 0.2.")
    parts = {name: _split(rows, test_fraction, seeds.rng(seed, "site", name, "test")) for name, rows in sites.items()}
    for name, (trained, _) in parts.items():
        if len(trained.y) < FLOOR:
            raise DataError(
                f"'{name}' has fewer than {counted(FLOOR, 'training row')}", hint="Add rows, or lower --test."
            )
    trained = _together({name: pair[0] for name, pair in parts.items()})
    held_out = _together({name: pair[1] for name, pair in parts.items()})
    dataset = Dataset(
        name=schema.name,
        task=schema.task,
        x=trained.x,
        y=trained.y,
        classes=schema.target.classes,
        features=schema.inputs.features,
        numeric=schema.numeric,
        groups=trained.groups,
        test=held_out if len(held_out.y) else None,
        inputs=schema.inputs,
    )
    spec = PartitionSpec(clients=None, test_fraction=0.0, seed=seed, by=SITE, standardisation=schema.standardisation)
    return write_partition(out, dataset, Natural(), spec)


def declare(partition: Partition, site: str, schema: Schema, rows: RowsDeclared) -> DeclaredRows:
    """The counts of a site's partition as it declares them: exact, or rounded to two digits."""
    train, test = partition.counts[partition.index(site)].tolist()
    if rows == "rounded":
        train, test = two_digits(train), two_digits(test)
    return DeclaredRows(site, schema.digest, train, test, rows)


def _split(rows: SchemaRows, fraction: float, rng: np.random.Generator) -> tuple[Split, Split]:
    """Training and test rows, each in the order of the file."""
    held: int = int(test_counts(np.array([len(rows)], np.int64), fraction)[0])
    chosen: IntArray = np.sort(rng.permutation(len(rows))[:held])
    kept = np.setdiff1d(np.arange(len(rows)), chosen)
    return Split(rows.x[kept], rows.y[kept]), Split(rows.x[chosen], rows.y[chosen])


def _together(parts: Mapping[str, Split]) -> Split:
    names = np.repeat(np.array(list(parts)), [len(part.y) for part in parts.values()])
    x, y = (np.concatenate([getattr(part, name) for part in parts.values()]) for name in ("x", "y"))
    return Split(x, y, {SITE: names})
