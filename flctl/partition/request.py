"""Requests of `flctl partition` (flags, or the `partition:` section of a config), and the partitions they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from flctl import atomic
from flctl.component import Catalogue, Component, Options
from flctl.data.dataset import Dataset, DatasetReader
from flctl.data.options import Columns, Sources
from flctl.data.sources import find_reader, open_source
from flctl.errors import ConfigError, counted, plain_words, suggest
from flctl.partition.partitioner import Partitioner
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionOrigin, PartitionSpec, write_partition

__all__ = ["DEFAULT_CLIENTS", "Made", "PartitionRequest", "PartitionSettings", "make", "parse"]

DEFAULT_CLIENTS = 10


class PartitionSettings(Options):
    """Settings of a partition, apart from the options of its reader and its scheme."""

    source: Annotated[str, Field(min_length=1)]
    more: Sources = ()
    out: str | None = None
    reader: str | None = None
    scheme: str | None = None
    clients: Annotated[int | None, Field(ge=1)] = None
    test_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    test_split: Literal["auto", "random", "last"] = "auto"
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    standardise: Literal["auto", "feature", "channel", "unit", "none"] = "auto"
    by: Columns = ()
    reader_options: dict[str, Any] = Field(default_factory=dict)
    scheme_options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spelt_out(cls, values: Any) -> Any:
        """`scheme: {name: dirichlet, alpha: 0.3}` is `scheme: dirichlet` with its options; `source` may be a list."""
        if isinstance(values, dict) and isinstance(values.get("source"), (list, tuple)) and values["source"]:
            first, *others = values["source"]
            values = {**values, "source": first, "more": [*others, *(values.get("more") or ())]}
        for kind in ("reader", "scheme"):
            if isinstance(values, dict) and isinstance(values.get(kind), Mapping):
                options = dict(values[kind])
                name, given = options.pop("name", None), values.get(f"{kind}_options") or {}
                values = {**values, kind: name, f"{kind}_options": {**options, **given}}
        return values


@dataclass(frozen=True, slots=True)
class PartitionRequest:
    """Settings, and options that belong to whichever of scheme and reader has them."""

    settings: PartitionSettings
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def out(self) -> Path:
        """The directory to make: `--out`, else `parts/` and the source's name."""
        settings = self.settings
        return Path(settings.out) if settings.out else Path("parts") / Path(settings.source).name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Made:
    """A new partition, with notes for the user."""

    partition: Partition
    notes: tuple[str, ...]


def parse(values: Mapping[str, Any]) -> PartitionRequest:
    """The request that keys and values make; None was not given. Raises ConfigError naming each flag that is wrong."""
    given = {key.replace("-", "_"): value for key, value in values.items() if value is not None}
    known = PartitionSettings.model_fields
    if "source" not in given:
        raise ConfigError("no source was named", hint="Name a SOURCE: `flctl partition digits`.")
    try:
        settings = PartitionSettings.model_validate({key: given[key] for key in given if key in known})
    except ValidationError as error:
        raise ConfigError(f"cannot partition: {_reasons(error)}") from error
    return PartitionRequest(settings, {key: value for key, value in given.items() if key not in known})


def make(request: PartitionRequest, registry: Catalogue) -> Made:
    """Reads the source, asks the scheme and writes the partition.

    Raises ConfigError, DataError, PluginError, IntegrityError or StorageError, and leaves nothing behind then.
    """
    settings, out = request.settings, request.out
    atomic.refuse_existing(out)
    reader = find_reader(settings.source, settings.reader, registry)
    named = _named_scheme(settings, registry)
    for_reader, for_scheme = _share_out(request, reader, named)
    early = _configured(named, for_scheme, reader, registry) if named else None
    dataset = open_source(settings.source, reader.name, for_reader, registry, settings.seed)
    partitioner = early or _configured(_default_scheme(dataset, registry), for_scheme, reader, registry)
    partition = write_partition(
        out,
        dataset,
        partitioner,
        PartitionSpec(
            clients=settings.clients or _default_clients(partitioner),
            test_fraction=settings.test_fraction,
            seed=settings.seed,
            standardise=settings.standardise,
            by=_group_names(settings.by, dataset) or None,
            test_split=settings.test_split,
            validation_fraction=settings.validation_fraction,
            origin=PartitionOrigin(settings.source, {"reader": reader.name, **for_reader}),
        ),
    )
    return Made(partition, (*dataset.notes, *_notes(partition)))


def _group_names(by: tuple[str, ...], dataset: Dataset) -> tuple[str, ...]:
    """Names of the `--by` columns in the data set: a reader may have been given them by index."""
    groups = tuple(dataset.groups)
    in_order = len(groups) == len(by)
    return tuple(groups[i] if in_order and name not in groups else name for i, name in enumerate(by))


