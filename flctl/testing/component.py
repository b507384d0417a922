"""Checks for components of every kind: class, name, docstring and options."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from flctl.component import Component, Options
from flctl.config.validation import schema_of
from flctl.kinds import KINDS
from flctl.testing.conformance import Checks

__all__ = ["NAME", "Subject", "component_checks", "title_of"]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_READ_BACK = "The configuration of a run is stored as YAML and read by workers, resumes and `flctl eval`."
_RECORDED = "A partition's manifest records the options of its scheme."


class Subject(Protocol):
    """Attributes that every kind's subject has."""

    @property
    def component(self) -> type[Component]:
        """The class under test."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The options that it is tested with."""


@dataclass
class Plain:
    """A subject with nothing but its class and options."""

    component: type[Any]
    options: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)

    def make(self) -> Any:
        """A new object with the options."""
        return self.component.from_options(dict(self.options))


def title_of(component: Any, kind: str) -> str:
    """Name of a component in errors: its kind, name, class and module."""
    if not inspect.isclass(component):
        return f"{kind} {component!r:.60}"
    return f"{kind} '{getattr(component, 'name', '?')}' (class {component.__qualname__} of {component.__module__})"


def component_checks(kind: str) -> Checks:
    """The checks that every kind begins with."""
    checks = Checks()
    _add_class(checks, kind)
    _add_words(checks)
    _add_options(checks)
    _add_recorded(checks, read_back=kind not in ("dataset", "partitioner"))
    return checks


def _add_class(checks: Checks, kind: str) -> None:
    @checks.add(
        "class",
        f"It is a class that extends flctl.{KINDS[kind].base.__name__}.",
        why="Hooks return classes, because a run makes its own object from the options in its configuration.",
        todo=f"Write class MyOwn(flctl.{KINDS[kind].base.__name__}), and pass the class, not an instance.",
        blocks=True,
    )
    def find(s: Subject) -> Iterator[str]:
        base = KINDS[kind].base
        if not (inspect.isclass(s.component) and issubclass(s.component, base)):
            yield f"{s.component!r:.80} is not a class that extends {base.__name__}"
        elif s.component is base:
            yield f"found {base.__name__} itself, expected a subclass"


def _add_words(checks: Checks) -> None:
    @checks.add(
        "name",
        "It has a unique name that is valid in configurations and commands.",
        why="`--strategy NAME` and YAML select a component by its name; duplicate names are refused, with the plugin.",
        todo='Write name = "my-own" in the class: lower-case letters, digits, `-`, `_` and `.`, at most 64.',
    )
    def find_name(s: Subject) -> Iterator[str]:
        name = getattr(s.component, "name", None)
        if not isinstance(name, str):
            yield f"name is {name!r}"
        elif not NAME.fullmatch(name):
            yield f"the name is {name!r:.80}"
        elif "name" not in vars(s.component):
            parent = next(base for base in s.component.__mro__ if "name" in vars(base))
            yield f"it inherits the name '{name}' of {parent.__name__}"

    @checks.add(
        "docstring",
        "The first line of its docstring describes it.",
        why="`flctl plugins list` shows that line as the description of the component.",
        todo="Add a docstring to the class: its computation, and the paper and equation.",
    )
    def find_docstring(s: Subject) -> Iterator[str]:
        doc = vars(s.component).get("__doc__")
        if not (isinstance(doc, str) and doc.strip().splitlines()[:1]):
            yield "the class has no docstring"


def _add_options(checks: Checks) -> None:
    @checks.add(
        "options",
        "It can be constructed from the options of this check.",
        why="A run constructs it with from_options, so configurations cannot use options that this refuses.",
        todo="Pass options that its Config accepts; add Field(examples=[...]) to an option without a default.",
        blocks=True,
    )
    def find_options(s: Subject) -> Iterator[str]:
        if not (inspect.isclass(s.component.Config) and issubclass(s.component.Config, Options)):
            yield f"Config is {s.component.Config!r:.60}, which does not extend flctl.Options"
            return
        try:
            s.component.from_options(dict(s.options))
        except ValidationError as error:
            yield from (f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())

    @checks.add(
        "strict",
        "Its options are frozen, and an unknown or non-finite one is an error.",
        why="An ignored misspelt option would start a run with other settings than the user wrote.",
        todo="Keep the model_config of flctl.Options: frozen, extra=forbid, no NaN.",
    )
    def find_strict(s: Subject) -> Iterator[str]:
        for key, strict in (("extra", "forbid"), ("frozen", True), ("allow_inf_nan", False)):
            found = s.component.Config.model_config.get(key)
            if found != strict:
                yield f"Config.model_config[{key!r}] is {found!r}, expected {strict!r}"


def _add_recorded(checks: Checks, *, read_back: bool) -> None:
    @checks.add(
        "recorded",
        "Its options are unchanged by a round trip through their plain form."
        if read_back
        else "Its options have a plain form.",
        why=_READ_BACK if read_back else _RECORDED,
        todo="Use numbers, text, lists and mappings, defaults of the declared type, and idempotent validators.",
    )
    def find(s: Subject) -> Iterator[str]:
        config = s.component.from_options(dict(s.options)).config
        text = json.dumps(config.model_dump(mode="json", warnings=False), allow_nan=False)
        if read_back:
            yield from _unlike(type(config), text)
        if not schema_of(type(config)):
            yield "no JSON Schema describes the types of its options"


def _unlike(config: type[BaseModel], text: str) -> Iterator[str]:
    """Describes how options differ after they are read back from their plain form."""
    try:
        back = config.model_validate_json(text)
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return
    if back.model_dump(mode="json") != json.loads(text):
        yield f"{text:.100} came back as {back.model_dump_json():.100}"
