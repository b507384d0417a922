"""`flctl plugins`: which components there are, where they come from, and what their options are."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.registry import Offer, Registry

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds `plugins` to the application."""
    plugins = typer.Typer(no_args_is_help=True, help="List components and plugins, show one with its options.")
    plugins.command("list")(list_plugins)
    plugins.command("show")(show)
    app.add_typer(plugins, name="plugins")


def list_plugins(
    kind: Annotated[str | None, typer.Option("--kind", help="Only one kind: strategy, model ...")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List every component by kind with its origin, and the plugins that did not load."""
    from flctl.errors import ConfigError
    from flctl.registry import KINDS, suggest

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"unknown kind '{kind}'", hint=suggest(kind, KINDS) or f"Known: {', '.join(KINDS)}.")
    registry = current_registry()
    rows = [_row(k, offer) for k in ([kind] if kind else KINDS) for offer in registry.offers(k).values()]
    broken = [{"plugin": b.name, "origin": b.origin, "reason": b.reason} for b in registry.broken]
    loaded = [{"plugin": plugin.name, "origin": plugin.origin} for plugin in registry.plugins]
    data = {"components": rows, "plugins": loaded, "broken": broken}
    output.emit("plugins list", data, as_json, lambda console: _render_list(console, data))


def show(
    name: Annotated[str, typer.Argument(help="A component's name.")],
    kind: Annotated[str | None, typer.Option("--kind", help="Its kind, where a name has several.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a component: what it is, where it comes from, its options with types and defaults."""
    registry = current_registry()
    offers = _find(registry, name, kind)
    data = {"components": [{**_row(k, offer), "doc": _doc(offer), "options": _options(offer)} for k, offer in offers]}
    output.emit("plugins show", data, as_json, lambda console: _render_show(console, data))


def _find(registry: Registry, name: str, kind: str | None) -> list[tuple[str, Offer]]:
    from flctl.errors import PluginError
    from flctl.registry import KINDS, suggest

    kinds = [kind] if kind else list(KINDS)
    found = [(k, registry.offers(k)[name]) for k in kinds if name in registry.offers(k)]
    if not found:
        known = {other for k in kinds for other in registry.offers(k)}
        raise PluginError(f"no component is named '{name}'", hint=suggest(name, known) or "See `flctl plugins list`.")
    return found


def _doc(offer: Offer) -> str:
    return inspect.getdoc(offer.component) or ""


def _row(kind: str, offer: Offer) -> dict[str, str]:
    summary = (_doc(offer).splitlines() or [""])[0]
    return {"kind": kind, "name": offer.component.name, "summary": summary, "origin": offer.plugin.origin}


def _options(offer: Offer) -> list[Mapping[str, Any]]:
    return [
        {
            "name": name,
            "type": _type_name(field.annotation),
            "default": None if field.is_required() else field.get_default(call_default_factory=True),
            "required": field.is_required(),
            "description": field.description or "",
        }
        for name, field in offer.component.Config.model_fields.items()
    ]


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _render_list(console: Console, data: Mapping[str, Any]) -> None:
    cells = ((row["kind"], row["name"], row["origin"], row["summary"]) for row in data["components"])
    output.table(console, ("kind", "name", "from", "what"), cells, left=4)
    for broken in data["broken"]:
        output.warn(f"plugin '{broken['plugin']}' ({broken['origin']}) did not load: {broken['reason']}")


def _render_show(console: Console, data: Mapping[str, Any]) -> None:
    for component in data["components"]:
        console.print(f"{component['kind']} {component['name']} ({component['origin']})\n", markup=False)
        console.print(component["doc"], markup=False)
        rows = [
            (o["name"], o["type"], "required" if o["required"] else o["default"], o["description"])
            for o in component["options"]
        ]
        if rows:
            output.table(console, ("option", "type", "default", "meaning"), rows, left=4)
        else:
            console.print("\nIt has no options.\n")
