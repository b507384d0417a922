"""Canonical JSON: one text for each value, so that a digest or a signature of the text is one of the value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from flctl.errors import ProtocolError

__all__ = ["DEPTH", "canonical", "digest", "parse"]

DEPTH = 32
"""Deepest nesting of lists and objects."""


def canonical(value: Any) -> bytes:
    """Encodes a value as canonical JSON: UTF-8, keys sorted by code point, no spaces, floats by `repr`.

    Raises ProtocolError for NaN and infinities, lone surrogates, keys that are not strings, other types, and nesting
    deeper than 32.

    >>> canonical({"b": [1, 2.5, None], "a": "é"}).decode()
    '{"a":"é","b":[1,2.5,null]}'
    """
    text = json.dumps(_plain(value, DEPTH), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError("the text has a lone surrogate, which UTF-8 cannot encode") from error


def digest(value: Any) -> str:
    """Returns the SHA-256 of the canonical JSON of a value, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def parse(text: bytes, most: int) -> Any:
    """Parses canonical JSON of at most `most` bytes.

    Raises ProtocolError for a longer text before reading it, for repeated keys, NaN, nesting deeper than 32, and for
    any text other than the canonical one of its value: two texts of one value would have two digests.

    >>> parse(b'{"a":[1,true]}', most=100)
    {'a': [1, True]}
    """
    if len(text) > most:
        raise ProtocolError(f"the message has {len(text):,} bytes, expected at most {most:,}")
    try:
        value = json.loads(text.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the message is not valid JSON") from error
    if canonical(value) != text:
        raise ProtocolError("the message is not canonical JSON: expected sorted keys and no spaces")
    return value


def _plain(value: Any, depth: int) -> Any:
    """Returns a copy made of dict, list, str, int, float, bool and None alone."""
    if depth < 0:
        raise ProtocolError(f"the value is nested deeper than {DEPTH}")
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if value - value != 0:  # NaN and infinities
            raise ProtocolError(f"the value has {value}, expected finite numbers")
        return value
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise ProtocolError("the value has a key that is not a string")
        return {key: _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    raise ProtocolError(f"a value of type {type(value).__name__} cannot be written as JSON")


def _without_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object. A repeated key would let two readers see two values."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError("repeated key")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