def _named_scheme(settings: PartitionSettings, registry: Catalogue) -> type[Partitioner] | None:
    """The scheme that the user named; `--by` alone means the natural one."""
    name = settings.scheme or ("natural" if settings.by else None)
    return registry.get("partitioner", name) if name else None


def _default_scheme(dataset: Dataset, registry: Catalogue) -> type[Partitioner]:
    """natural where the source knows whose rows are whose, else dirichlet, or iid for text."""
    text = dataset.task == "next-character"
    name = "natural" if len(dataset.groups) == 1 else "iid" if text else "dirichlet"
    found: type[Partitioner] = registry.get("partitioner", name)
    return found


def _default_clients(partitioner: Partitioner) -> int | None:
    deals: Partitioner = getattr(partitioner, "base", partitioner)
    sets_clients = deals.sets_clients or getattr(deals.config, "sizes", None) is not None
    return None if sets_clients else DEFAULT_CLIENTS


def _share_out(
    request: PartitionRequest, reader: type[DatasetReader], scheme: type[Partitioner] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(Options for the reader, for the scheme). One that both have goes to a scheme that the user named."""
    settings = request.settings
    for_reader, for_scheme = dict(settings.reader_options), dict(settings.scheme_options)
    for key, value in request.options.items():
        of_scheme = scheme is not None and key in scheme.Config.model_fields
        (for_reader if key in reader.Config.model_fields and not of_scheme else for_scheme)[key] = value
    if settings.by and "by" in reader.Config.model_fields:
        for_reader["by"] = settings.by
    if settings.more:
        if "more" not in reader.Config.model_fields:
            raise ConfigError(
                f"the {reader.name} reader reads one source, found {1 + len(settings.more)}",
                hint="Only CSV, ARFF, Parquet and Arrow files can be read together, as one table.",
            )
        for_reader["more"] = settings.more
    return for_reader, for_scheme


def _configured(
    scheme: type[Partitioner], options: dict[str, Any], reader: type[DatasetReader], registry: Catalogue
) -> Partitioner:
    for key in options:
        if key not in scheme.Config.model_fields:
            raise _unknown(key, scheme, reader, registry)
    for key, field_ in scheme.Config.model_fields.items():
        if field_.is_required() and key not in options:
            raise ConfigError(f"scheme '{scheme.name}' needs {_flag(key)}", hint=field_.description)
    try:
        return scheme.from_options(options)
    except ValidationError as error:
        raise ConfigError(f"scheme '{scheme.name}' cannot use {_reasons(error)}") from error


def _unknown(key: str, scheme: type[Partitioner], reader: type[DatasetReader], registry: Catalogue) -> ConfigError:
    mine = [*scheme.Config.model_fields, *reader.Config.model_fields, *PartitionSettings.model_fields]
    others = [
        name
        for kind in ("partitioner", "dataset")
        for name, offer in registry.offers(kind).items()
        if key in offer.component.Config.model_fields
    ]
    hint = f"{_flag(key)} belongs to {', '.join(others)}." if others else suggest(key, mine)
    return ConfigError(
        f"{_flag(key)} is an option neither of scheme '{scheme.name}' (it has {_flags_of(scheme)}) "
        f"nor of the {reader.name} reader (it has {_flags_of(reader)})",
        hint=hint or "`flctl plugins list` shows the schemes and readers.",
    )


def _flags_of(component: type[Component]) -> str:
    return ", ".join(map(_flag, component.Config.model_fields)) or "no options"


def _flag(key: object) -> str:
    return "--" + str(key).replace("_", "-")


def _reasons(error: ValidationError) -> str:
    items = error.errors(include_url=False)
    return "; ".join(_reason(item["loc"], item["input"], item["msg"]) for item in items)


def _reason(path: Iterable[int | str], found: Any, message: str) -> str:
    flag = next((_flag(part) for part in path), "options")
    shown = f"{found}" if isinstance(found, (str, int, float)) else "" if found is None else repr(found)[:60]
    return f"{flag} {shown}: {plain_words(message)}"


def _notes(partition: Partition) -> tuple[str, ...]:
    rows, left_out = partition.manifest.rows, partition.manifest.rows.left_out
    total = rows.train + rows.validation + rows.test + left_out
    own = partition.manifest.test_split == "own"
    return (
        *(["each client has its own test rows of the source; --test-fraction does not apply"] if own else []),
        *([f"the scheme leaves out {left_out:,} of {counted(total, 'row')}"] if left_out else []),
    )
