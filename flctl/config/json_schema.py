"""The JSON Schema of a configuration file, with the options of every installed component; for editors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flctl.config.config import Config
from flctl.config.sources import LAYERED, NAMED
from flctl.config.validation import schema_of

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILE = r"\.py(:\w+)?$"
"""Pattern of a class in a local file: `./mine.py:Name`."""
Schema = dict[str, Any]


def schema(registry: Catalogue) -> Schema:
    """Returns the schema of a file: keys, types, ranges, defaults and descriptions. Raises PluginError if names
    clash."""
    whole = Config.model_json_schema()
    definitions: Schema = whole["$defs"]
    engine = definitions.pop("EngineConfig")
    definitions.pop("ComponentConfig", None)
    for part in NAMED:
        meaning = _meaning(whole["properties"][part])
        fixed = (
            {k: v for k, v in engine["properties"].items() if k not in ("name", "options")} if part == "engine" else {}
        )
        whole["properties"][part] = {**meaning, **_component(registry, part, fixed, definitions)}
    whole["properties"][LAYERED] = {**_meaning(whole["properties"][LAYERED]), **_layers(registry, definitions)}
    return {"$schema": DIALECT, **whole, "title": "flctl configuration", "description": "A flctl configuration file."}


def _meaning(property_: Mapping[str, Any]) -> Schema:
    return {key: property_[key] for key in ("description",) if key in property_}


def _component(registry: Catalogue, kind: str, fixed: Schema, definitions: Schema) -> Schema:
    default = Config.model_fields[kind].default.name
    names = sorted(registry.offers(kind))
    own: Schema = {"type": "string", "pattern": ":" if kind == "model" else FILE}
    listed = {"type": "string", "examples": names} if kind == "model" else {"enum": _with(default, names)}
    short: Schema = {"anyOf": [listed, own]}
    forms = [_long(name, registry.offers(kind)[name].component.Config, kind, fixed, definitions) for name in names]
    if default not in names:
        forms.append(
            {"type": "object", "properties": {"name": {"const": default}, **fixed}, "additionalProperties": False}
        )
    # The user's own function or class: its options are not declared.
    forms.append({"type": "object", "properties": {"name": own}, "required": ["name"]})
    return {"default": default, "anyOf": [short, *forms]}


def _with(default: str, names: list[str]) -> list[str]:
    return names if default in names else [default, *names]


def _long(name: str, declared: type[BaseModel], kind: str, fixed: Schema, definitions: Schema) -> Schema:
    form = _options(name, declared, kind, definitions)
    form["properties"] = {"name": {"const": name}, **fixed, **form.get("properties", {})}
    required = [] if name == Config.model_fields[kind].default.name else ["name"]
    return {**form, "required": [*required, *form.get("required", [])]}


def _layers(registry: Catalogue, definitions: Schema) -> Schema:
    offers = registry.offers("transform")
    forms = {name: _options(name, offers[name].component.Config, "transform", definitions) for name in sorted(offers)}
    nullable = {
        name: form if form.get("required") else {"anyOf": [form, {"type": "null"}]} for name, form in forms.items()
    }
    own = {FILE: {"type": ["object", "null"]}}
    mapping = {"type": "object", "properties": nullable, "patternProperties": own, "additionalProperties": False}
    names = [{"enum": sorted(offers)}, {"type": "string", "pattern": FILE}]
    listed = {"type": "array", "items": {"anyOf": [*names, {"type": "object", "required": ["name"]}]}}
    return {"default": {}, "anyOf": [mapping, listed]}


def _options(name: str, declared: type[BaseModel], kind: str, definitions: Schema) -> Schema:
    """Returns one component's options; definitions that they refer to move to the common ones, under the component's
    name."""
    form: Schema = {"type": "object", **copy.deepcopy(schema_of(declared))}
    prefix = f"{kind}.{name}."
    for key, definition in form.pop("$defs", {}).items():
        definitions[prefix + key] = _moved(definition, prefix)
    form.pop("title", None)
    return _moved(form, prefix)  # type: ignore[no-any-return]


def _moved(value: Any, prefix: str) -> Any:
    if isinstance(value, dict):
        return {
            key: item.replace("#/$defs/", f"#/$defs/{prefix}") if key == "$ref" else _moved(item, prefix)
            for key, item in value.items()
        }
    return [_moved(item, prefix) for item in value] if isinstance(value, list) else value
