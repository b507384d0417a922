"""Writes the package of `flctl plugins new`: one working component, its tests and its README.

The files are templates in `flctl/plugins/template/`: `common/` for every kind, and a folder for each.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from flctl import atomic
from flctl.config.sections.training import AUTO
from flctl.errors import ConfigError, PluginError, suggest
from flctl.kinds import KINDS
from flctl.plugins.registry import Registry
from flctl.version import API_VERSION, __version__

__all__ = ["Names", "names_of", "refuse_clash", "render", "write"]

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
PREFIX = "flctl-"
DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10)))
)
"""Names that Windows keeps for devices, whatever follows after a dot."""
TAKEN = frozenset({"src", "tests", "build", "dist", "flctl"})
"""Modules that would hide a folder of the package, or flctl."""
TAKEN_CLASSES = frozenset(
    ("Field", "Generator", "Iterable", "Iterator", "Mapping", "Path", "Replies", "Run", "Sequence")
)
"""Names that the templates import."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names derived from one word: the distribution, the Python module, the component and the class."""

    distribution: str
    module: str
    component: str
    class_name: str


def names_of(word: str) -> Names:
    """The names that follow from a distribution's: `flctl-top-k` is the module flctl_top_k, the component top-k and
    the class TopK. Raises ConfigError for a word that cannot be all of them, on Windows too."""
    if not NAME.fullmatch(word):
        tame = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:64].strip("-")
        hint = f"Did you mean '{tame}'?" if NAME.fullmatch(tame) else None
        raise ConfigError(
            f"a package cannot be named {word!r:.80}: lower-case letters, digits, '-', '_' and '.' can, up to 64",
            hint=hint or "Write for example my-strategy.",
        )
    component = re.sub(r"[._-]+", "-", word.removeprefix(PREFIX)).strip("-")
    module = re.sub(r"[._-]+", "_", word)
    class_name = "".join(part.capitalize() for part in component.split("-"))
    reason = _unusable(word, module, class_name)
    if reason:
        raise ConfigError(f"a package cannot be named '{word}': {reason}", hint="Use another name.")
    return Names(word, module, component, class_name)


def refuse_clash(names: Names, kind: str, registry: Registry) -> None:
    """Raises PluginError where a component, plugin, module or distribution of that name is there already."""
    if names.component == AUTO:
        raise PluginError(f"'{AUTO}' is the value for automatic choice", hint=_OTHER)
    taken = registry.offers(kind).get(names.component)
    if taken is not None:
        raise PluginError(f"a {kind} named '{names.component}' already exists, in {taken.plugin.origin}", hint=_OTHER)
    plugins = {plugin.name: plugin.origin for plugin in registry.plugins}
    plugins |= {plugin.name: plugin.origin for plugin in registry.broken}
    if names.component in plugins:
        where = plugins[names.component]
        raise PluginError(f"a plugin named '{names.component}' is already installed, from {where}", hint=_OTHER)
    if _version(names.distribution):
        found = f"{names.distribution} {_version(names.distribution)}"
        raise PluginError(f"a distribution of that name is installed: {found}", hint=_OTHER)
    if importlib.util.find_spec(names.module) is not None:
        raise PluginError(f"a module named '{names.module}' can already be imported", hint=_OTHER)


def render(names: Names, kind: str) -> dict[str, str]:
    """The files of the package: path within it -> text. Raises ConfigError for an unknown kind."""
    if kind not in KINDS:
        raise ConfigError(f"unknown kind '{kind}'", hint=suggest(kind, KINDS) or f"Known: {', '.join(KINDS)}.")
    values = {
        "distribution": names.distribution,
        "module": names.module,
        "name": names.component,
        "class_name": names.class_name,
        "kind": kind,
        "hook": KINDS[kind].hook,
        "base": KINDS[kind].base.__name__,
        "summary": KINDS[kind].example,
        "api": API_VERSION,
        "flctl": ".".join(__version__.split(".")[:2]),
    }
    values["use"] = _filled(f"{kind}/use.md", values).rstrip()
    return {
        "pyproject.toml": _filled("common/pyproject.toml", values),
        "README.md": _filled("common/README.md", values),
        ".gitignore": _filled("common/gitignore", values),
        f"src/{names.module}/__init__.py": _filled("common/__init__.py", values),
        f"src/{names.module}/{kind}.py": _filled(f"{kind}/component.py", values),
        f"tests/test_{names.module}.py": _filled(f"{kind}/test_component.py", values),
    }


def write(directory: Path, rendered: Mapping[str, str]) -> None:
    """Writes the files into the new directory, whole or not at all. Raises ConfigError where it exists."""
    with atomic.new_directory(directory) as partial:
        for path, text in rendered.items():
            file = partial / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")


_OTHER = "Use another name; nothing was written."


def _unusable(word: str, module: str, class_name: str) -> str | None:
    if word.partition(".")[0] in DEVICES or module in DEVICES:
        return "Windows reserves that name for a device"
    if not module.isidentifier() or keyword.iskeyword(module) or keyword.issoftkeyword(module):
        return f"'{module}' cannot be a Python module"
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        return f"'{class_name}' cannot be a Python class"
    if module in sys.stdlib_module_names or module in TAKEN:
        return f"the module '{module}' belongs to another package"
    return f"the class '{class_name}' belongs to another package" if class_name in TAKEN_CLASSES else None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = (files("flctl.plugins") / "template" / f"{template}.tmpl").read_text(encoding="utf-8")
    return Template(text).substitute(values)
