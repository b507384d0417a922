"""The class under test under a name that a configuration can give, in this process and in a worker's.

A configuration names a class by file. So a small file is written that fetches the class by the name of its module, or
from its own file; a class that was made in a function can be had in this process only.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import weakref
from pathlib import Path
from typing import Any

from flctl.errors import PluginError
from flctl.plugins.files import load_file

__all__ = ["fetch", "is_importable", "spelt"]

_here: weakref.WeakValueDictionary[str, type[Any]] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def spelt(component: type[Any], directory: Path) -> str:
    """`file.py:Subject`, with a new file in `directory`, for a configuration to name the class by."""
    number = next(_numbers)
    key = f"{component.__module__}.{component.__qualname__}.{number}"
    _here[key] = component
    arguments = (key, component.__module__, component.__qualname__, _source(component))
    file = directory / f"subject_{number}.py"
    lines = ("from flctl.testing.subject import fetch", "", f"Subject = fetch(*{arguments!r})", "")
    file.write_text("\n".join(lines), encoding="utf-8")
    return f"{file.as_posix()}:Subject"


def fetch(key: str, module: str, qualname: str, file: str | None) -> type[Any]:
    """The class: the one of this process, else by its module, else by its file. Raises PluginError where it cannot
    be had."""
    local = _here.get(key)
    if local is not None:
        return local
    found: Any = _module(module, file)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not inspect.isclass(found):
        raise PluginError(f"{module} has no class '{qualname}' in this process")
    return found


def is_importable(component: type[Any]) -> bool:
    """True if another process can import the class."""
    return "<locals>" not in component.__qualname__ and _source(component) is not None


def _module(name: str, file: str | None) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None:
            raise PluginError(f"{name} cannot be imported in this process: {error}") from error
        return load_file(Path(file))


def _source(component: type[Any]) -> str | None:
    try:
        return str(Path(inspect.getfile(component)).resolve())
    except (TypeError, OSError):
        return None
