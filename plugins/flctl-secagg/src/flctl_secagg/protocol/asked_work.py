"""The work that a request asks for, and the digest that binds all of it into a session."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flctl import LocalWork, ProtocolError, Work

__all__ = ["AskedWork", "work_digest"]

_UNBOUND = frozenset({"allowance"})
"""The one part of work that differs between clients: how far a simulated device gets. Outside of a simulation it is
refused, since a server that lets all clients but one make no step reads that client's update off the sum."""


@dataclass(frozen=True, slots=True)
class AskedWork:
    """The request that carries a message: its round, and in the phase that trains the digest of its work, the local
    training that it asks for, and whether simulated devices get less far than that (`limited`)."""

    round: int
    digest: str
    local: LocalWork | None = None
    limited: bool = False

    @property
    def rests(self) -> bool:
        """True if the learning rate is 0, as a schedule may end: no model moves."""
        return self.local is not None and self.local.lr == 0

    @classmethod
    def of(cls, round_number: int, work: Work | None) -> AskedWork:
        """The facts of a request. Raises ProtocolError if its work is another round's, or cannot be bound."""
        if work is None:
            return cls(round_number, work_digest(None))
        if work.round != round_number:
            raise ProtocolError(f"a request of round {round_number} asks for the work of round {work.round}")
        return cls(round_number, work_digest(work), work.local, work.allowance is not None)


def work_digest(work: Work | None) -> str:
    """SHA-256 of all of the work but the allowance, in one canonical form: model, broadcasts of strategy and
    transforms, local training, layout and round. Equal for equal work, whatever the order of its vectors.

    Raises ProtocolError for a value without a canonical form, such as a learning rate that is NaN.
    """
    digest = hashlib.sha256(b"flctl-secagg work/2")
    try:
        for part in _parts((), work):
            digest.update(part)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"the work cannot be bound into a session: {error}") from error
    return digest.hexdigest()


def _parts(path: tuple[str, ...], value: Any) -> Iterator[bytes | memoryview]:
    """A header of JSON for each value, which says how much follows: the bytes of a vector, or the parts of a mapping.

    Fields are found by themselves, so that one that is added to Work or LocalWork is bound too.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.name not in _UNBOUND]
        value = {name: getattr(value, name) for name in names}
    if isinstance(value, Mapping):
        yield _header(path, len(value))
        for name in sorted(value):
            yield from _parts((*path, name), value[name])
    elif isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"), copy=False)
        yield _header(path, [little.dtype.str, list(value.shape)])
        yield np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
    else:
        yield _header(path, {"value": value})


def _header(path: tuple[str, ...], facts: Any) -> bytes:
    return json.dumps([path, facts], separators=(",", ":"), allow_nan=False).encode()
