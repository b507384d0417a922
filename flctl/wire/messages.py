"""Requests and replies as frames: what crosses from the server to a client's process and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from flctl.arrays import weighed_dtype
from flctl.types import WEIGHT, Allowance, Arrays, Failure, Gathered, LocalWork, Reply, Work
from flctl.wire import frames
from flctl.wire.buffers import HEAP, Allocator
from flctl.wire.frames import Frame
from flctl.wire.shared_memory import Bytes, SharedMemoryAllocator, read_shared_arrays

__all__ = [
    "pack_answers",
    "pack_gathered",
    "pack_work",
    "unpack_answers",
    "unpack_gathered",
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


def pack_answers(answers: Sequence[tuple[Reply | Failure, bytes]]) -> list[Any]:
    """Clients' answers with their aggregator's memories, as buffers."""
    entries: list[dict[str, Any]] = []
    blobs: dict[str, Any] = {}
    for position, (answer, memory) in enumerate(answers):
        if isinstance(answer, Failure):
            entries.append({"kind": answer.kind, "message": answer.message})
            continue
        entries.append({"metrics": dict(answer.metrics)})
        blobs |= {f"{position}/message": _bytes_array(answer.message), f"{position}/memory": _bytes_array(memory)}
    return frames.pack_parts("answers", meta={"answers": entries}, arrays=blobs)


def unpack_answers(message: bytes) -> list[tuple[Reply | Failure, bytes]]:
    """The answers in a frame. Raises ProtocolError for anything else."""
    frame = frames.unpack(message, "answers")
    answers: list[tuple[Reply | Failure, bytes]] = []
    for position, entry in enumerate(frame.meta["answers"]):
        if "kind" in entry:
            answers.append((Failure(entry["kind"], entry["message"]), b""))
            continue
        parts = [frame.arrays[f"{position}/{part}"].tobytes() for part in ("message", "memory")]
        answers.append((Reply(parts[0], entry["metrics"]), parts[1]))
    return answers


def _bytes_array(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)
