"""Version of the plugin API that a plugin needs, compared with the one that this flctl has.

A plugin states it as `FLCTL_API = "1.0"` in the module that its entry point, or `plugins:`, names. Versions are
MAJOR.MINOR: the first number changes when a plugin must change, the second when there is more to use. The statement is
read from the source before the module runs, so that a plugin for another version is refused with a sentence and not by
whatever fails first in it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

from flctl.errors import PluginError

__all__ = ["STATEMENT", "check_statement", "source_of", "stated_in"]

STATEMENT = "FLCTL_API"
_VERSION = re.compile(r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", re.ASCII)


def check_statement(stated: object) -> None:
    """Raises PluginError if a plugin states an API version that is invalid or that this flctl does not support."""
    from flctl.version import API_VERSION, __version__

    match = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    if match is None:
        raise PluginError(
            f"{STATEMENT} is {stated!r}, expected MAJOR.MINOR as text", hint=f'Write {STATEMENT} = "{API_VERSION}".'
        )
    needed = int(match[1]), int(match[2])
    here = tuple(int(part) for part in API_VERSION.split("."))
    if needed[0] != here[0] or needed > here:
        raise PluginError(
            f"it needs version {stated} of the plugin API, and flctl {__version__} has {API_VERSION}",
            hint="Install a newer flctl." if needed > here else f"Install a version of the plugin for API {here[0]}.",
        )


def stated_in(file: Path) -> object:
    """Returns the API version that a Python file states; None if it cannot be read without running the file."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == STATEMENT for target in targets):
                return node.value.value
    return None


def source_of(module: str) -> Path | None:
    """Returns the file of a module that is not imported yet; None if there is no file or it cannot be determined."""
    try:
        found = importlib.util.find_spec(module)
    except Exception:  # a parent package runs here; the import itself will tell what fails in it
        return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None
