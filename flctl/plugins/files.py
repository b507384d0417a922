"""Components from a file of one's own: `./mine.py:Name` where a strategy, transform, aggregator or engine is named."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flctl.errors import PluginError, suggest
from flctl.kinds import KINDS, file_of
from flctl.plugins.api_version import STATEMENT, check_statement, stated_in

if TYPE_CHECKING:
    from flctl.component import Component

__all__ = ["component_in", "load_file"]


def load_file(path: Path) -> ModuleType:
    """The module that a local `.py` file defines.

    Raises PluginError when it cannot be loaded, or states another version of the API.
    """
    if not path.is_file():
        here = (
            "Use a path relative to the current folder; resume and evaluate a run in the folder where it was started."
        )
        raise PluginError(f"plugin file {path} does not exist", hint="Check the path." if path.is_absolute() else here)
    # By the whole path, because two files in different folders may have one name.
    name = f"flctl_file_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file", hint="Use a file name that ends in .py.")
    _check_version(path, stated_in(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise PluginError(f"plugin file {path} failed to load: {type(error).__name__}: {error}") from error
    _check_version(path, getattr(module, STATEMENT, None))
    return module


def component_in(module: ModuleType, kind: str, name: str) -> type[Component]:
    """Returns the class that `name` refers to in its module: `./mine.py:Name`, or `./mine.py` if it defines one of the
    kind.

    Raises PluginError if there is no such class, more than one, or one of another kind.
    """
    path = str(file_of(name))
    wanted = None if name.endswith(".py") else name.rpartition(":")[2]
    found = _only(module, kind, path) if wanted is None else getattr(module, wanted, None)
    if found is None:
        raise PluginError(f"{path} has no class '{wanted}'", hint=_meant(module, kind, str(wanted)))
    if not (inspect.isclass(found) and issubclass(found, KINDS[kind].base)):
        raise PluginError(f"'{wanted}' in {path} is {_what(found)}, expected {_a(kind)}", hint=_use(found, kind))
    if not isinstance(getattr(found, "name", None), str):
        raise PluginError(f"class '{found.__name__}' in {path} has no name", hint='Add a name: name = "my-own".')
    return found


def _check_version(path: Path, stated: object) -> None:
    if stated is None:
        return
    try:
        check_statement(stated)
    except PluginError as error:
        raise PluginError(f"plugin file {path} cannot be used: {error.message}", hint=error.hint) from error


def _only(module: ModuleType, kind: str, path: str) -> Any:
    """The one class of a kind that a module itself defines."""
    names = sorted(_of_kind(module, kind))
    if not names:
        base = KINDS[kind].base.__name__
        raise PluginError(f"{path} defines no {kind}", hint=f"It is a class that extends flctl.{base}.")
    if len(names) > 1:
        raise PluginError(
            f"{path} defines several classes: {', '.join(names)}",
            hint=f"Choose one, as {path}:{names[0]}.",
        )
    return getattr(module, names[0])


def _of_kind(module: ModuleType, kind: str) -> list[str]:
    base = KINDS[kind].base
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]


def _meant(module: ModuleType, kind: str, wanted: str) -> str:
    names = _of_kind(module, kind)
    called = [name for name in names if getattr(getattr(module, name), "name", None) == wanted]
    if called:
        return f"Use the class instead of its name: '{called[0]}'."
    listed = ", ".join(sorted(names))
    return suggest(wanted, names) or (f"It defines: {listed}." if names else f"It defines no {kind}.")


def _what(found: object) -> str:
    if not inspect.isclass(found):
        return _a(type(found).__name__)
    return next((_a(kind) for kind in KINDS if issubclass(found, KINDS[kind].base)), "another class")


def _use(found: object, kind: str) -> str:
    other = next(
        (name for name, k in KINDS.items() if k.from_file and inspect.isclass(found) and issubclass(found, k.base)),
        None,
    )
    if other is not None:
        return f"Use it with --{other}."
    return f"{_a(kind).capitalize()} is a class that extends flctl.{KINDS[kind].base.__name__}."


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
