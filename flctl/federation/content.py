"""Content of sealed blobs: the parts of an order, and a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flctl.errors import ProtocolError
from flctl.federation.identity.canonical import digest
from flctl.types import Ask, Reply
from flctl.wire import frames

__all__ = [
    "MESSAGE",
    "PLAN",
    "WORK",
    "WORKS",
    "FailureBody",
    "OrderBody",
    "content_digest",
    "pack_reply",
    "unpack_reply",
]

WORK, MESSAGE, PLAN = "work", "message", "plan"
"""Names of an order's blobs: the work of training, the same for all sites; the aggregator's message to one site; a
plan. The work of an evaluation or of statistics has the name of what is asked for."""
WORKS: Mapping[Ask, str] = {"train": WORK, "evaluate": "evaluate", "statistics": "statistics"}
REPLY = "site-reply"
MOST_METRICS = 16
MOST_TEXT = 500
MOST_NAME = 64
MOST_METRIC = 1e100
COUNTS = frozenset({"examples", "rows"})
"""Metrics that count: never negative, and whole numbers that float64 holds."""
MOST_COUNT = float(1 << 53)


def content_digest(ask: str, parts: Mapping[str, str]) -> str:
    """Returns the digest of an order's content: what is asked for, and the SHA-256 of each part's plaintext."""
    return digest(["flctl/content/1", ask, dict(parts)])


@dataclass(frozen=True, slots=True)
class OrderBody:
    """Small values of a task's envelope: what is asked for, and the name of each of its blobs in order."""

    ask: Ask
    parts: tuple[str, ...]

    @property
    def work(self) -> str:
        """Name of the part with the work."""
        return WORKS[self.ask]

    def to_json(self) -> dict[str, Any]:
        """The values as an envelope's body."""
        return {"ask": self.ask, "parts": list(self.parts)}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> OrderBody:
        """The values in an envelope's body. Raises ProtocolError for another body."""
        for ask, work in WORKS.items():
            for parts in ((), (work,), (MESSAGE,), (work, MESSAGE)):
                if body == {"ask": ask, "parts": [*parts]}:
                    return cls(ask, parts)
        raise ProtocolError("an order's body has what is asked for and the names of its parts")


@dataclass(frozen=True, slots=True)
class FailureBody:
    """A refusal or failure as a reply's envelope carries it: a kind, a reason's code, and one sentence of flctl's own.

    Never the text of an exception, which could hold a value of the data.
    """

    kind: str
    reason: str = ""
    sentence: str = ""

    def to_json(self) -> dict[str, Any]:
        """The values as an envelope's body."""
        return {"failure": {"kind": self.kind, "reason": self.reason, "sentence": self.sentence}}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> FailureBody | None:
        """The failure in an envelope's body; None for a body without one. Raises ProtocolError for another body."""
        if not body:
            return None
        failure = body.get("failure")
        if body.keys() != {"failure"} or not isinstance(failure, dict) or failure.keys() != {*cls.__slots__}:
            raise ProtocolError("a reply's body has a failure or nothing")
        if any(not isinstance(text, str) or len(text) > MOST_TEXT for text in failure.values()):
            raise ProtocolError("a failure has a kind, a reason and a sentence")
        return cls(**{name: "".join(filter(str.isprintable, text)) for name, text in failure.items()})


def pack_reply(reply: Reply) -> bytes:
    """A reply as the plaintext of a blob."""
    message = np.frombuffer(reply.message, np.uint8)
    return frames.pack(REPLY, meta={"metrics": dict(reply.metrics)}, arrays={"message": message})


def unpack_reply(data: bytes) -> Reply:
    """The reply in the plaintext of a blob. Raises ProtocolError for anything else."""
    frame = frames.unpack(data, REPLY)
    if frame.arrays.keys() != {"message"} or frame.meta.keys() != {"metrics"}:
        raise ProtocolError("a reply has a message and metrics")
    return Reply(frame.arrays["message"].tobytes(), _metrics(frame.meta["metrics"]))


def _metrics(value: Any) -> dict[str, float]:
    """Raises ProtocolError unless these are few names of printable characters, with numbers that can be added up."""
    if not isinstance(value, dict) or len(value) > MOST_METRICS:
        raise ProtocolError("the metrics of a reply are names and numbers")
    if not all(0 < len(name) <= MOST_NAME and name.isprintable() for name in value):
        raise ProtocolError(f"a metric's name has 1 to {MOST_NAME} printable characters")
    for name, number in value.items():
        least, most = (0.0, MOST_COUNT) if name in COUNTS else (-MOST_METRIC, MOST_METRIC)
        if type(number) not in (int, float) or not least <= number <= most:
            raise ProtocolError(f"the metric '{name}' of a reply is not a number from {least:g} to {most:g}")
    return {name: float(number) for name, number in value.items()}
