"""Entry point of a worker process: opens the run, then answers requests until its input ends."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from flctl import wire
from flctl.engines.opening import Opening
from flctl.engines.worker_process import read_frame, write_parts
from flctl.errors import IntegrityError, ProtocolError, StorageError
from flctl.types import Work
from flctl.wire import messages
from flctl.wire.replies import is_out_of_memory
from flctl.wire.shared_memory import AttachedMemory

if TYPE_CHECKING:
    from flctl.client.runtime import ClientRuntime


def main() -> None:
    """Speaks frames on what were standard input and output; the user's code reads nothing, and prints to standard
    error instead."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides what it means
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    if hasattr(select, "poll"):  # not on Windows
        threading.Thread(target=_leave_with_server, args=(requests,), daemon=True).start()
    try:
        serve(requests, replies)
    except (EOFError, BrokenPipeError):
        return  # the server is gone, and so is the use of this process


def _leave_with_server(requests: IO[bytes]) -> None:
    """Ends this process once the server is gone, in the middle of a chunk too: the run may be resumed meanwhile, and
    no two processes may write what one client remembers."""
    poll = select.poll()
    poll.register(requests, 0)  # a closed peer is still reported
    poll.poll()
    os._exit(0)


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answers requests until the stream ends."""
    opening = Opening.read(read_frame(requests))
    sys.path[:] = opening.path
    try:
        runtime = _open(opening)
    except Exception as error:
        reason = str(getattr(error, "reason", ""))
        meta = {"error": f"{type(error).__name__}: {error}", "reason": reason}
        write_parts(replies, wire.pack_parts("opened", meta=meta))
        return
    outline = json.dumps(runtime.outline.plain()).encode()
    opened = {"outline": np.frombuffer(outline, np.uint8)}
    write_parts(replies, wire.pack_parts("opened", meta={"error": None}, arrays=opened))
    work: Work | None = None
    attached = AttachedMemory()
    while True:
        message = read_frame(requests)
        if wire.kind_of(message) == "work":
            work = messages.unpack_work(message)
            continue
        write_parts(replies, _reply(runtime, attached, message, work))


def _reply(runtime: ClientRuntime, attached: AttachedMemory, message: bytes, work: Work | None) -> list[Any]:
    """Returns the worker's reply to one message."""
    try:
        if wire.kind_of(message) == "gather":
            ask = wire.unpack(message, "gather")
            if work is None:
                raise ProtocolError("a request to train arrived before the work")
            allocator = attached.attach(ask.meta["slab"])
            gathered = runtime.gather(ask.arrays["numbers"], work, ask.meta["each"], allocator)
            return messages.pack_gathered(gathered, allocator)
        ask = wire.unpack(message, "ask")
        if work is None:
            raise ProtocolError("a request to train arrived before the work")
        return messages.pack_outgoing(runtime.outgoing(ask.meta["clients"], work))
    except (StorageError, IntegrityError) as error:
        return wire.pack_parts(
            "stop", meta={"storage": isinstance(error, StorageError), "message": error.message, "hint": error.hint}
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return wire.pack_parts("lost", meta={"message": "not enough memory for these clients at once"})


def _open(opening: Opening) -> ClientRuntime:
    from flctl.client.runtime import ClientRuntime
    from flctl.config.config import Config
    from flctl.plugins.approved_code import load_code
    from flctl.plugins.registry import Registry
    from flctl.run.run import Run

    for source in opening.code:
        load_code(source)
    registry = Registry(disable=opening.disabled, files=opening.files)
    config = Config.model_validate(opening.config)
    run = Run.build(config, registry, opening.partition_view(), opening.memory)
    if opening.plan:
        from flctl.federation.plan.building import check_derived
        from flctl.federation.plan.plan import Plan

        check_derived(run, Plan.from_json(opening.plan.encode()))
    return ClientRuntime(run)


if __name__ == "__main__":
    main()
