"""Readers and data sets by the source that a user names."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flctl.component import Catalogue
from flctl.data.dataset import Dataset, DatasetReader
from flctl.data.own_directories import refuse_own_directory
from flctl.errors import ConfigError, DataError, FlctlError, counted, plain_words, suggest

__all__ = ["find_reader", "open_source"]

UNDERSTOOD = (
    ".csv, .tsv and .data (plain or packed), .arff, .jsonl, .parquet, .arrow and .feather, .npz, .npy, IDX, "
    "CIFAR .bin, LEAF .json, .txt with a NAME: line before each speech, and folders of pictures"
)


def open_source(
    source: str, reader: str | None, options: Mapping[str, Any], registry: Catalogue, seed: int = 0
) -> Dataset:
    """Reads `source` by the reader called `reader`, or by the first that is meant for it.

    Options that are None were not given and are left out. Raises ConfigError for an option that the reader does not
    have or cannot use, PluginError for an unknown reader, DataError for a source that nothing reads, and what the
    reader raises.
    """
    kind = find_reader(source, reader, registry)
    given = {key: value for key, value in options.items() if value is not None}
    _refuse_unknown(kind, given)
    try:
        component = kind.from_options(given)
    except ValidationError as error:
        raise _bad_options(kind, error) from error
    dataset = component.read(source, seed)
    _check(dataset, kind.name)
    return dataset


def find_reader(source: str, name: str | None, registry: Catalogue) -> type[DatasetReader]:
    """The reader called `name`, or the first that is meant for `source`.

    Raises PluginError for an unknown name, DataError for a source that nothing reads.
    """
    refuse_own_directory(source)
    if name:
        found: type[DatasetReader] = registry.get("dataset", name)
        return found
    readers: list[type[DatasetReader]] = [
        offer.component for offer in registry.offers("dataset").values() if issubclass(offer.component, DatasetReader)
    ]
    for reader in readers:
        if reader.reads(source):
            return reader
    built_in = [reader.name for reader in readers if reader.reads(reader.name)]
    raise _nothing_reads(source, built_in)


def _nothing_reads(source: str, built_in: list[str]) -> FlctlError:
    known = f"Readable sources: {', '.join(built_in)}, and {UNDERSTOOD}."
    if Path(source).is_dir():
        return DataError(f"{source}: no reader knows this folder", hint=f"Use a file in it. {known}")
    if Path(source).exists() or glob.glob(source):
        return DataError(f"{source}: no reader recognises this file", hint=f"{known} Choose one with --reader NAME.")
    if "/" in source or "." in source or glob.has_magic(source):
        return DataError(f"{source}: no such file or folder", hint=suggest(source, built_in) or "Check the path.")
    return DataError(f"{source} is neither a built-in data set nor a file", hint=suggest(source, built_in) or known)


def _refuse_unknown(reader: type[DatasetReader], given: Mapping[str, Any]) -> None:
    known = reader.Config.model_fields
    flags = [_flag(key) for key in known]
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{_flag(key)} is not an option of the {reader.name} reader",
                hint=suggest(_flag(key), flags) or f"It has {', '.join(flags) or 'no options'}.",
            )


def _bad_options(reader: type[DatasetReader], error: ValidationError) -> ConfigError:
    reasons = []
    for item in error.errors(include_url=False):
        option = _flag(str(item["loc"][0])) if item["loc"] else reader.name
        reasons.append(f"{option} {item['input']!r}: {plain_words(item['msg'])}")
    return ConfigError(f"the {reader.name} reader cannot use " + "; ".join(reasons))


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _check(dataset: Dataset, reader: str) -> None:
    """Raises DataError for a data set whose columns do not pair up; a reader may be a plugin's."""
    rows = len(dataset.y)
    if not rows or len(dataset.x) != rows:
        raise DataError(f"the {reader} reader gave {counted(len(dataset.x), 'example')} and {counted(rows, 'target')}")
    for name, group in dataset.groups.items():
        if len(group) != rows:
            raise DataError(f"the {reader} reader gave {counted(rows, 'row')} and a group '{name}' of {len(group):,}")
    for name, part in (("test", dataset.test), ("validation", dataset.validation)):
        if part is not None and len(part.x) != len(part.y):
            raise DataError(f"the {reader} reader gave a {name} part with unequal numbers of examples and targets")
