"""What every pluggable kind has in common: a name, and options that are parsed and validated before use."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

__all__ = ["Component", "Options"]


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
