"""Work of a request, and the digest that binds it into a session."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from flctl import Arrays, LocalWork, ProtocolError, Work

__all__ = ["AskedWork", "config_digest", "work_digest"]

_UNBOUND = frozenset({"allowance"})
"""Fields of work that the digest leaves out, as they differ between clients: the steps that a simulated device makes.
Clients refuse it outside of a simulation: if all but one made no step, the sum would be that one's update."""


_BOUND_SECTIONS = {
    "seed", "model", "strategy", "transforms", "aggregator", "local", "server", "cohort", "attack", "devices"
}  # fmt: skip
_OWN_OPTIONS = frozenset({"keys", "transcript", "attempts", "burnt"})
"""Options of the aggregator that only the server acts by, or that are paths of one machine."""


@dataclass(frozen=True, slots=True)
class AskedWork:
    """Facts of the request that carries a message.

    `digest` is `work_digest` of its work. `local` is the requested local training; None in phases that do not train.
    `limited` is True if simulated devices may make fewer steps than requested. `config` is `config_digest` of the
    configuration that the client was started with; empty without a run. `class_ratio` is the largest ratio of two
    class weights in that configuration. `params` is the global model, flat; None without work.
    """

    round: int
    digest: str
    local: LocalWork | None = None
    limited: bool = False
    config: str = ""
    class_ratio: float = 1.0
    params: Arrays | None = None

    @property
    def rests(self) -> bool:
        """True if the learning rate is 0, as at the end of a schedule: all updates are zero."""
        return self.local is not None and self.local.lr == 0

    @classmethod
    def of(cls, round_number: int, work: Work | None, config: str = "", class_ratio: float = 1.0) -> AskedWork:
        """Reads a request. Raises ProtocolError if its work is of another round, or has no canonical form."""
        if work is None:
            return cls(round_number, work_digest(None), config=config, class_ratio=class_ratio)
        if work.round != round_number:
            raise ProtocolError(f"a request of round {round_number} has the work of round {work.round}")
        limited = work.allowance is not None
        return cls(round_number, work_digest(work), work.local, limited, config, class_ratio, work.params)


def config_digest(config: BaseModel) -> str:
    """Returns the hex SHA-256, in canonical form, of the configuration that clients act by and that no work carries:
    model, strategy, transforms, aggregator, cohorts, attacks, devices and seed. A server that started one client with
    another noise or another bound would tell that client's update from the others'."""
    values = config.model_dump(mode="json", include=_BOUND_SECTIONS)
    values["aggregator"] = {key: one for key, one in values["aggregator"].items() if key not in _OWN_OPTIONS}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(b"flctl-secagg config/1" + text.encode()).hexdigest()


def work_digest(work: Work | None) -> str:
    """Returns the hex SHA-256 of the work in canonical form: model, broadcasts of strategy and transforms, local
    training, layout and round, without the allowance. The order of vectors does not matter.

    Raises ProtocolError if a value has no canonical form, such as a learning rate of NaN.
    """
    digest = hashlib.sha256(b"flctl-secagg work/2")
    try:
        for part in _parts((), work):
            digest.update(part)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"the work cannot be bound into a session: {error}") from error
    return digest.hexdigest()


def _parts(path: tuple[str, ...], value: Any) -> Iterator[bytes | memoryview]:
    """Yields, for each value, a JSON header with the size of what follows: a vector's bytes, or a mapping's parts.

    Fields come from the dataclasses, so that a field added to Work or LocalWork is bound too.
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
