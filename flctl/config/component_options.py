"""Completes a configuration: components are looked up, their options checked and filled in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from flctl.config.problems import Problem
from flctl.config.sections.training import AUTO, DEFAULT_COMPONENTS, SECTIONS, EngineConfig
from flctl.config.sources import LAYERED, NAMED, KeyPath, Layer, Merged, from_values
from flctl.config.validation import Complaint, coerced, complaints
from flctl.errors import FlctlError

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["Completion", "load_plugins", "presets"]

PLAIN = frozenset({"seed", "rounds", "data", "plugins", "metric", "partition", LAYERED, *SECTIONS})
"""Keys for which null means the default."""


def load_plugins(registry: Catalogue, merged: Merged) -> Iterator[Problem]:
    """Loads the local files listed in `plugins`; yields a problem for each that cannot be loaded."""
    setting = merged.settings.get(("plugins",))
    if setting is None or not isinstance(setting.node.value, list):
        return
    for item in setting.node.value:
        if isinstance(item.value, str):
            try:
                registry.add_file(Path(item.value))
            except FlctlError as error:
                yield Problem(error.message, item.place, error.hint)


def presets(registry: Catalogue, merged: Merged) -> Layer:
    """Returns the strategy's presets of the sections `local` and `server`; none for `server` if another server
    optimiser was asked for."""
    chosen = merged.settings.get(("strategy", "name"))
    name = str(chosen.node.value) if chosen else DEFAULT_COMPONENTS["strategy"]
    try:
        strategy = registry.get("strategy", name)
    except FlctlError:
        return Layer([])  # the unknown name is reported when the component is looked up
    server = dict(strategy.server)
    asked = merged.settings.get(("server", "optimizer"))
    if asked is not None and asked.node.value not in (None, server.get("optimizer")):
        server = {}
    sections = {"local": dict(strategy.local), "server": server}
    preset = {section: values for section, values in sections.items() if values}
    return from_values(preset, (), name, "strategy") if preset else Layer([])


@dataclass(slots=True)
class Completion:
    """Collects complaints while it completes a configuration."""

    registry: Catalogue
    complaints: list[Complaint] = field(default_factory=list)

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values with components in long form, and without the nulls that mean "the default"."""
        tree = {name: _without_nulls(name, value) for name, value in values.items()}
        tree |= {part: self._component(part, tree.get(part, {})) for part in NAMED}
        self._check_partition(tree.get("partition"))
        layers = tree.get(LAYERED)
        if isinstance(layers, dict):
            tree[LAYERED] = {
                name: self._options("transform", name, options, (LAYERED, name)) for name, options in layers.items()
            }
        return {name: value for name, value in tree.items() if value is not None or name not in PLAIN}

    def _check_partition(self, section: Any) -> None:
        if isinstance(section, dict):
            from flctl.config import partition_section

            self.complaints += partition_section.check(section, self.registry)

    def _component(self, part: str, value: Any) -> dict[str, Any]:
        name = DEFAULT_COMPONENTS[part]
        if not isinstance(value, dict):
            self._complain((part,), f"{part} must be a name, or a mapping with a name and options")
            return {"name": name, "options": {}}
        fixed = set(EngineConfig.model_fields) - {"options"} if part == "engine" else {"name"}
        own = {"name": name, **{key: item for key, item in value.items() if key in fixed}}
        options = {key: item for key, item in value.items() if key not in fixed}
        if isinstance(own["name"], str) and own["name"]:
            options = self._options(part, own["name"], options, (part,))
        return {**own, "options": options}

    def _options(self, kind: str, name: str, options: Any, at: KeyPath) -> dict[str, Any]:
        if not isinstance(options, dict):
            self._complain(at, f"{'.'.join(at)} must be a mapping of options")
            return {}
        if kind == "model" and ":" in name:
            return options  # the user's own function: its parameters are not declared
        if name == AUTO and kind in ("model", "engine"):
            for key in options:
                self._complain(
                    (*at, key), f"unknown key '{key}': {kind} auto has no options", "Name one.", about_key=True
                )
            return {}
        try:
            declared: type[BaseModel] = self.registry.get(kind, name).Config
        except FlctlError as error:
            self._complain((*at, "name") if len(at) == 1 else at, error.message, error.hint, about_key=len(at) > 1)
            return {}
        return self._filled(declared, options, at, f"{kind} {name}")

    def _filled(self, declared: type[BaseModel], options: dict[str, Any], at: KeyPath, named: str) -> dict[str, Any]:
        try:
            checked = declared.model_validate_json(json.dumps(options))
        except ValidationError as error:
            self.complaints += complaints(error, declared, at, named)
            return {}
        self.complaints += coerced(checked, options, at)
        return checked.model_dump(mode="json")

    def _complain(self, path: KeyPath, message: str, hint: str | None = None, *, about_key: bool = False) -> None:
        self.complaints.append(Complaint(path, message, hint, about_key))


def _without_nulls(name: str, value: Any) -> Any:
    if name not in SECTIONS or not isinstance(value, dict):
        return value
    known = SECTIONS[name].model_fields
    return {key: item for key, item in value.items() if item is not None or key not in known}
