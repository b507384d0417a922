"""Reads a configuration: flags, overrides, environment, file and defaults merged, all problems reported at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from flctl.config.component_options import Completion, load_plugins, presets
from flctl.config.problems import Place, Problem, refuse
from flctl.config.sections.training import (
    SECTIONS,
)
from flctl.config.sources import (
    KeyPath,
    Layer,
    Merged,
    from_environment,
    from_flags,
    from_overrides,
    from_source,
    merge,
)
from flctl.config.validation import Complaint, complaints
from flctl.config.yaml_reader import read_source
from flctl.errors import ConfigError

if TYPE_CHECKING:
    from flctl.component import Catalogue

from flctl.config.config import Config, effective

__all__ = ["Loaded", "ValueOrigin", "load", "load_partition_section"]

OTHER_WORDS = {
    "clients_per_round": "'cohort.clients'",
    "sampling_rate": "'cohort.rate'",
    "local_epochs": "'local.epochs'",
    "local_steps": "'local.steps'",
    "learning_rate": "'local.lr'",
    "server_lr": "'server.lr'",
    "target_metric": "'stop.metric'",
}


@dataclass(frozen=True, slots=True)
class ValueOrigin:
    """Origin of a value: "x.yaml:12:5", "FLCTL__LOCAL__LR", "-o local.lr", "--lr", "fedadam", or "" (default)."""

    source: Literal["default", "strategy", "file", "environment", "override", "flag"]
    where: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and the origin of each of its effective keys (dotted)."""

    config: Config
    origins: Mapping[str, ValueOrigin]


def load(
    registry: Catalogue,
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Merges flags > `-o` > environment > file > strategy's presets > defaults into a configuration.

    `flags` is dotted key -> value, or `Flag` with the name for messages; None is a flag that was not given. Local
    plugins listed in `plugins` are loaded into `registry`. Raises ConfigError with every problem and its place.
    """
    layers = [
        from_source(read_source(file)) if file else Layer([]),
        from_environment(environ or {}, lambda: registry.offers("transform")),
        from_overrides(overrides),
        from_flags(flags or {}),
    ]
    problems = [problem for layer in layers for problem in layer.problems]
    merged = merge(layers)
    problems += load_plugins(registry, merged)
    merged = merge([presets(registry, merged), *layers])
    completion = Completion(registry)
    config, refused = _validated(completion.complete(merged.tree()))
    problems += [_placed(complaint, merged) for complaint in [*completion.complaints, *refused]]
    if problems or config is None:
        raise refuse(problems)
    # Every effective key counts as set from here on: the run uses exactly the values that are shown and recorded.
    explicit = Config.model_validate(effective(config))
    return Loaded(explicit, dict(_origins(effective(explicit), merged, ())))


def load_partition_section(path: Path, registry: Catalogue | None = None) -> dict[str, Any]:
    """Returns the `partition:` section of a config file as plain values, checked if `registry` is given.

    Without `out` in the section, the partition is written to the file's `data`. Raises ConfigError if there is no
    section, and for every problem in it.
    """
    layer = from_source(read_source(path))
    merged = merge([layer])
    section = merged.tree().get("partition")
    problems = list(layer.problems)
    if registry is not None and isinstance(section, dict):
        from flctl.config import partition_section

        problems += load_plugins(registry, merged)
        problems += [_placed(complaint, merged) for complaint in partition_section.check(section, registry)]
    if problems:
        raise refuse(problems)
    if not isinstance(section, dict):
        found = "has no `partition:` section" if section is None else "has a `partition:` that is not a mapping"
        raise ConfigError(f"{path} {found}", hint="Write for example `partition: {source: digits, clients: 10}`.")
    data = merged.tree().get("data")
    return {"out": data, **section} if isinstance(data, str) else section


def _validated(tree: Mapping[str, Any]) -> tuple[Config | None, list[Complaint]]:
    try:
        # JSON mode: strict validation accepts a list for a tuple there, but neither 10.0 nor "10" for an integer.
        return Config.model_validate_json(json.dumps(tree), strict=True), []
    except ValidationError as error:
        return None, list(complaints(error, Config, elsewhere=_elsewhere()))


def _elsewhere() -> dict[str, str]:
    homes: dict[str, list[str]] = {}
    for section, model in SECTIONS.items():
        for key in model.model_fields:
            homes.setdefault(key, []).append(f"'{section}.{key}'")
    return {**{key: " or ".join(names) for key, names in homes.items()}, **OTHER_WORDS}


def _placed(complaint: Complaint, merged: Merged) -> Problem:
    place, hint = _place(complaint, merged), complaint.hint
    if place and place.source.is_file and " has no effect " in complaint.message:
        hint = f"Leave it out, or undo it with -o {'.'.join(complaint.path)}=null."
    return Problem(complaint.message, place, hint)


def _place(complaint: Complaint, merged: Merged) -> Place | None:
    path = complaint.path
    exact = merged.key(path) if complaint.about_key else merged.place(path) or merged.key(path)
    while exact is None and len(path) > 1:
        path = path[:-1]
        exact = merged.place((*path, "name")) or merged.key(path)
    return exact


def _origins(tree: Mapping[str, Any], merged: Merged, at: KeyPath) -> Iterator[tuple[str, ValueOrigin]]:
    for name, value in tree.items():
        path = (*at, name)
        if isinstance(value, dict) and value:
            yield from _origins(value, merged, path)
        else:
            yield ".".join(path), _origin(merged, path)


def _origin(merged: Merged, path: KeyPath) -> ValueOrigin:
    for end in range(len(path), 0, -1):
        setting = merged.settings.get(path[:end])
        if setting is not None and (end == len(path) or not setting.opens) and setting.node.value is not None:
            return ValueOrigin(setting.kind, setting.key.where)
    return ValueOrigin("default", "")
