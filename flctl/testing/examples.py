"""Options for a component that cannot be made without: the examples that its Config gives."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

__all__ = ["or_examples", "unexplained_options"]


def or_examples(options: Mapping[str, Any] | None, component: type[Any]) -> Mapping[str, Any]:
    """Returns the options. If none are given, these are the first of `Field(examples=[...])` of each option that has
    examples: those without a default, and those that a check needs otherwise, such as a seed in place of the
    operating system's randomness."""
    if options is not None:
        return options
    return {name: field.examples[0] for name, field in _fields(component).items() if field.examples}


def unexplained_options(component: type[Any]) -> list[str]:
    """The options that have neither a default nor an example."""
    return [name for name, field in _required(component).items() if not field.examples]


def _required(component: type[Any]) -> dict[str, Any]:
    return {name: field for name, field in _fields(component).items() if field.is_required()}


def _fields(component: type[Any]) -> dict[str, Any]:
    return getattr(getattr(component, "Config", None), "model_fields", {}) if inspect.isclass(component) else {}
