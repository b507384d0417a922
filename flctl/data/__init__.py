"""Readers of real formats, and the built-in data sets. `READERS` loads on first use and brings in neither
scikit-learn nor pyarrow nor Pillow: each is imported when a reader needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flctl.data.dataset import DatasetReader

    READERS: Sequence[type[DatasetReader]]

__all__ = ["READERS"]

_HOMES = {
    "flctl.data.readers.embedded": ["Digits", "BreastCancer", "Wine", "Iris", "Diabetes"],
    "flctl.data.readers.synthetic": ["Synthetic"],
    "flctl.data.readers.idx": ["IdxReader"],
    "flctl.data.readers.cifar": ["CifarReader"],
    "flctl.data.readers.json_tables": ["JsonReader"],
    "flctl.data.readers.leaf": ["LeafReader"],
    "flctl.data.readers.numpy_files": ["NpzReader", "NpyReader"],
    "flctl.data.readers.arff": ["ArffReader"],
    "flctl.data.readers.delimited": ["CsvReader"],
    "flctl.data.readers.columnar": ["ParquetReader", "ArrowReader"],
    "flctl.data.readers.speeches": ["TextReader"],
    "flctl.data.readers.images": ["ImageFolderReader"],
}


def __getattr__(name: str) -> list[type[DatasetReader]]:
    if name != "READERS":
        raise AttributeError(f"module 'flctl.data' has no attribute '{name}'")
    modules = {home: importlib.import_module(home) for home in _HOMES}
    readers = [getattr(modules[home], reader) for home, names in _HOMES.items() for reader in names]
    globals()["READERS"] = readers
    return readers
