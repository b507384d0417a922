"""Readable sentences for pydantic's errors: what was found, what was expected, and the word that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from flctl.config.sections.training import IDLE_ERROR, KEY_ERROR
from flctl.errors import suggest

__all__ = ["Complaint", "coerced", "complaints", "did_you_mean", "expectation", "found", "schema_of"]

TEXT_BOOLEANS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
BOUNDS = {
    "minimum": "of at least",
    "exclusiveMinimum": "above",
    "maximum": "of at most",
    "exclusiveMaximum": "below",
}
Schema = Mapping[str, Any]
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem by key, before its place is known. `about_key`: the key itself is wrong, not its value."""

    path: Path
    message: str
    hint: str | None = None
    about_key: bool = False


def complaints(
    error: ValidationError,
    model: type[BaseModel],
    at: Path = (),
    named: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> Iterator[Complaint]:
    """Yields `error` as complaints about the values of `model`, which are below the key `at`.

    `named` is the component that the model's options belong to; `elsewhere` maps a word to the dotted key that it
    probably means.
    """
    root = schema_of(model)
    for item in error.errors(include_url=False):
        loc = tuple(str(part) for part in item["loc"])
        kind, path = item["type"], (*at, *loc)
        if kind == IDLE_ERROR:
            yield from _without_effect(path, item["ctx"]["reasons"])
        elif kind == KEY_ERROR:
            yield _about_key(path, item["ctx"])
        elif kind == "extra_forbidden":
            yield _unknown(path, _walk(root, loc[:-1])[0], named, elsewhere or {})
        else:
            yield _bad_value(item, at, root, loc)


def _without_effect(path: Path, reasons: Mapping[str, str]) -> Iterator[Complaint]:
    for name, reason in reasons.items():
        key = (*path, name)
        yield Complaint(key, f"{'.'.join(key)} has no effect {reason}", "Leave it out.", about_key=True)


def _about_key(path: Path, context: Mapping[str, str]) -> Complaint:
    sentence, hint = (context[part].format(at=".".join(path)) for part in ("sentence", "hint"))
    return Complaint((*path, context["key"]), sentence, hint)


def _unknown(path: Path, owner: Schema, named: str, elsewhere: Mapping[str, str]) -> Complaint:
    name = path[-1]
    where = f" in {'.'.join(path[:-1])}" if path[:-1] else ""
    if name in elsewhere:
        hint = f"Did you mean {elsewhere[name]}?"
    else:
        hint = did_you_mean(name, owner.get("properties", {})) or f"{named} has no options."
    return Complaint(path, f"unknown key '{name}'{where}", hint, about_key=True)


def _bad_value(item: Mapping[str, Any], at: Path, root: Schema, loc: Path) -> Complaint:
    schema, depth = _walk(root, loc) if root else ({}, len(loc))
    path = (*at, *loc[:depth])
    name = ".".join(path)
    expected = expectation(schema)
    if item["type"] == "missing":
        return Complaint(path, f"{name} is missing" + (f"; it must be {expected}" if expected else ""), about_key=True)
    if item["type"] in ("value_error", "assertion_error") or not expected:
        return Complaint(path, f"{name}: {item['msg'].partition('error, ')[2] or item['msg']}")
    value = item["input"] if depth == len(loc) else None
    return Complaint(path, f"{name} must be {expected}, not {found(item['input'])}", _hint(schema, value))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Returns the closest word as a hint, or all known words."""
    words = sorted(known)
    return suggest(name, words) or (f"Known: {', '.join(words)}." if words else None)


def found(value: Any) -> str:
    """Returns a value as messages name it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return f"the number {value!r:.40}"
    if isinstance(value, str):
        return f"the text '{value if len(value) <= 40 else value[:37] + '...'}'"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping" if isinstance(value, Mapping) else repr(value)


def expectation(schema: Schema) -> str:
    """Returns in words which values a JSON schema allows; empty if it allows any."""
    if "anyOf" in schema:
        return ", or ".join(filter(None, dict.fromkeys(expectation(part) for part in schema["anyOf"])))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    noun = NOUNS.get(schema.get("type", ""), "")
    if schema.get("minLength"):
        return f"non-empty {noun}"
    bounds = [f"{words} {schema[key]:g}" for key, words in BOUNDS.items() if key in schema]
    return " ".join([noun, " and ".join(bounds)]).strip()


def _hint(schema: Schema, value: Any) -> str | None:
    types = {part.get("type") for part in schema.get("anyOf", [schema])}
    if isinstance(value, str):
        return _hint_for_text(schema, types, value)
    if isinstance(value, float) and "integer" in types and value.is_integer():
        return f"Write {int(value)}."
    return "Quote it." if types & {"string"} and isinstance(value, (int, float)) else None


def _hint_for_text(schema: Schema, types: set[Any], value: str) -> str | None:
    if "boolean" in types and value.lower() in TEXT_BOOLEANS:
        return f"Write {TEXT_BOOLEANS[value.lower()]}: in YAML 1.2 '{value}' is text."
    if types & {"integer", "number"} and _is_number(value):
        return "Write it without quotes and without '_'."
    return suggest(value, [str(word) for word in schema.get("enum", [])])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def coerced(model: BaseModel, given: Mapping[str, Any], at: Path) -> Iterator[Complaint]:
    """Yields options that validation converted: text or true to a number, 10.0 to 10.

    A component's own validators may parse text in any way; only text that looks like a number counts.
    """
    root = schema_of(type(model))
    kept = model.model_dump(mode="json")
    for name, value in given.items():
        for loc, item in _changes(value, kept.get(name), (name,)):
            schema, depth = _walk(root, loc)
            path = (*at, *loc[:depth])
            message = f"{'.'.join(path)} must be {expectation(schema) or 'something else'}, not {found(item)}"
            yield Complaint(path, message, _hint(schema, item))


def _changes(given: Any, kept: Any, loc: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (before, after) in enumerate(zip(given, kept, strict=True)):
            yield from _changes(before, after, (*loc, str(index)))
    elif isinstance(given, dict) and isinstance(kept, dict):
        for key in given.keys() & kept.keys():
            yield from _changes(given[key], kept[key], (*loc, key))
    elif _differ_in_kind(given, kept):
        yield loc, given


def _differ_in_kind(given: Any, kept: Any) -> bool:
    if isinstance(kept, bool) or isinstance(given, bool):
        return isinstance(kept, (bool, int, float)) and type(given) is not type(kept) and given is not None
    if isinstance(given, str):
        return isinstance(kept, (int, float)) and _is_number(given)
    return isinstance(given, float) and type(kept) is int


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Returns the JSON Schema of a model; an empty one if an option's type has no schema."""
    try:
        return model.model_json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def _walk(root: Schema, loc: Path) -> tuple[Schema, int]:
    """Returns the schema at `loc`, and the number of parts of `loc` that lead to it; labels of unions do not count."""
    schema = _resolved(root, root)
    for depth, part in enumerate(loc):
        inner = _child(root, schema, part)
        if inner is None:
            return schema, depth
        schema = inner
    return schema, len(loc)


def _child(root: Schema, schema: Schema, part: str) -> Schema | None:
    for option in schema.get("anyOf", [schema]):
        resolved = _resolved(root, option)
        if part in resolved.get("properties", {}):
            return _resolved(root, resolved["properties"][part])
        for group in ("items", "additionalProperties"):
            if isinstance(resolved.get(group), Mapping) and (group != "items" or part.isdigit()):
                return _resolved(root, resolved[group])
    return None


def _resolved(root: Schema, schema: Schema) -> Schema:
    if "$ref" in schema:
        return root.get("$defs", {}).get(str(schema["$ref"]).rpartition("/")[2], {})  # type: ignore[no-any-return]
    return schema
