"""Finds plugins and turns names into classes. Clashes and broken plugins are named with their distribution."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from flctl import builtins, hookspecs
from flctl.errors import PluginError

if TYPE_CHECKING:
    from flctl.component import Component

__all__ = ["KINDS", "BrokenPlugin", "Offer", "Plugin", "Registry", "load_file", "plugin_names", "suggest"]

KINDS: Mapping[str, str] = {
    "strategy": "flctl_strategies",
    "transform": "flctl_transforms",
    "aggregator": "flctl_aggregators",
    "engine": "flctl_engines",
    "model": "flctl_models",
    "dataset": "flctl_datasets",
    "partitioner": "flctl_partitioners",
}
ENTRY_POINTS = "flctl"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that loaded: its name, and where it came from ("flctl 0.1.0", "flctl-dp 0.1.0", "./mine.py")."""

    name: str
    origin: str


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that did not load, and why, in one sentence."""

    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A component class and the plugin that offers it."""

    component: type[Component]
    plugin: Plugin


def suggest(name: str, known: Iterable[str]) -> str | None:
    """A did-you-mean sentence, or None when nothing is close."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"Did you mean '{close[0]}'?" if close else None


def plugin_names() -> list[str]:
    """The names of the installed plugins, whether they load or not."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def load_file(path: Path) -> ModuleType:
    """The module that a local `.py` file defines. Raises PluginError when it cannot be loaded."""
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist", hint="Give a path relative to where you are.")
    spec = importlib.util.spec_from_file_location(f"flctl_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file", hint="A plugin file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"plugin file {path} failed to load: {_reason(error)}") from error
    return module


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


class Registry:
    """The plugins of this process: built-ins, entry points of the group `flctl`, and local files.

    `disable` names plugins to leave out; `files` are local plugin files. A plugin that fails to load is kept in
    `broken` and is an error only when a name that it may offer is needed.
    """

    def __init__(self, disable: Sequence[str] = (), files: Sequence[Path] = ()) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.disabled = tuple(disable)
        self.files: tuple[Path, ...] = ()
        self.broken: list[BrokenPlugin] = []
        self._plugins: dict[str, Plugin] = {}
        self._offers: dict[str, dict[str, Offer]] = {}
        self._add(builtins, Plugin("builtin", f"flctl {_version()}"))
        self._load_entry_points(frozenset(disable))
        for file in files:
            self.add_file(file)

    def add(self, module: object, name: str) -> None:
        """Registers a plugin object of this process. Raises PluginError for a hook that does not exist."""
        self._add(module, Plugin(name, "this process"))
        self._offers.clear()

    def add_file(self, file: Path) -> None:
        """Loads a local plugin file, once. Raises PluginError when it cannot be loaded."""
        if file.resolve() not in {known.resolve() for known in self.files}:
            self._add(load_file(file), Plugin(str(file), file.name))
            self.files = (*self.files, file)
            self._offers.clear()

    @property
    def plugins(self) -> Sequence[Plugin]:
        """The plugins that loaded, built-ins first."""
        return list(self._plugins.values())

    @property
    def hook(self) -> Any:
        """The pluggy hook relay, for commands and events."""
        return self.manager.hook

    def observe(self, observer: object) -> None:
        """Registers an object whose event hooks are called for the rest of this process."""
        self.manager.register(observer)

    def offers(self, kind: str) -> Mapping[str, Offer]:
        """Name -> offer for one kind. Raises PluginError for two components of one name."""
        if kind not in self._offers:
            self._offers[kind] = self._collect(kind)
        return self._offers[kind]

    def get(self, kind: str, name: str) -> type[Any]:
        """The class of the component `name`. Raises PluginError with a suggestion when there is none."""
        offers = self.offers(kind)
        if name in offers:
            return offers[name].component
        known = ", ".join(sorted(offers))
        message = f"unknown {kind} '{name}'"
        if self.broken:
            message += "".join(f"; plugin '{b.name}' ({b.origin}) did not load: {b.reason}" for b in self.broken)
        raise PluginError(message, hint=suggest(name, offers) or f"Known: {known}.")

    def register_commands(self, app: Any) -> None:
        """Lets each plugin add its subcommands; one that fails is marked broken."""
        for plugin, function in self._implementations("flctl_commands"):
            try:
                function(app)
            except Exception as error:
                self.broken.append(BrokenPlugin(plugin.name, plugin.origin, _reason(error)))

    def _collect(self, kind: str) -> dict[str, Offer]:
        found: dict[str, Offer] = {}
        for plugin, function in self._implementations(KINDS[kind]):
            try:
                components = list(function())
            except Exception as error:
                self.broken.append(BrokenPlugin(plugin.name, plugin.origin, _reason(error)))
                continue
            for component in components:
                _refuse_clash(kind, found, Offer(component, plugin))
                found[component.name] = Offer(component, plugin)
        return found

    def _implementations(self, hook: str) -> Iterable[tuple[Plugin, Any]]:
        for name, plugin in self._plugins.items():
            function = getattr(self.manager.get_plugin(name), hook, None)
            if function is not None:
                yield plugin, function

    def _load_entry_points(self, disable: frozenset[str]) -> None:
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
            if entry.name in disable:
                continue
            if entry.name in self._plugins:
                reason = f"the name '{entry.name}' is taken by {self._plugins[entry.name].origin}"
                self.broken.append(BrokenPlugin(entry.name, origin, reason))
                continue
            try:
                self._add(entry.load(), Plugin(entry.name, origin))
            except Exception as error:
                self.broken.append(BrokenPlugin(entry.name, origin, _reason(error)))

    def _add(self, module: object, plugin: Plugin) -> None:
        self.manager.register(module, name=plugin.name)
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.manager.unregister(module)
            raise PluginError(f"plugin '{plugin.name}' ({plugin.origin}): {error}") from error
        self._plugins[plugin.name] = plugin


def _refuse_clash(kind: str, found: Mapping[str, Offer], offer: Offer) -> None:
    name = offer.component.name
    if name in found:
        raise PluginError(
            f"two plugins offer a {kind} named '{name}': {found[name].plugin.origin} and {offer.plugin.origin}",
            hint=f"Leave one out with --disable-plugin {offer.plugin.name}.",
        )


def _version() -> str:
    from flctl import __version__

    return __version__
