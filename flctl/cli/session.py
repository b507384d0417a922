"""The registry that the command line was started with, so that `--disable-plugin` holds for every command."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flctl.plugins.registry import Registry

__all__ = ["current_registry", "use_registry"]

_current: ContextVar[Registry] = ContextVar("registry")


def use_registry(registry: Registry) -> None:
    """Makes `registry` the one that commands see."""
    _current.set(registry)


def current_registry() -> Registry:
    """Returns the registry in use; a new one if no command line was started."""
    from flctl.plugins.registry import Registry

    try:
        return _current.get()
    except LookupError:
        return Registry()
