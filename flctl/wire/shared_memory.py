"""Memory that a server and its workers share: clients' vectors are written there once, and read where they lie.

A slab is an anonymous file (Linux's memfd_create(2)): it has no name, fills no folder, and goes with the last process
that holds it. Its pages are reserved when it is made, so that a lack of memory is an error and not a signal. Where
there are none, vectors travel through pipes.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import ProtocolError
from flctl.wire.buffers import HEAP, Allocator

__all__ = ["LEAST", "AttachedMemory", "SharedBlock", "SharedMemoryAllocator", "SharedMemoryPool", "read_shared_arrays"]

Bytes = npt.NDArray[np.uint8]

LEAST = 1 << 18
"""Bytes below which a pipe is as good."""
_GRAIN = 1 << 20
_KEPT = 16
"""Slabs that a worker keeps in its address space."""


@dataclass(frozen=True, slots=True)
class SharedBlock:
    """One piece of shared memory, of `size` bytes; no other ever has its `number`."""

    number: int
    descriptor: int
    size: int
    memory: mmap.mmap

    @property
    def address(self) -> list[int]:
        """Address with which a worker opens the block: process, number, descriptor, size."""
        return [os.getpid(), self.number, self.descriptor, self.size]


class SharedMemoryPool:
    """The server's slabs. One is free again once no array lies in it any more, whoever kept one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[SharedBlock] = []
        self._made = 0
        self._closed = not hasattr(os, "memfd_create")

    def take(self, size: int) -> tuple[SharedBlock, Bytes] | None:
        """A slab of at least `size` bytes, and its bytes, which keep it; None where a pipe is to do."""
        if size < LEAST or self._closed:
            return None
        with self._lock:
            fits = [slab for slab in self._free if slab.size >= size]
            slab = min(fits, key=lambda one: one.size, default=None)
            if slab is None:
                slab = self._made_of(-(-size // _GRAIN) * _GRAIN)
            else:
                self._free.remove(slab)
        if slab is None:
            return None
        whole = np.frombuffer(slab.memory, np.uint8)
        weakref.finalize(whole, self._give_back, slab)
        return slab, whole

    def close(self) -> None:
        """Frees what no array lies in; the rest goes with its arrays."""
        self._closed = True
        with self._lock:
            while self._free:
                _close(self._free.pop())

    def _made_of(self, size: int) -> SharedBlock | None:
        """A new slab, instead of one that has become too small; None where there is no memory for it."""
        if self._free:
            _close(self._free.pop(0))
        self._made += 1
        descriptor = os.memfd_create(f"flctl-{self._made}")
        try:
            os.posix_fallocate(descriptor, 0, size)
            return SharedBlock(self._made, descriptor, size, mmap.mmap(descriptor, size))
        except OSError:
            os.close(descriptor)
            return None

    def _give_back(self, slab: SharedBlock) -> None:
        if self._closed:
            _close(slab)
        else:
            self._free.append(slab)


def _close(slab: SharedBlock) -> None:
    with suppress(BufferError):  # an array is just going
        slab.memory.close()
    os.close(slab.descriptor)


class SharedMemoryAllocator(Allocator):
    """A worker's place for one reply: arrays are laid into a slab one after the other, as long as they fit."""

    def __init__(self, memory: Bytes) -> None:
        self._memory, self._used = memory, 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """A new array, in the slab where there is room."""
        item = np.dtype(dtype).itemsize
        size, start = int(np.prod(shape)) * item, -(-self._used // item) * item
        if start + size > self._memory.size:
            return np.empty(shape, dtype)
        self._used = start + size
        found: npt.NDArray[Any] = self._memory[start : self._used].view(dtype).reshape(shape)
        return found

    def joined(self, blocks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Returns the rows of all blocks as one array; a view without a copy if the blocks are adjacent."""
        starts, dtypes = [self._start(block) for block in blocks], {block.dtype for block in blocks}
        first, at = starts[0], starts[0]
        for block, start in zip(blocks, starts, strict=True):
            if at is None or start != at or len(dtypes) > 1:
                return super().joined(blocks)
            at += block.nbytes
        found: npt.NDArray[Any] = self._memory[first:at].view(blocks[0].dtype).reshape(-1, *blocks[0].shape[1:])
        return found

    def laid(self, array: npt.NDArray[Any]) -> int | None:
        """Returns the array's offset in the block, after copying it there if necessary; None if it does not fit."""
        start = self._start(array)
        if start is None:
            copy = self.empty(array.shape, array.dtype)
            copy[...] = array
            start = self._start(copy)
        return start

    def _start(self, array: npt.NDArray[Any]) -> int | None:
        start = int(array.ctypes.data) - int(self._memory.ctypes.data)
        inside = start >= 0 and start + array.nbytes <= self._memory.size
        return start if inside and array.flags.c_contiguous else None


class AttachedMemory:
    """A worker's slabs, as it finds them at the server."""

    def __init__(self) -> None:
        self._known: dict[int, Bytes] = {}

    def at(self, address: list[int] | None) -> Allocator:
        """The room in the slab at an address; the heap where it cannot be reached."""
        if address is None:
            return HEAP
        process, number, descriptor, size = address
        if number not in self._known:
            try:
                with open(f"/proc/{process}/fd/{descriptor}", "r+b") as file:
                    found = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
            except (OSError, ValueError):
                return HEAP
            while len(self._known) >= _KEPT:
                del self._known[next(iter(self._known))]
            self._known[number] = found
        return SharedMemoryAllocator(self._known[number])


def read_shared_arrays(
    declared: Mapping[str, Any], slab: Bytes | None, allowed: Callable[[str], bool]
) -> dict[str, npt.NDArray[Any]]:
    """Returns views of the arrays that a reply declares in its shared block, name -> [start, dtype, shape].

    The reply comes from another process, so nothing in it is trusted: raises ProtocolError for an array that is not
    inside the block.
    """
    found = {}
    for name, (start, dtype, shape) in declared.items():
        if slab is None or not allowed(dtype) or start < 0 or min(shape, default=0) < 0:
            raise ProtocolError(f"a reply has vectors '{name}' in memory outside its allocation")
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if start + size > slab.size or start % np.dtype(dtype).itemsize:
            raise ProtocolError(f"a reply has vectors '{name}' of {size} bytes at {start}, beyond its {slab.size}")
        found[name] = slab[start : start + size].view(dtype).reshape(shape)
    return found
