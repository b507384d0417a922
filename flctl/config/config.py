"""The configuration of a run: a frozen model that file, environment and flags fill, with all problems at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from flctl.component import CODE, PATH, Options
from flctl.config import yaml_writer
from flctl.config.sections.training import (
    AUTO,
    DEFAULT_COMPONENTS,
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
from flctl.config.sources import (
    LAYERED,
    Flag,
)
from flctl.types import TaskKind

if TYPE_CHECKING:
    pass

__all__ = [
    "AUTO",
    "DEFAULT_MODELS",
    "ENGINE_INFLUENCE",
    "AttackConfig",
    "CheckpointConfig",
    "CohortConfig",
    "ComponentConfig",
    "Config",
    "DevicesConfig",
    "EngineConfig",
    "EvalConfig",
    "Flag",
    "LocalConfig",
    "ServerConfig",
    "StopConfig",
    "differences",
    "digest",
    "dump",
    "effective",
    "without_influence",
]

DEFAULT_MODELS: Mapping[TaskKind, str] = {
    "classification": "logreg",
    "binary": "logreg",
    "regression": "linear",
    "next-character": "char-lstm",
}
"""The model that `auto` stands for, by task."""


def component(value: Any) -> Any:
    """Returns the long form of a component: "clip", {"name": "clip", "norm": 1} -> {"name": "clip", "options":
    {...}}."""
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
    """All settings of a run. Component options are in `options` as plain values."""

    seed: int = Field(
        default=0, ge=0, description="Seed of all random numbers of the run, except those that privacy rests on."
    )
    rounds: int = Field(default=10, ge=1, description="Number of rounds to train.")
    data: str | None = Field(default=None, min_length=1, description="The partition directory.", json_schema_extra=PATH)
    plugins: tuple[str, ...] = Field(default=(), description="Python files to load as plugins.", json_schema_extra=CODE)
    metric: str | None = Field(
        default=None, min_length=1, description="Metric by which the best checkpoint is chosen; null: by task."
    )
    partition: dict[str, Any] | None = Field(
        default=None,
        description="Settings of `flctl partition --config`; not read by training.",
        json_schema_extra=PATH,
    )
    model: Named = Field(default=_default("model"), description="The model; auto: by task.")
    strategy: Named = Field(default=_default("strategy"), description="The algorithm.")
    aggregator: Named = Field(default=_default("aggregator"), description="How client updates are combined.")
    transforms: Layers = Field(
        default=(), description="Processing applied to updates (clipping, compression, DP), in order."
    )
    cohort: CohortConfig = Field(default=CohortConfig(), description="Selection of each round's clients.")
    local: LocalConfig = Field(default=LocalConfig(), description="Local training on each client.")
    server: ServerConfig = Field(default=ServerConfig(), description="Server optimiser, applied to the mean update.")
    eval: EvalConfig = Field(default=EvalConfig(), description="Evaluation.")
    stop: StopConfig = Field(default=StopConfig(), description="Early stopping.")
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="Checkpoints.")
    engine: EngineConfig = Field(default=EngineConfig(), description="Engine that runs clients.")
    attack: AttackConfig = Field(default=AttackConfig(), description="Simulated malicious clients.")
    devices: DevicesConfig = Field(
        default=DevicesConfig(), description="Simulated client devices: stragglers, speed, availability."
    )


WITHOUT_INFLUENCE = frozenset(
    {"rounds", "data", "plugins", "partition", "stop", "checkpoint", "engine", "eval.disclose_clients"}
)
LATER = (
    ("eval", "positive", None),
    ("eval", "at", "server"),
    ("eval", "min_rows", None),
    ("local", "class_weights", "none"),
)
"""Keys that earlier versions did not have, with the values that leave a run as it was without them."""
ENGINE_INFLUENCE = frozenset({"engine.executor", "engine.memory", "engine.alone"})


def effective(config: Config) -> dict[str, Any]:
    """Returns the configuration as plain nested values, as in YAML, without keys that have no effect."""
    tree = config.model_dump(mode="json")
    for name, value in tree.items():
        section = getattr(config, name)
        if isinstance(section, Section):
            tree[name] = {key: item for key, item in value.items() if key not in section.idle()}
    options = tree["engine"].pop("options")
    tree["engine"].update(options)
    return tree


def without_influence(config: Config) -> frozenset[str]:
    """Returns the sections and keys that set how long, where and how safely a run trains, and change no number.

    `rounds` has influence when the learning rate's schedule ends with the last round (cosine, linear).
    """
    horizon = config.local.schedule in ("cosine", "linear")
    return WITHOUT_INFLUENCE - {"rounds"} if horizon else WITHOUT_INFLUENCE


def differences(one: Config, other: Config) -> list[str]:
    """The dotted keys whose effective values differ."""
    first, second = _flatten(effective(one)), _flatten(effective(other))
    return sorted(key for key in {*first, *second} if first.get(key) != second.get(key))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def digest(config: Config) -> str:
    """Returns `sha256:...` of the keys that determine the numbers: equal digests and equal data give equal global
    models.

    Keys that only set how long, where and how safely to run are left out (`without_influence`). Of `engine` those count
    that determine which clients train together, and so the order in which numbers are added (`ENGINE_INFLUENCE`).
    """
    left_out = without_influence(config)
    left_out |= {"attack"} if config.attack.name == "none" else set()
    left_out |= set() if config.devices.simulated else {"devices"}
    parts = {key: value for key, value in effective(config).items() if key not in left_out}
    parts["eval"] = {key: value for key, value in parts["eval"].items() if f"eval.{key}" not in left_out}
    for section, key, neutral in LATER:
        if parts[section][key] == neutral:
            parts[section] = {name: value for name, value in parts[section].items() if name != key}
    parts[LAYERED] = list(parts[LAYERED].items())  # their order counts
    parts["engine"] = _engine_influence(config.engine)
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _engine_influence(engine: EngineConfig) -> dict[str, Any]:
    """The values of the keys `ENGINE_INFLUENCE`. `alone` is left out if false: digests made before it existed hold."""
    values = {"executor": engine.executor, "memory": engine.memory_bytes}
    return {**values, "alone": True} if engine.alone else values


def dump(config: Config) -> str:
    """Returns YAML that `load` reads back to an equal configuration."""
    return yaml_writer.write(effective(config))
