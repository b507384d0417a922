"""An ordinary partition with rows drawn from a schema alone: to develop and debug before any site is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import seeds
from flctl.errors import ConfigError
from flctl.federation.schema.rows import SchemaRows
from flctl.federation.schema.schema import Schema, SchemaColumn
from flctl.federation.site.data import pack
from flctl.partition.store import Partition
from flctl.types import FloatArray

__all__ = ["mock_rows", "write_mock"]

MOST_ROWS = 1_000_000


def write_mock(
    out: Path, schema: Schema, sites: Sequence[str], rows: int, seed: int, test_fraction: float = 0.2
) -> Partition:
    """Writes a partition with `rows` made-up rows for each site.

    Numbers are normal by the schema's mean and standard deviation, or uniform in its range; levels are uniform. The
    target depends on the features by random coefficients, so that there is something to learn; it is not an estimate
    of any real relation.
    """
    if not 1 <= rows <= MOST_ROWS:
        raise ConfigError(f"--rows is {rows}, expected 1 to {MOST_ROWS:,}", hint="Use --rows 500.")
    drawn = {site: mock_rows(schema, rows, seed, site) for site in sites}
    return pack(out, schema, drawn, test_fraction, seed)


def mock_rows(schema: Schema, rows: int, seed: int, site: str) -> SchemaRows:
    """Made-up rows of one site; equal arguments give equal rows."""
    rng = seeds.rng(seed, "mock", site)
    x = np.concatenate([_features(column, rows, rng) for column in schema.columns], axis=1)
    coefficients = seeds.rng(seed, "mock", "coefficients").normal(size=(x.shape[1], max(1, len(schema.target.classes))))
    scale = schema.standardisation
    standard = (x - np.array(scale.shift)) / np.array(scale.scale) if scale.kind == "feature" else x
    score = standard @ coefficients + rng.normal(size=(rows, coefficients.shape[1]))
    return SchemaRows(x.astype(np.float32), _targets(schema, score))


def _features(column: SchemaColumn, rows: int, rng: np.random.Generator) -> FloatArray:
    """The features [rows, n] of one column."""
    if column.kind == "category":
        count = len(column.input_column.features)
        return np.asarray(np.eye(count)[rng.integers(0, count, rows)])
    least, largest = column.range or (-np.inf, np.inf)
    if column.mean is not None and column.sd is not None:
        values = np.clip(rng.normal(column.mean, column.sd, rows), least, largest)
    else:
        values = rng.uniform(*(column.range or (-1.0, 1.0)), rows)
    return np.asarray(values)[:, None]


def _targets(schema: Schema, score: FloatArray) -> npt.NDArray[Any]:
    """The targets of rows with these scores [n, classes]."""
    if schema.target.classes:
        return np.asarray(np.argmax(score - score.mean(axis=0), axis=1), np.int64)
    target = schema.target
    values = (target.mean or 0.0) + (1.0 if target.sd is None else target.sd) * score[:, 0]
    least, largest = target.range or (-np.inf, np.inf)
    return np.asarray(np.clip(values, least, largest), np.float32)
