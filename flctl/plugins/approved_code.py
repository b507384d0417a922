"""Code that a site approved by its SHA-256, as a module of this process: `approved:SHA256:NAME` in a configuration."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType

from flctl.errors import PluginError

__all__ = ["approved_module", "load_code"]

PREFIX = "flctl_approved_"


def load_code(source: bytes) -> str:
    """Runs approved code as a module, once in a process, and returns its SHA-256. Raises PluginError if it fails.

    The bytes that are hashed here are the bytes that run: no file is read again in between.
    """
    digest = hashlib.sha256(source).hexdigest()
    name = PREFIX + digest
    if name not in sys.modules:
        module = ModuleType(name)
        sys.modules[name] = module
        try:
            exec(compile(source, f"approved/{digest}.py", "exec"), module.__dict__)  # noqa: S102
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise PluginError(f"approved code {digest[:12]}... failed to load: {type(error).__name__}") from error
    return digest


def approved_module(digest: str) -> ModuleType:
    """Returns the module of approved code. Raises PluginError if this process was not handed it."""
    module = sys.modules.get(PREFIX + digest)
    if module is None:
        raise PluginError(
            f"the approved code {digest[:12]}... is not in this process",
            hint="Sites read and approve it with: flctl site review RUN --code FILE",
        )
    return module
