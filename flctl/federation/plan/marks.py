"""Options that name code or files: marked in their models, and refused in a plan.

`model: module:function` imports a module, `transforms.dp.ledger` writes a file: harmless as long as the owner of the
machine types them, remote code execution when a plan brings them. An option that does so has the mark `place` ("code"
or "path") in its model; a plan may set the model to `approved:SHA256:NAME`, and no path at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flctl.config.config import AUTO, Config
from flctl.config.sections.training import SECTIONS, EngineConfig
from flctl.config.sources import LAYERED, NAMED
from flctl.kinds import APPROVED

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["approved_digest", "is_place", "place_of", "unapproved"]

LABELS = frozenset({"eval.positive", "local.class_weights"})
"""Keys that hold class names of the data, which may look like anything and reach neither files nor imports."""
_PLACE = re.compile(r"[/\\\x00-\x1f]|^~|^\.{1,2}$|\.py(:|$)|://")


def place_of(field: FieldInfo) -> str | None:
    """Returns the mark of an option: "code", "path" or None."""
    extra = field.json_schema_extra
    mark = extra.get("place") if isinstance(extra, dict) else None
    return mark if isinstance(mark, str) else None


def is_place(text: str) -> bool:
    """Returns whether a text looks like a path, a URL or the name of code, marked or not.

    >>> is_place("../secrets"), is_place("net.py:Net"), is_place("head.*")
    (True, True, False)
    """
    return APPROVED.fullmatch(text) is None and _PLACE.search(text) is not None


def approved_digest(name: str) -> str | None:
    """Returns the SHA-256 in `approved:SHA256:NAME`; None for other names."""
    match = APPROVED.fullmatch(name)
    return match[1] if match else None


def unapproved(config: Mapping[str, Any], catalogue: Catalogue) -> list[str]:
    """Returns the dotted keys of a plan's configuration that name code or a file, or are not known at all.

    `config` is an effective configuration as plain values. Components are looked up in `catalogue`: a name that it does
    not offer counts as code.
    """
    return sorted(set(_found(config, catalogue)))


def _found(config: Mapping[str, Any], catalogue: Catalogue) -> Iterator[str]:
    for key, value in config.items():
        if key in NAMED:
            yield from _component(key, value, catalogue)
        elif key == LAYERED:
            yield from _layers(value, catalogue)
        elif key in SECTIONS:
            yield from _options(SECTIONS[key], value, key)
        elif key not in Config.model_fields:
            yield key
        else:
            yield from _value(Config.model_fields[key], value, key)


def _layers(value: Any, catalogue: Catalogue) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield LAYERED
        return
    for name, options in value.items():
        yield from _component("transform", {**options, "name": name}, catalogue, f"{LAYERED}.{name}")


def _component(kind: str, value: Any, catalogue: Catalogue, at: str = "") -> Iterator[str]:
    at = at or kind
    if not isinstance(value, Mapping):
        yield at
        return
    name = value.get("name", AUTO)
    options = {key: item for key, item in value.items() if key != "name"}
    if kind == "engine":
        own = {key: item for key, item in options.items() if key in EngineConfig.model_fields}
        yield from _options(EngineConfig, own, at)
        options = {key: item for key, item in options.items() if key not in own}
    if kind == "model" and isinstance(name, str) and APPROVED.fullmatch(name):
        # Models alone run in a process without keys; a strategy or transform of one's own belongs into a plugin.
        yield from _places(options, at)
    elif isinstance(name, str) and name in catalogue.offers(kind):
        yield from _options(catalogue.get(kind, name).Config, options, at)
    elif name != AUTO or options:
        yield f"{at}.name" if name != AUTO else at


def _options(model: type[BaseModel], values: Any, at: str) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield at
        return
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{at}.{key}"
        else:
            yield from _value(field, value, f"{at}.{key}")


def _value(field: FieldInfo, value: Any, at: str) -> Iterator[str]:
    if value is None or value in ((), [], {}):
        return
    if place_of(field) is not None:
        if not (place_of(field) == "code" and isinstance(value, str) and APPROVED.fullmatch(value)):
            yield at
        return
    inner = next((one for one in _models(field.annotation)), None)
    if inner is not None and isinstance(value, Mapping):
        yield from _options(inner, value, at)
    elif at not in LABELS:
        yield from _places(value, at)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models among a type and its arguments."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _places(value: Any, at: str) -> Iterator[str]:
    """Yields the key `at`, or those below it, whose text looks like a path or the name of code."""
    if isinstance(value, str) and is_place(value):
        yield at
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _places(key, f"{at}.{key}")
            yield from _places(item, f"{at}.{key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _places(item, at)
