"""Finds plugins and turns names into classes. Clashes and broken plugins are named with their distribution."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from flctl.errors import PluginError, suggest
from flctl.kinds import KINDS, file_of
from flctl.plugins import hookspecs
from flctl.plugins.api_version import STATEMENT, check_statement, source_of, stated_in
from flctl.plugins.files import component_in, load_file
from flctl.version import API_VERSION, __version__

if TYPE_CHECKING:
    from flctl.component import Component

__all__ = ["BrokenPlugin", "Offer", "Plugin", "Registry", "plugin_names"]

ENTRY_POINTS = "flctl"
DEFAULT_PLUGINS = ("flctl.builtins",)
"""Modules of hooks that are registered first; by name, because the built-ins import much of what lies above."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that loaded: its name, and where it came from ("flctl 0.1.0", "flctl-dp 0.1.0", "mine.py").

    `distribution` and `version` are those of an installed package; `api` is the version of the plugin API that the
    plugin states, if it does.
    """

    name: str
    origin: str
    distribution: str | None = None
    version: str | None = None
    api: str | None = None


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """A plugin that did not load, with the reason in one sentence."""

    name: str
    origin: str
    reason: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A component class and the plugin that offers it."""

    component: type[Component]
    plugin: Plugin


def plugin_names() -> list[str]:
    """The names of the installed plugins, whether they load or not."""
    return sorted({entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return f"{error.message}. {error.hint}" if error.hint else error.message
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
        self._modules: dict[Path, ModuleType] = {}
        for name in DEFAULT_PLUGINS:
            plugin = Plugin("builtin", f"flctl {__version__}", "flctl", __version__, API_VERSION)
            self._add(importlib.import_module(name), plugin)
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
            self._add(self._module(file), Plugin(str(file), file.name))
            self.files = (*self.files, file)
            self._offers.clear()

    def plugin(self, name: str) -> Any:
        """The module or object of a plugin that loaded; None for others."""
        return self.manager.get_plugin(name)

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
        """Returns the class of the component `name`, or of `file.py:Class` for kinds that accept local files.

        Raises PluginError with a suggestion if there is no such component.
        """
        file = file_of(name) if KINDS[kind].from_file else None
        if file is not None:
            return component_in(self._module(file), kind, name)
        offers = self.offers(kind)
        if name in offers:
            return offers[name].component
        known = ", ".join(sorted(offers))
        message = f"unknown {KINDS[kind].noun} '{name}'"
        if self.broken:
            message += "".join(f"; plugin '{b.name}' ({b.origin}) did not load: {b.reason}" for b in self.broken)
        own = " Use file.py:Class for a class in a file." if ":" in name and KINDS[kind].from_file else ""
        raise PluginError(message, hint=(suggest(name, offers) or f"Known: {known}.") + own)

    def build(self, kind: str, name: str, options: Mapping[str, Any]) -> Any:
        """The component `name` configured with `options`; a model's name may be the user's own function.

        Raises PluginError for an unknown name or a function that cannot be found, `pydantic.ValidationError` for an
        option that the component does not have.
        """
        if kind == "model" and ":" in name:
            from flctl.plugins.custom_model import CustomModel

            return CustomModel.from_options({"function": name, "options": dict(options)})
        return self.get(kind, name).from_options(dict(options))

    def register_commands(self, app: Any) -> None:
        """Lets each plugin add its subcommands; one that fails is marked broken."""
        for plugin, function in self._implementations("flctl_commands"):
            try:
                function(app)
            except Exception as error:
                self._mark_broken(plugin, _reason(error))

    def _collect(self, kind: str) -> dict[str, Offer]:
        found: dict[str, Offer] = {}
        for plugin, function in self._implementations(KINDS[kind].hook):
            try:
                components = list(function())
            except Exception as error:
                self._mark_broken(plugin, _reason(error))
                continue
            for component in components:
                wrong = _misfit(component, kind)
                if wrong:
                    self._mark_broken(plugin, f"{KINDS[kind].hook}() returned {wrong}")
                    continue
                _refuse_clash(kind, found, Offer(component, plugin))
                found[component.name] = Offer(component, plugin)
        return found

    def _mark_broken(self, plugin: Plugin, reason: str) -> None:
        broken = BrokenPlugin(plugin.name, plugin.origin, reason)
        if broken not in self.broken:
            self.broken.append(broken)

    def _implementations(self, hook: str) -> Iterable[tuple[Plugin, Any]]:
        for name, plugin in self._plugins.items():
            function = getattr(self.manager.get_plugin(name), hook, None)
            if function is not None:
                yield plugin, function

    def _module(self, file: Path) -> ModuleType:
        """The module of a local file; each file runs once."""
        key = file.resolve()
        if key not in self._modules:
            self._modules[key] = load_file(file)
        return self._modules[key]

    def _load_entry_points(self, disable: frozenset[str]) -> None:
        for entry, plugin in _installed(tuple(map(_state_of, sys.path))):
            if entry.name in disable:
                continue
            if entry.name in self._plugins:
                self._mark_broken(plugin, f"the name '{entry.name}' is taken by {self._plugins[entry.name].origin}")
                continue
            try:
                module, api = _loaded(entry)
                self._add(module, dataclasses.replace(plugin, api=api))
            except (Exception, SystemExit) as error:
                self._mark_broken(plugin, _reason(error))

    def _add(self, module: object, plugin: Plugin) -> None:
        self.manager.register(module, name=plugin.name)
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            self.manager.unregister(module)
            raise PluginError(f"plugin '{plugin.name}' ({plugin.origin}): {error}") from error
        stated = getattr(module, STATEMENT, None)
        self._plugins[plugin.name] = dataclasses.replace(plugin, api=stated if isinstance(stated, str) else plugin.api)


def _misfit(component: object, kind: str) -> str | None:
    """Describes why a hook's value is not a component; None if it is."""
    base = KINDS[kind].base
    if not (inspect.isclass(component) and issubclass(component, base)):
        return f"{component!r:.80}, expected a class that extends flctl.{base.__name__}"
    if not isinstance(getattr(component, "name", None), str):
        return f"class {component.__name__}, which has no name"
    return None


@lru_cache(maxsize=1)
def _installed(path: tuple[tuple[str, int], ...]) -> Sequence[tuple[importlib.metadata.EntryPoint, Plugin]]:
    """The entry points of the group and their plugins, in order of their names.

    The metadata of all packages is read once for each state of the path: reading it takes longer than a short round.
    """
    # By name: the order in which packages lie on the disk must not decide anything.
    entries = sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name)
    return [(entry, _plugin_of(entry)) for entry in entries]


def _state_of(folder: str) -> tuple[str, int]:
    """A folder on the path, and the time when a package was last added or removed there."""
    try:
        return folder, os.stat(folder or ".").st_mtime_ns
    except OSError:
        return folder, 0


def _plugin_of(entry: importlib.metadata.EntryPoint) -> Plugin:
    if entry.dist is None:
        return Plugin(entry.name, "unknown distribution")
    distribution, version = entry.dist.name, entry.dist.version
    return Plugin(entry.name, f"{distribution} {version}", distribution, version)


def _loaded(entry: importlib.metadata.EntryPoint) -> tuple[Any, str | None]:
    """Returns the object that an entry point names, and the API version that it states. Raises PluginError for another
    version."""
    file = source_of(entry.module)
    stated = stated_in(file) if file is not None else None
    if stated is not None:
        check_statement(stated)  # before it runs: what it imports from flctl may not exist here
    module = entry.load()
    said = getattr(module, STATEMENT, stated)
    if said is not None:
        check_statement(said)
    return module, str(said) if said is not None else None


def _refuse_clash(kind: str, found: Mapping[str, Offer], offer: Offer) -> None:
    name = offer.component.name
    if name in found:
        raise PluginError(
            f"two plugins offer a {kind} named '{name}': {found[name].plugin.origin} and {offer.plugin.origin}",
            hint=f"Leave one out with --disable-plugin {offer.plugin.name}.",
        )
