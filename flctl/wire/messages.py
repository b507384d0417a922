"""Requests and replies as frames: what crosses from the server to a client's process and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from flctl.arrays import weighed_dtype
from flctl.types import WEIGHT, Allowance, Arrays, Failure, Gathered, LocalWork, Outgoing, Work
from flctl.wire import frames
from flctl.wire.buffers import HEAP, Allocator
from flctl.wire.frames import Frame
from flctl.wire.shared_memory import Bytes, SharedMemoryAllocator, read_shared_arrays

__all__ = [
    "pack_gathered",
    "pack_outgoing",
    "pack_work",
    "unpack_gathered",
    "unpack_outgoing",
    "unpack_work",
    "vector_size",
    "work_size",
]

PER_CLIENT = ("numbers", "weights", "loss", "examples", "steps")


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
        **({} if work.ask == "train" else {"ask": work.ask}),
    }
    return {"meta": meta, "arrays": vectors}


def pack_work(work: Work) -> bytes:
    """A cohort's work as bytes."""
    frame = _work_frame(work)
    if work.allowance is not None:
        parts = {"allowance/numbers": work.allowance.client_indices, "allowance/steps": work.allowance.steps}
        frame["arrays"] = {**frame["arrays"], **parts}
    return frames.pack("work", **frame)


def work_size(work: Work) -> int:
    """Returns the bytes that one client receives: those of `pack_work` without the allowances of simulated devices."""
    return frames.size("work", **_work_frame(work))


def unpack_work(message: bytes) -> Work:
    """The work in `message`. Raises ProtocolError for anything else."""
    frame = frames.unpack(message, "work")
    allowance = _under(frame, "allowance/")
    return Work(
        round=frame.meta["round"],
        params=_under(frame, "params/"),
        extra=_under(frame, "extra/"),
        transforms={name: _under(frame, f"transforms/{name}/") for name in frame.meta["transforms"]},
        local=LocalWork(**frame.meta["local"]),
        layout=frame.meta["layout"],
        ask=frame.meta.get("ask", "train"),
        allowance=Allowance(allowance["numbers"], allowance["steps"]) if allowance else None,
    )


def vector_size(vectors: Arrays, *, weighed: bool = False) -> int:
    """Returns the bytes of one client's message with vectors like these, sums [L] or rows [K, L]. `weighed` counts them
    with the dtypes that they have after multiplication by the weight."""
    like = {
        name: np.broadcast_to(_zero(vector.dtype, weighed=weighed), vector.shape[-1:])
        for name, vector in vectors.items()
    }
    return frames.size("vector", arrays={**like, WEIGHT: np.zeros(1)})


def _zero(dtype: np.dtype[Any], *, weighed: bool) -> Any:
    return (weighed_dtype(dtype) if weighed else dtype).type(0)


def _under(frame: Frame, prefix: str) -> Arrays:
    return {name[len(prefix) :]: array for name, array in frame.arrays.items() if name.startswith(prefix)}


def pack_gathered(gathered: Gathered, allocator: Allocator = HEAP) -> list[Any]:
    """Packs a chunk's reply as buffers to write one after the other. Rows go to shared memory as far as `allocator`
    holds them."""
    shared = (
        _place_in_shared_memory(gathered.vectors, allocator) if isinstance(allocator, SharedMemoryAllocator) else {}
    )
    vectors = {f"vectors/{name}": vector for name, vector in gathered.vectors.items() if name not in shared}
    per_client = {name: getattr(gathered, name) for name in PER_CLIENT}
    failed = [[client_index, failure.kind, failure.message] for client_index, failure in gathered.failed.items()]
    lengths = {name: vector.shape[-1] for name, vector in gathered.vectors.items()}
    rows = {name: vector.ndim == 2 for name, vector in gathered.vectors.items()}
    meta = {
        "failed": failed,
        "seconds": dict(gathered.seconds),
        "lengths": lengths,
        "rows": rows,
        "bytes_up": gathered.bytes_up,
        "laid": shared,
    }
    return frames.pack_parts("gathered", meta=meta, arrays={**per_client, **vectors})


def _place_in_shared_memory(vectors: Arrays, allocator: SharedMemoryAllocator) -> dict[str, Any]:
    """Returns name -> [start, dtype, shape] of the rows that are in shared memory."""
    starts = {name: allocator.offset_of(vector) for name, vector in vectors.items() if vector.ndim == 2}
    return {
        name: [start, vectors[name].dtype.str, list(vectors[name].shape)]
        for name, start in starts.items()
        if start is not None
    }


def unpack_gathered(message: bytes, block: Bytes | None = None) -> Gathered:
    """Unpacks a chunk's reply, with rows that lie in `block`. Raises ProtocolError if it is not one."""
    frame = frames.unpack(message, "gathered")
    vectors: dict[str, Any] = read_shared_arrays(frame.meta["laid"], block, frames.DTYPES.__contains__)
    for name, vector in _under(frame, "vectors/").items():
        vectors[name] = vector.reshape(-1, frame.meta["lengths"][name]) if frame.meta["rows"][name] else vector
    return Gathered(
        vectors=vectors,
        failed={client_index: Failure(kind, message_text) for client_index, kind, message_text in frame.meta["failed"]},
        seconds=frame.meta["seconds"],
        bytes_up=frame.meta["bytes_up"],
        **{name: frame.arrays[name] for name in PER_CLIENT},
    )


def pack_outgoing(sent: Sequence[Outgoing | Failure]) -> list[Any]:
    """Clients' vectors for the aggregator's client half, as buffers."""
    entries: list[dict[str, Any]] = []
    vectors: dict[str, Any] = {}
    for position, one in enumerate(sent):
        if isinstance(one, Failure):
            entries.append({"kind": one.kind, "message": one.message})
            continue
        entries.append({"metrics": dict(one.metrics)})
        vectors |= {f"{position}/{name}": vector for name, vector in one.vectors.items()}
    return frames.pack_parts("outgoing", meta={"clients": entries}, arrays=vectors)


def unpack_outgoing(message: bytes) -> list[Outgoing | Failure]:
    """The clients' vectors in a frame. Raises ProtocolError for anything else."""
    frame = frames.unpack(message, "outgoing")
    return [
        Failure(entry["kind"], entry["message"])
        if "kind" in entry
        else Outgoing(_under(frame, f"{position}/"), entry["metrics"])
        for position, entry in enumerate(frame.meta["clients"])
    ]
