"""The configuration of a run: a frozen model, and how file, environment and flags make it, all problems at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from flctl import yaml_text
from flctl.completion import Completion, load_plugins, presets
from flctl.component import Options
from flctl.errors import ConfigError
from flctl.explain import Complaint, complaints
from flctl.layers import (
    LAYERED,
    Flag,
    KeyPath,
    Layer,
    Merged,
    from_environment,
    from_flags,
    from_overrides,
    from_source,
    merge,
)
from flctl.problems import Place, Problem, refuse
from flctl.sections import (
    AUTO,
    DEFAULT_COMPONENTS,
    SECTIONS,
    AttackConfig,
    CheckpointConfig,
    CohortConfig,
    ComponentConfig,
    DevicesConfig,
    EngineConfig,
    EvalConfig,
    LocalConfig,
    Section,
    ServerConfig,
    StopConfig,
)
from flctl.strict_yaml import read_source
from flctl.types import TaskKind

if TYPE_CHECKING:
    from flctl.registry import Registry

__all__ = [
    "AUTO",
    "DEFAULT_MODELS",
    "AttackConfig",
    "CheckpointConfig",
    "CohortConfig",
    "ComponentConfig",
    "Config",
    "DevicesConfig",
    "EngineConfig",
    "EvalConfig",
    "Flag",
    "Loaded",
    "LocalConfig",
    "Origin",
    "ServerConfig",
    "StopConfig",
    "digest",
    "dump",
    "effective",
    "load",
    "load_partition_section",
]

DEFAULT_MODELS: Mapping[TaskKind, str] = {
    "classification": "logreg",
    "binary": "logreg",
    "regression": "linear",
    "next-character": "char-lstm",
}
"""What the model `auto` stands for, by task."""


def component(value: Any) -> Any:
    """The long form of a component: "clip", {"name": "clip", "norm": 1} -> {"name": "clip", "options": {...}}."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or set(value) == {"name", "options"}:
        return value
    rest = {key: item for key, item in value.items() if key != "name"}
    return {**({"name": value["name"]} if "name" in value else {}), "options": rest}


def _components(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple({"name": name, "options": options or {}} for name, options in value.items())
    return tuple(component(item) for item in value) if isinstance(value, (list, tuple)) else value


def _flat(value: ComponentConfig) -> dict[str, Any]:
    return {"name": value.name, **value.options}


def _by_name(value: tuple[ComponentConfig, ...]) -> dict[str, Any]:
    return {item.name: dict(item.options) for item in value}


def _default(part: str) -> ComponentConfig:
    return ComponentConfig(name=DEFAULT_COMPONENTS[part])


Named = Annotated[ComponentConfig, BeforeValidator(component), PlainSerializer(_flat)]
Layers = Annotated[tuple[ComponentConfig, ...], BeforeValidator(_components), PlainSerializer(_by_name)]


class Config(Options):
    """Everything that a run depends on. Component options stand in `options` as plain values."""

    seed: int = Field(default=0, ge=0, description="Every random number of the run follows from it.")
    rounds: int = Field(default=10, ge=1, description="Rounds to train.")
    data: str | None = Field(default=None, min_length=1, description="The partition directory.")
    plugins: tuple[str, ...] = Field(default=(), description="Python files to load as plugins.")
    metric: str | None = Field(
        default=None, min_length=1, description="What the best checkpoint is best in; null: by task."
    )
    partition: dict[str, Any] | None = Field(
        default=None, description="What `flctl partition --config` makes; not read by training."
    )
    model: Named = Field(default=_default("model"), description="The model; auto: by task.")
    strategy: Named = Field(default=_default("strategy"), description="The algorithm.")
    aggregator: Named = Field(default=_default("aggregator"), description="How updates become their sum.")
    transforms: Layers = Field(
        default=(), description="Layers around the sum, in the order that an update passes them."
    )
    cohort: CohortConfig = Field(default=CohortConfig(), description="Who takes part in a round.")
    local: LocalConfig = Field(default=LocalConfig(), description="How each client trains.")
    server: ServerConfig = Field(default=ServerConfig(), description="What the server does with the mean update.")
    eval: EvalConfig = Field(default=EvalConfig(), description="Evaluation.")
    stop: StopConfig = Field(default=StopConfig(), description="Early stopping.")
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="Checkpoints.")
    engine: EngineConfig = Field(default=EngineConfig(), description="Where clients run.")
    attack: AttackConfig = Field(default=AttackConfig(), description="Malicious clients, simulated.")
    devices: DevicesConfig = Field(default=DevicesConfig(), description="How far clients' devices get, simulated.")


