"""Validation of the `partition:` section of a configuration: its keys and their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from flctl.config.validation import Complaint, complaints, did_you_mean
from flctl.errors import FlctlError
from flctl.kinds import KINDS
from flctl.partition.request import PartitionSettings

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["SECTION", "check"]

SECTION = "partition"
PARTS = {KINDS[kind].noun: kind for kind in ("partitioner", "dataset")}
"""Key of the section -> kind of the component that it chooses."""


def check(section: Mapping[str, Any], registry: Catalogue) -> Iterator[Complaint]:
    """Yields the problems of the section. A required key may be missing: flags can still give it."""
    given = {key.replace("-", "_"): key for key, value in section.items() if value is not None}
    named: dict[str, type[BaseModel]] = {}
    for part, kind in PARTS.items():
        try:
            named |= _named(section.get(part), part, kind, registry)
        except FlctlError as error:
            yield Complaint((SECTION, part), error.message, error.hint)
            return
    options = {name for part in PARTS for model in _models(part, named, registry) for name in model.model_fields}
    known = {*PartitionSettings.model_fields, *options}
    for key, written in given.items():
        if key not in known:
            message = f"unknown key '{written}' in {SECTION}"
            yield Complaint((SECTION, written), message, did_you_mean(key, known), about_key=True)
    models: list[type[BaseModel]] = [PartitionSettings, *named.values()]
    for model in models:
        own = {key: section[written] for key, written in given.items() if key in model.model_fields}
        yield from (_written(complaint, given) for complaint in _refused(model, own, (SECTION,)))
    for part, model in named.items():
        if isinstance(section[part], Mapping):
            inner = {key: value for key, value in section[part].items() if key != "name"}
            yield from _refused(model, inner, (SECTION, part))


def _named(value: Any, part: str, kind: str, registry: Catalogue) -> dict[str, type[BaseModel]]:
    name = value.get("name") if isinstance(value, Mapping) else value
    return {part: registry.get(kind, name).Config} if isinstance(name, str) else {}


def _models(part: str, named: Mapping[str, type[BaseModel]], registry: Catalogue) -> list[type[BaseModel]]:
    """Returns the options of the named component, or of all components if the choice depends on the source."""
    if part in named:
        return [named[part]]
    return [offer.component.Config for offer in registry.offers(PARTS[part]).values()]


def _refused(model: type[BaseModel], values: Mapping[str, Any], at: tuple[str, ...]) -> Iterator[Complaint]:
    try:
        model.model_validate(values)
    except ValidationError as error:
        found = complaints(error, model, at)
        yield from (complaint for complaint in found if not _is_missing(complaint, values, len(at)))


def _is_missing(complaint: Complaint, values: Mapping[str, Any], depth: int) -> bool:
    return len(complaint.path) > depth and complaint.path[depth] not in values


def _written(complaint: Complaint, given: Mapping[str, str]) -> Complaint:
    """Returns the complaint at the key as it was written, `test-fraction` for `test_fraction`."""
    path = tuple(given.get(part, part) for part in complaint.path)
    return replace(complaint, path=path)
