"""Optional packages, imported when a reader needs them."""

from __future__ import annotations

import importlib
from typing import Any

from flctl.errors import MissingExtraError

__all__ = ["optional"]


def optional(module: str, package: str, purpose: str) -> Any:
    """The module, once imported. Raises MissingExtraError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {purpose} needs {package}, which is not installed", hint="pip install 'flctl[data]'"
        ) from error