WITHOUT_INFLUENCE = frozenset({"rounds", "data", "plugins", "partition", "stop", "checkpoint", "engine"})


def effective(config: Config) -> dict[str, Any]:
    """The configuration as plain nested values in the form that YAML has, without keys that have no effect."""
    tree = config.model_dump(mode="json")
    for name, value in tree.items():
        section = getattr(config, name)
        if isinstance(section, Section):
            tree[name] = {key: item for key, item in value.items() if key not in section.idle()}
    options = tree["engine"].pop("options")
    tree["engine"].update(options)
    return tree


def digest(config: Config) -> str:
    """`sha256:...` over what determines the numbers: equal digests, equal data, equal global model at each round.

    Left out are the keys that only say how long, where and how safely to run; of `engine` those count that decide
    which clients train together, and so in which order numbers are added. `rounds` counts when the learning
    rate's schedule ends with the last round (cosine, linear).
    """
    horizon = config.local.schedule in ("cosine", "linear")
    left_out = WITHOUT_INFLUENCE - {"rounds"} if horizon else WITHOUT_INFLUENCE
    left_out |= {"attack"} if config.attack.name == "none" else set()
    left_out |= set() if config.devices.simulated else {"devices"}
    parts = {key: value for key, value in effective(config).items() if key not in left_out}
    parts[LAYERED] = list(parts[LAYERED].items())  # their order counts
    parts["engine"] = {"executor": config.engine.executor, "memory": config.engine.memory_bytes}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


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
class Origin:
    """Where a value came from: "x.yaml:12:5", "FLCTL__LOCAL__LR", "-o local.lr", "--lr", "fedadam", or "" (default)."""

    source: Literal["default", "strategy", "file", "environment", "override", "flag"]
    where: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and for each of its effective keys (dotted) where the value came from."""

    config: Config
    origins: Mapping[str, Origin]


def load(
    registry: Registry,
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The configuration that flags > `-o` > environment > file > strategy's presets > defaults make.

    `flags` is dotted key -> value, or `Flag` with the name for messages; None is a flag that was not given. Local
    plugins that `plugins` names are loaded into `registry`. Raises ConfigError with every problem and its place.
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
    # Every effective key counts as set from here on: what was shown and recorded is what holds.
    explicit = Config.model_validate(effective(config))
    return Loaded(explicit, dict(_origins(effective(explicit), merged, ())))


def dump(config: Config) -> str:
    """YAML that `load` reads back to an equal configuration."""
    return yaml_text.write(effective(config))


def load_partition_section(path: Path, registry: Registry | None = None) -> dict[str, Any]:
    """The `partition:` section of a config file as plain values, checked where `registry` is given.

    Where it does not say `out`, the partition goes where the file's `data` will look for it. Raises ConfigError when
    there is no section, and for what is wrong with it.
    """
    layer = from_source(read_source(path))
    merged = merge([layer])
    section = merged.tree().get("partition")
    problems = list(layer.problems)
    if registry is not None and isinstance(section, dict):
        from flctl import partition_section

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
        # JSON mode, because strictness there takes a list for a tuple, and 10.0 or "10" for no integer.
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


def _origins(tree: Mapping[str, Any], merged: Merged, at: KeyPath) -> Iterator[tuple[str, Origin]]:
    for name, value in tree.items():
        path = (*at, name)
        if isinstance(value, dict) and value:
            yield from _origins(value, merged, path)
        else:
            yield ".".join(path), _origin(merged, path)


def _origin(merged: Merged, path: KeyPath) -> Origin:
    for end in range(len(path), 0, -1):
        setting = merged.settings.get(path[:end])
        if setting is not None and (end == len(path) or not setting.opens) and setting.node.value is not None:
            return Origin(setting.kind, setting.key.where)
    return Origin("default", "")
