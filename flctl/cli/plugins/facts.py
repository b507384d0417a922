"""Facts about components and plugins for `flctl plugins list` and `show`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from flctl.config.validation import expectation, schema_of
from flctl.errors import ConfigError, PluginError, suggest
from flctl.kinds import KINDS
from flctl.plugins.registry import BrokenPlugin, Offer, Plugin, Registry

__all__ = ["details", "kinds", "listing"]

Row = dict[str, Any]


def kinds(kind: str | None) -> Sequence[str]:
    """The kind that was asked for, or all. Raises ConfigError for an unknown one."""
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"unknown kind '{kind}'", hint=suggest(kind, KINDS) or f"Known: {', '.join(KINDS)}.")
    return [kind] if kind else list(KINDS)


def listing(registry: Registry, wanted: Sequence[str]) -> Row:
    """Every component of some kinds, and every plugin."""
    components = [_component(kind, offer) for kind in wanted for offer in registry.offers(kind).values()]
    broken = [{"plugin": b.name, "origin": b.origin, "reason": b.reason} for b in registry.broken]
    return {"components": components, "plugins": _plugins(registry), "broken": broken}


def details(registry: Registry, name: str, wanted: Sequence[str]) -> Row:
    """The components of a name, and the plugin. Raises PluginError where there is neither."""
    offers = [(kind, registry.offers(kind)[name]) for kind in wanted if name in registry.offers(kind)]
    components = [{**_component(k, offer), "doc": _doc(offer), "options": _options(offer)} for k, offer in offers]
    plugins = [
        {**row, "components": _offered(registry, row["plugin"])}
        for row in _plugins(registry)
        if row["plugin"] == name and len(wanted) > 1
    ]
    if not components and not plugins:
        known = {other for kind in wanted for other in registry.offers(kind)}
        raise PluginError(f"no component is named '{name}'", hint=suggest(name, known) or "See `flctl plugins list`.")
    return {"components": components, "plugins": plugins}


def _plugins(registry: Registry) -> list[Row]:
    broken_by_name = {broken.name: broken for broken in registry.broken}
    loaded = [_plugin(plugin, broken_by_name.pop(plugin.name, None)) for plugin in registry.plugins]
    return [*loaded, *(_plugin(Plugin(b.name, b.origin), b) for b in broken_by_name.values())]


def _plugin(plugin: Plugin, broken: BrokenPlugin | None) -> Row:
    return {
        "plugin": plugin.name,
        "origin": plugin.origin,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "api": plugin.api,
        "health": f"broken: {broken.reason}" if broken else "ok",
    }


def _offered(registry: Registry, plugin: str) -> list[Row]:
    return [
        {"kind": kind, "name": name}
        for kind in KINDS
        for name, offer in registry.offers(kind).items()
        if offer.plugin.name == plugin
    ]


def _component(kind: str, offer: Offer) -> Row:
    plugin = offer.plugin
    return {
        "kind": kind,
        "name": offer.component.name,
        "summary": (_doc(offer).splitlines() or [""])[0],
        "origin": plugin.origin,
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "class": f"{offer.component.__module__}.{offer.component.__qualname__}",
    }


def _doc(offer: Offer) -> str:
    return inspect.getdoc(offer.component) or ""


def _options(offer: Offer) -> list[Mapping[str, Any]]:
    config = offer.component.Config
    allowed = schema_of(config).get("properties", {})
    return [
        {
            "name": name,
            "type": _type_name(field.annotation),
            "allowed": expectation(allowed.get(name, {})),
            "default": None if field.is_required() else field.get_default(call_default_factory=True),
            "required": field.is_required(),
            "description": field.description or "",
        }
        for name, field in config.model_fields.items()
    ]


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
