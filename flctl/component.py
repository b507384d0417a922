"""Base of every kind of component: a name, and options that are parsed and validated before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, JsonValue

__all__ = [
    "CODE",
    "PATH",
    "Component",
    "Options",
]

CODE: dict[str, JsonValue] = {"place": "code"}
"""Mark of an option that names code: `Field(json_schema_extra=CODE)`. Real sites accept approved code alone there."""
PATH: dict[str, JsonValue] = {"place": "path"}
"""Mark of an option that names a file or a folder. Real sites set such an option themselves, never from a plan."""


class Options(BaseModel):
    """Frozen options; an unknown key or a non-finite number is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Component:
    """A named thing that a plugin may offer: strategy, transform, aggregator, engine, model, data set, partitioner.

    The first line of the docstring is what `flctl plugins list` shows; `Config` declares the options that YAML
    and flags may set.
    """

    name: ClassVar[str]

    class Config(Options):
        """No options."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = config if config is not None else self.Config()

    @classmethod
    def from_options(cls, options: dict[str, Any] | None = None) -> Self:
        """The component configured by plain values. Raises `pydantic.ValidationError` for a bad option."""
        return cls(cls.Config.model_validate(options or {}))


class Offered(Protocol):
    """A component class that a catalogue offers."""

    @property
    def component(self) -> type[Component]:
        """The class."""


class Catalogue(Protocol):
    """Look-up of components by kind and name.

    The registry of plugins is one (`flctl.plugins.registry.Registry`). Configuration, data, partition and run ask for
    no more than this, and so need to know neither plugins nor how they are found.
    """

    @property
    def files(self) -> tuple[Path, ...]:
        """Local plugin files that were loaded."""

    @property
    def disabled(self) -> tuple[str, ...]:
        """Names of the plugins that were left out."""

    @property
    def hook(self) -> Any:
        """The pluggy hook relay, for events."""

    def get(self, kind: str, name: str) -> type[Any]:
        """Returns the class of the component `name`. Raises PluginError for an unknown one."""

    def offers(self, kind: str) -> Mapping[str, Offered]:
        """Returns every component of a kind by name. Raises PluginError if two have one name."""

    def build(self, kind: str, name: str, options: Mapping[str, Any]) -> Any:
        """Returns the component `name`, configured. Raises PluginError, or `pydantic.ValidationError` for an option
        that it does not have."""

    def add_file(self, file: Path) -> None:
        """Loads a local plugin file, once. Raises PluginError if it cannot be loaded."""
