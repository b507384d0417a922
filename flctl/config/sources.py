"""The sources of a configuration: file, environment, `-o` overrides and flags, as settings with places, and their
union."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from flctl.config.problems import Place, Problem, Source
from flctl.config.yaml_reader import Entry, Node, parse, plain
from flctl.errors import ConfigError

__all__ = [
    "ENVIRONMENT_PREFIX",
    "Flag",
    "KeyPath",
    "Layer",
    "Merged",
    "Setting",
    "from_environment",
    "from_flags",
    "from_overrides",
    "from_source",
    "from_values",
    "merge",
]

ENVIRONMENT_PREFIX = "FLCTL__"
NAMED = ("model", "strategy", "aggregator", "engine")
LAYERED = "transforms"
KeyPath = tuple[str, ...]
Kind = Literal["strategy", "file", "environment", "override", "flag"]


@dataclass(frozen=True, slots=True)
class Flag:
    """A command line flag's value under the name that the user typed, for messages."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One key set by one source. A mapping appears as a setting of {} before the settings of its entries."""

    path: KeyPath
    node: Node
    key: Place
    kind: Kind

    @property
    def opens(self) -> bool:
        """True if this is a mapping whose entries are settings of their own."""
        return isinstance(self.node.value, dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings of one source, and their problems."""

    settings: Sequence[Setting]
    problems: Sequence[Problem] = ()


def from_source(source: Source) -> Layer:
    """Returns the settings of a YAML file. Raises ConfigError if it is not YAML."""
    root, problems = parse(source)
    if root.value is None:
        return Layer([], problems)
    if not isinstance(root.value, dict):
        problem = Problem("a configuration is a mapping of keys to values", root.place, "Write `key: value` lines.")
        return Layer([], [*problems, problem])
    return _spelt_out(_flatten(root, (), root.place, "file"), problems)


def from_environment(environ: Mapping[str, str], transforms: Callable[[], Iterable[str]] = tuple) -> Layer:
    """Returns the settings of variables such as FLCTL__LOCAL__LR. Case is ignored, and `_` stands for the `-` in a
    transform's name; `transforms` lists these names."""
    settings: list[Setting] = []
    problems: list[Problem] = []
    for variable, text in sorted(environ.items()):
        if not variable.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        path = tuple(variable[len(ENVIRONMENT_PREFIX) :].lower().split("__"))
        if path[0] == LAYERED and len(path) > 1:
            spelling = {_bare(name): name for name in transforms()}
            path = (LAYERED, spelling.get(_bare(path[1]), path[1]), *path[2:])
        found = _typed(path, Source(variable, text, shown=f"{variable}={text}"), "environment")
        settings += found[0]
        problems += found[1]
    return _spelt_out(settings, problems)


def from_overrides(pairs: Sequence[str]) -> Layer:
    """Returns the settings of `-o a.b=value` in order; values are YAML, so lists and mappings work too."""
    settings: list[Setting] = []
    problems: list[Problem] = []
    for pair in pairs:
        key, sign, text = pair.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        source = Source(f"-o {key.strip()}", text, shown=f"-o {pair}")
        if not sign or not all(path):
            problems.append(Problem("this is not KEY=VALUE", source.place(), "Write for example -o local.lr=0.05."))
            continue
        found = _typed(path, source, "override")
        settings += found[0]
        problems += found[1]
    return _spelt_out(settings, problems)


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """Returns the settings of flags: dotted key -> `Flag` or plain value; None means that the flag was not given."""
    settings: list[Setting] = []
    for key, given in flags.items():
        flag = given if isinstance(given, Flag) else Flag(f"the flag for {key}", given)
        if flag.value is not None:
            place = Source(flag.name).place()
            # A transform from a file has dots in its name.
            path = key.split(".", 1) if key.startswith(f"{LAYERED}.") else key.split(".")
            settings += _flatten(_node(flag.value, place), tuple(path), place, "flag")
    return _spelt_out(settings, [])


def from_values(values: Mapping[str, Any], path: KeyPath, label: str, kind: Kind) -> Layer:
    """Returns the settings of plain values below `path`, all from one place."""
    place = Source(label).place()
    return Layer(list(_flatten(_node(values, place), path, place, kind)))


@dataclass(frozen=True, slots=True)
class Merged:
    """The union of layers: for each key its last setting."""

    settings: Mapping[KeyPath, Setting]

    def place(self, path: KeyPath) -> Place | None:
        """Returns the place of the value at `path`, inside a list that of its item; None if no source set it."""
        setting = self.settings.get(path)
        if setting is not None:
            return setting.key if setting.opens else setting.node.place
        outer = next((path[:n] for n in range(len(path) - 1, 0, -1) if path[:n] in self.settings), ())
        if outer and not self.settings[outer].opens:
            return _inside(self.settings[outer].node, path[len(outer) :])
        return None

    def key(self, path: KeyPath) -> Place | None:
        """Returns the place of the key at `path`, or of the first key below it."""
        found = (s for p, s in self.settings.items() if p[: len(path)] == path)
        first = self.settings.get(path) or next(found, None)
        return first.key if first else None

    def tree(self) -> dict[str, Any]:
        """Returns all values, nested."""
        tree: dict[str, Any] = {}
        for path, setting in self.settings.items():
            inner = tree
            for part in path[:-1]:
                inner = inner.setdefault(part, {})
            if setting.opens:
                inner.setdefault(path[-1], {})
            else:
                inner[path[-1]] = plain(setting.node)
        return tree


def merge(layers: Sequence[Layer]) -> Merged:
    """Returns the union, later layers over earlier ones. Naming another component drops the options of the former
    one."""
    merged: dict[KeyPath, Setting] = {}
    for layer in layers:
        for setting in sorted(layer.settings, key=lambda item: not _names(item)):
            _apply(merged, setting)
    return Merged(merged)


def _apply(merged: dict[KeyPath, Setting], setting: Setting) -> None:
    path = setting.path
    if _names(setting):
        former = merged.get(path)
        if former is not None and former.node.value != setting.node.value:
            _drop(merged, [p for p in merged if p[0] == path[0] and len(p) > 1 and p != path])
    outer = [path[:n] for n in range(1, len(path))]
    _drop(merged, [p for p in outer if p in merged and not merged[p].opens])
    if not setting.opens:
        _drop(merged, [p for p in merged if len(p) > len(path) and p[: len(path)] == path])
    merged[path] = setting


def _drop(merged: dict[KeyPath, Setting], paths: Iterable[KeyPath]) -> None:
    for path in paths:
        del merged[path]


def _names(setting: Setting) -> bool:
    return len(setting.path) == 2 and setting.path[0] in NAMED and setting.path[1] == "name"


def _flatten(node: Node, path: KeyPath, key: Place, kind: Kind) -> Iterator[Setting]:
    if path:
        yield Setting(path, node if not isinstance(node.value, dict) else replace(node, value={}), key, kind)
    if isinstance(node.value, dict):
        for name, entry in node.value.items():
            yield from _flatten(entry.node, (*path, name), entry.key, kind)


def _typed(path: KeyPath, source: Source, kind: Kind) -> tuple[list[Setting], list[Problem]]:
    """Returns the settings of one typed value, which is YAML."""
    try:
        node, problems = parse(source)
    except ConfigError as error:
        reason = error.message.partition(": ")[2]
        return [], [Problem(f"the value is not YAML: {reason}", source.place(), "Quote text that YAML cannot read.")]
    return list(_flatten(node, path, source.place(), kind)), problems


def _spelt_out(settings: Iterable[Setting], problems: Iterable[Problem]) -> Layer:
    """Returns the settings with the short forms of components expanded: `strategy: fedavg`, `transforms: [clip]`."""
    result: list[Setting] = []
    found = list(problems)
    for setting in settings:
        if setting.path == (LAYERED,):
            result += _layered(setting, found)
        elif len(setting.path) == 2 and setting.path[0] == LAYERED and setting.node.value is None:
            result.append(replace(setting, node=replace(setting.node, value={})))
        elif len(setting.path) == 1 and setting.path[0] in NAMED and isinstance(setting.node.value, str):
            result.append(replace(setting, path=(*setting.path, "name")))
        else:
            result.append(setting)
    return Layer(result, found)


def _layered(setting: Setting, problems: list[Problem]) -> Iterator[Setting]:
    value = setting.node.value
    if isinstance(value, dict) or value is None:
        return
    seen: set[str] = set()
    for item in value if isinstance(value, list) else [setting.node]:
        name, rest = _layer_item(item)
        if name is None:
            problems.append(
                Problem(
                    "a transform is a name, or a mapping with a name",
                    item.place,
                    "Write for example `clip: {norm: 1}`.",
                )
            )
            continue
        if name in seen:
            problems.append(Problem(f"transform '{name}' is listed twice", item.place))
        seen.add(name)
        yield from _flatten(rest, (LAYERED, name), item.place if setting.kind == "file" else setting.key, setting.kind)


def _layer_item(item: Node) -> tuple[str | None, Node]:
    if isinstance(item.value, str):
        return item.value, replace(item, value={})
    if isinstance(item.value, dict) and "name" in item.value:
        name = item.value["name"].node.value
        rest = {key: entry for key, entry in item.value.items() if key != "name"}
        return (name if isinstance(name, str) else None), replace(item, value=rest)
    return None, item


def _inside(node: Node, path: KeyPath) -> Place:
    for part in path:
        if isinstance(node.value, list) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
        elif isinstance(node.value, dict) and part in node.value:
            node = node.value[part].node
    return node.place


def _node(value: Any, place: Place) -> Node:
    if isinstance(value, Enum):
        return _node(value.value, place)
    if isinstance(value, Mapping):
        return Node({str(key): Entry(place, _node(item, place)) for key, item in value.items()}, place)
    if isinstance(value, (list, tuple)):
        return Node([_node(item, place) for item in value], place)
    return Node(str(value) if isinstance(value, Path) else value, place)


def _bare(name: str) -> str:
    return name.lower().replace("-", "_")
