"""Checks on whole runs, for every kind of component: reproducible bits, and finite values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flctl.testing.subject import is_importable, spelt
from flctl.testing.trial import TrialResult
from flctl.testing.values import gap

__all__ = ["POOL", "chosen", "close", "finite", "in_processes", "same_bits"]

POOL = "engine={name: pool, workers: 2}"
ROUNDING = 1e-4
"""Allowed difference, as a fraction of the largest weight, between models that differ in the order of sums."""


def chosen(kind: str, component: Any, options: Mapping[str, Any], directory: Path) -> str:
    """The override that names a component and its options in a configuration."""
    values = component.from_options(dict(options)).config.model_dump(mode="json")
    given = {name: values[name] for name in options}
    named = spelt(component, directory)
    if kind == "transform":
        return f"transforms={json.dumps({named: given})}"
    return f"{kind}={json.dumps({'name': named, **given})}"


def same_bits(one: TrialResult, other: TrialResult, when: str) -> Iterator[str]:
    """Describes how the last checkpoints of two runs differ."""
    differ = [name for name, digest in one.digests.items() if other.digests.get(name) != digest]
    if differ:
        apart = np.abs(one.weights - other.weights).max() if one.weights.shape == other.weights.shape else np.inf
        yield f"{when} the checkpoint's {' and '.join(differ)} differ; weights by up to {apart:.3g}"


def close(one: TrialResult, other: TrialResult, when: str, tolerance: float = ROUNDING) -> Iterator[str]:
    """Describes how the models of two runs differ by more than `tolerance` times their largest weight."""
    scale = float(np.abs(other.weights).max())
    apart = gap(one.weights, other.weights) if one.weights.shape == other.weights.shape else np.inf
    if not apart <= tolerance * scale:
        yield f"{when} weights differ by up to {apart:.3g}, where the largest is {scale:.3g}"


def finite(result: TrialResult) -> Iterator[str]:
    """Yields a finding if a run's model is not finite."""
    if not np.isfinite(result.weights).all():
        yield "the model has values that are NaN or infinite"


def in_processes(component: Any, notes: list[str], *, wanted: bool) -> bool:
    """True if worker processes can be used; adds a note if they cannot import the class."""
    if wanted and not is_importable(component):
        notes.append("not tested in other processes: its class cannot be imported there")
        return False
    return wanted
