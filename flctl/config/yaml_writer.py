"""YAML writer: text that `flctl.config.yaml_reader` reads back to equal values, with a comment per key."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flctl.config.yaml_reader import scalar

__all__ = ["write"]

WORD = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*\Z")
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
Comment = Callable[[tuple[str, ...]], str]


def write(tree: Mapping[str, Any], comment: Comment = lambda path: "") -> str:
    """Returns mappings as blocks and lists in one line; `comment` gives the text after `#` for a key's path, or ""."""
    lines = list(_lines(tree, (), comment))
    width = max((len(text) for text, note in lines if note), default=0)
    return "".join(f"{text:<{width}}  # {note}\n" if note else f"{text}\n" for text, note in lines) or "{}\n"


def _lines(tree: Mapping[str, Any], path: tuple[str, ...], comment: Comment) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        here = (*path, str(key))
        start = f"{'  ' * len(path)}{_text(str(key))}:"
        if isinstance(value, Mapping) and value:
            yield start, ""
            yield from _lines(value, here, comment)
        else:
            yield f"{start} {inline(value)}", comment(here)


def inline(value: Any) -> str:
    """Returns a value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(key))}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _number(value) if isinstance(value, (int, float)) else _text(str(value))


def _number(value: float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    # YAML 1.1 readers parse "1e-08" as text, and "1.0e-08" as a number.
    return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))


def _text(value: str) -> str:
    if WORD.match(value) and scalar(value) == value and value.lower() not in ("y", "n", "yes", "no", "on", "off"):
        return value
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in ESCAPES:
        return ESCAPES[char]
    return char if char.isprintable() else f"\\U{ord(char):08x}"
