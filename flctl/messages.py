"""Requests and replies as frames: what crosses from the server to a client's process and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from flctl import wire
from flctl.types import Arrays, Failure, LocalWork, Reply, Work
from flctl.wire import Frame

__all__ = ["pack_answer", "pack_work", "unpack_answer", "unpack_work", "work_size"]


def _work_frame(work: Work) -> dict[str, Any]:
    vectors = {f"params/{name}": vector for name, vector in work.params.items()}
    vectors |= {f"extra/{name}": vector for name, vector in work.extra.items()}
    for transform, broadcast in work.transforms.items():
        vectors |= {f"transforms/{transform}/{name}": vector for name, vector in broadcast.items()}
    meta = {
        "round": work.round,
        "local": dataclasses.asdict(work.local),
        "layout": dict(work.layout),
        "transforms": list(work.transforms),
    }
    return {"meta": meta, "arrays": vectors}


def pack_work(work: Work) -> bytes:
    """A cohort's work as bytes."""
    return wire.pack("work", **_work_frame(work))


def work_size(work: Work) -> int:
    """How many bytes `pack_work` would return."""
    return wire.size("work", **_work_frame(work))


def unpack_work(message: bytes) -> Work:
    """The work in `message`. Raises ProtocolError for anything else."""
    frame = wire.unpack(message, "work")
    return Work(
        round=frame.meta["round"],
        params=_under(frame, "params/"),
        extra=_under(frame, "extra/"),
        transforms={name: _under(frame, f"transforms/{name}/") for name in frame.meta["transforms"]},
        local=LocalWork(**frame.meta["local"]),
        layout=frame.meta["layout"],
    )


def _under(frame: Frame, prefix: str) -> Arrays:
    return {name[len(prefix) :]: array for name, array in frame.arrays.items() if name.startswith(prefix)}


def pack_answer(answer: Reply | Failure, memory: bytes) -> list[Any]:
    """A client's answer and its aggregator's memory, as buffers to write one after the other."""
    if isinstance(answer, Failure):
        return wire.pack_parts("failure", meta={"kind": answer.kind, "message": answer.message})
    blobs = {"message": _bytes_array(answer.message), "memory": _bytes_array(memory)}
    return wire.pack_parts("reply", meta={"metrics": dict(answer.metrics)}, arrays=blobs)


def unpack_answer(message: bytes) -> tuple[Reply | Failure, bytes]:
    """The answer in a frame, and the aggregator's memory. Raises ProtocolError for anything else."""
    kind = "failure" if wire.kind_of(message) == "failure" else "reply"
    frame = wire.unpack(message, kind)
    if kind == "failure":
        return Failure(frame.meta["kind"], frame.meta["message"]), b""
    return Reply(frame.arrays["message"].tobytes(), frame.meta["metrics"]), frame.arrays["memory"].tobytes()


def _bytes_array(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)
