"""Kinds of component that a plugin may offer: one table of their hooks and base classes; names that mean files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flctl.component import Component

__all__ = ["APPROVED", "KINDS", "Kind", "file_of", "short_name"]

APPROVED = re.compile(r"approved:([0-9a-f]{64}):([A-Za-z_][A-Za-z0-9_]{0,99})")
"""Name of a function in code that a site approved by its SHA-256: `approved:SHA256:NAME`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of component.

    `noun` is its name in messages: the word of the option that chooses it. `hook` is the plugin hook that offers its
    classes, `home` the `module:class` that they extend. `example` describes the component that `flctl plugins new`
    writes. `from_file`: a configuration may name a class of the user's own as `./mine.py:Name`.
    """

    noun: str
    hook: str
    home: str
    example: str
    from_file: bool = False

    @property
    def base(self) -> type[Component]:
        """The class that components of this kind extend; imported on first use, because some bring in torch."""
        module, _, name = self.home.partition(":")
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


KINDS: Mapping[str, Kind] = {
    "strategy": Kind(
        "strategy",
        "flctl_strategies",
        "flctl.algorithms.strategy:Strategy",
        "A strategy for flctl that weights clients by a power of their number of examples.",
        from_file=True,
    ),
    "transform": Kind(
        "transform",
        "flctl_transforms",
        "flctl.algorithms.transform:Transform",
        "A transform for flctl that sends a random share of each update's values.",
        from_file=True,
    ),
    "aggregator": Kind(
        "aggregator",
        "flctl_aggregators",
        "flctl.algorithms.aggregator:Aggregator",
        "An aggregator for flctl that checks which clients are present before they train.",
        from_file=True,
    ),
    "engine": Kind(
        "engine",
        "flctl_engines",
        "flctl.engines.engine:Engine",
        "An engine for flctl that retries failed clients once.",
        from_file=True,
    ),
    # A model in a file is a function, which `flctl.plugins.custom_model` wraps.
    "model": Kind(
        "model",
        "flctl_models",
        "flctl.models.model:Model",
        "A model for flctl with one hidden layer, normalised over its units.",
    ),
    "dataset": Kind(
        "reader",
        "flctl_datasets",
        "flctl.data.dataset:DatasetReader",
        "A reader for flctl of files in the svmlight format.",
    ),
    "partitioner": Kind(
        "scheme",
        "flctl_partitioners",
        "flctl.partition.partitioner:Partitioner",
        "A partition scheme for flctl whose clients' sizes are in equal ratios.",
    ),
}


def file_of(name: str) -> Path | None:
    """The file that a component's name in a configuration means: `./mine.py:Name` or `./mine.py`; None for others."""
    file = name if name.endswith(".py") else name.rpartition(":")[0]
    return Path(file) if file.endswith(".py") else None


def short_name(name: str) -> str:
    """A component's name as part of a file's name: `./mine.py:Name` is `Name`, `./mine.py` is `mine`."""
    file = file_of(name)
    return name if file is None else file.stem if name.endswith(".py") else name.rpartition(":")[2]
