"""Messages <-> bytes: versioned, size-checked before anything is allocated, and without pickle.

A frame is b"FLCW", version (u8), header length (u32), body length (u64), a JSON header (with spaces behind it, so
that the arrays begin at a multiple of 16) and the arrays' bytes, all little-endian:
{"kind": str, "meta": {...}, "arrays": [[name, dtype, length], ...]}.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flctl.errors import ProtocolError
from flctl.types import Arrays

__all__ = ["MAX_BODY", "MAX_HEADER", "PREFIX", "Frame", "kind_of", "lengths", "pack", "pack_parts", "size", "unpack"]

MAGIC, VERSION = b"FLCW", 1
PREFIX = struct.Struct("<4sBIQ")
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 40
ALIGNMENT = 16
"""Alignment in bytes of the first array: arithmetic on values that straddle words is several times slower."""
DTYPES = frozenset({"<f4", "<f8", "<f2", "<i2", "<i4", "<i8", "|i1", "|u1", "<u2", "<u4", "<u8"})


@dataclass(frozen=True, slots=True)
class Frame:
    """A message: its kind, small values, and flat arrays (read-only views of the received bytes)."""

    kind: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)


def _header(kind: str, meta: Mapping[str, Any], arrays: Arrays) -> bytes:
    declared = [[name, array.dtype.newbyteorder("<").str, int(array.size)] for name, array in arrays.items()]
    header = {"kind": kind, "meta": dict(meta), "arrays": declared}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    return text + b" " * (-(PREFIX.size + len(text)) % ALIGNMENT)


def pack_parts(kind: str, *, meta: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> list[Any]:
    """The frame as a list of buffers, so that a large array can be written without being copied."""
    arrays = {name: np.ascontiguousarray(array).reshape(-1) for name, array in (arrays or {}).items()}
    header = _header(kind, meta or {}, arrays)
    body = sum(array.nbytes for array in arrays.values())
    little = (array.astype(array.dtype.newbyteorder("<"), copy=False) for array in arrays.values())
    return [PREFIX.pack(MAGIC, VERSION, len(header), body), header, *(array.view(np.uint8).data for array in little)]


def pack(kind: str, *, meta: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> bytes:
    """The frame as bytes. Raises ValueError for a non-finite number in `meta`."""
    return b"".join(pack_parts(kind, meta=meta, arrays=arrays))


def size(kind: str, *, meta: Mapping[str, Any] | None = None, arrays: Arrays | None = None) -> int:
    """Returns the length in bytes of what `pack` would return, without building it."""
    arrays = arrays or {}
    return PREFIX.size + len(_header(kind, meta or {}, arrays)) + sum(array.nbytes for array in arrays.values())


def lengths(prefix: bytes, most: int = MAX_BODY) -> tuple[int, int]:
    """(header length, body length) that a frame's first bytes declare.

    Raises ProtocolError for anything else, and for a body of more than `most` bytes: from another machine, that is the
    size known from the layout.
    """
    if len(prefix) != PREFIX.size:
        raise ProtocolError(f"a message of {len(prefix)} bytes is shorter than a frame's prefix of {PREFIX.size}")
    magic, version, header, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ProtocolError(f"a message does not start with {MAGIC!r}")
    if version != VERSION:
        raise ProtocolError(f"a message has version {version}; this program needs version {VERSION}")
    if header > MAX_HEADER:
        raise ProtocolError(f"a message declares a header of {header} bytes; at most {MAX_HEADER} are read")
    if body > most:
        raise ProtocolError(f"a message declares a body of {body} bytes; at most {most} are read")
    return header, body


def kind_of(message: bytes) -> str:
    """Returns the kind of a frame. Raises ProtocolError unless it is complete and its header well-formed."""
    return str(_open(message)[0]["kind"])


def unpack(message: bytes, kind: str) -> Frame:
    """The frame in `message`. Raises ProtocolError unless it is whole, well-formed and of `kind`."""
    header, start = _open(message)
    if header["kind"] != kind:
        raise ProtocolError(f"a message of kind {header['kind']!r} arrived, expected {kind!r}")
    return Frame(kind, header["meta"], _arrays(header["arrays"], memoryview(message)[start:]))


def _open(message: bytes) -> tuple[dict[str, Any], int]:
    """The header of a whole frame, and where its body starts."""
    header_length, body_length = lengths(message[: PREFIX.size])
    start = PREFIX.size + header_length
    if len(message) != start + body_length:
        raise ProtocolError(f"a message of {len(message)} bytes declares {start + body_length} bytes")
    return _parse_header(message[PREFIX.size : start]), start


def _parse_header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message's header is not JSON") from error
    well_formed = (
        isinstance(header, dict)
        and isinstance(header.get("kind"), str)
        and isinstance(header.get("meta"), dict)
        and isinstance(header.get("arrays"), list)
    )
    if not well_formed:
        raise ProtocolError("a message's header lacks kind, meta or arrays")
    return header  # type: ignore[no-any-return]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object. Raises ValueError for a repeated key, of which two readers may take different values."""
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a key is repeated")
    return read


def _refuse_constant(name: str) -> float:
    """Raises ValueError: NaN and Infinity are not JSON."""
    raise ValueError(f"{name} is not JSON")


def _arrays(declared: list[Any], body: memoryview) -> Arrays:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    offset = 0
    for entry in declared:
        name, dtype, length = _declaration(entry)
        end = offset + length * dtype.itemsize
        if name in arrays or end > len(body):
            raise ProtocolError(f"a message declares the array {name!r} twice, or longer than its body")
        arrays[name] = np.frombuffer(body[offset:end], dtype)
        offset = end
    if offset != len(body):
        raise ProtocolError(f"a message has {len(body) - offset} bytes beyond its arrays")
    return arrays


def _declaration(entry: Any) -> tuple[str, np.dtype[Any], int]:
    if not (isinstance(entry, list) and len(entry) == 3):
        raise ProtocolError("a message declares an array without name, dtype and length")
    name, dtype, length = entry
    well_formed = isinstance(name, str) and isinstance(dtype, str) and dtype in DTYPES and type(length) is int
    if not well_formed or length < 0:
        raise ProtocolError("a message declares an array with a bad name, dtype or length")
    return name, np.dtype(dtype), length
