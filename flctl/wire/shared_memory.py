"""Memory that a server and its workers share: a worker writes clients' vectors once, and the server reads them in
place.

A block is an anonymous file (Linux's memfd_create(2)): it has no name, fills no folder, and disappears with the last
process that holds it. Its pages are reserved when it is made, so that a lack of memory is an error and not a signal.
Without shared memory, vectors travel through pipes.
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

__all__ = [
    "MIN_BYTES",
    "AttachedMemory",
    "SharedBlock",
    "SharedMemoryAllocator",
    "SharedMemoryPool",
    "read_shared_arrays",
]

Bytes = npt.NDArray[np.uint8]

MIN_BYTES = 1 << 18
"""Replies with fewer bytes go through the pipe, which is as fast."""
_ALIGNMENT = 1 << 20
_MAX_ATTACHED = 16
"""Blocks that a worker keeps in its address space."""


@dataclass(frozen=True, slots=True)
class SharedBlock:
    """One piece of shared memory, of `size` bytes; a pool never uses a `block_id` twice."""

    block_id: int
    descriptor: int
    size: int
    memory: mmap.mmap

    @property
    def address(self) -> list[int]:
        """Address with which a worker opens the block: process, block id, descriptor, size."""
        return [os.getpid(), self.block_id, self.descriptor, self.size]


class SharedMemoryPool:
    """The server's blocks. A block returns to the pool when the last array that views it is freed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[SharedBlock] = []
        self._count = 0
        self._closed = not hasattr(os, "memfd_create")

    def take(self, size: int) -> tuple[SharedBlock, Bytes] | None:
        """Returns a block of at least `size` bytes and its bytes, which keep it in use; None if the reply is to go
        through the pipe."""
        if size < MIN_BYTES or self._closed:
            return None
        with self._lock:
            fits = [block for block in self._free if block.size >= size]
            block = min(fits, key=lambda one: one.size, default=None)
            if block is None:
                block = self._allocate(-(-size // _ALIGNMENT) * _ALIGNMENT)
            else:
                self._free.remove(block)
        if block is None:
            return None
        whole = np.frombuffer(block.memory, np.uint8)
        weakref.finalize(whole, self._release, block)
        return block, whole

    def close(self) -> None:
        """Frees the blocks that no array views; a block in use is freed with its last array."""
        self._closed = True
        with self._lock:
            while self._free:
                _close(self._free.pop())

    def _allocate(self, size: int) -> SharedBlock | None:
        """Allocates a block in place of one that has become too small; None if there is no memory for it."""
        if self._free:
            _close(self._free.pop(0))
        self._count += 1
        descriptor = os.memfd_create(f"flctl-{self._count}")
        try:
            os.posix_fallocate(descriptor, 0, size)
            return SharedBlock(self._count, descriptor, size, mmap.mmap(descriptor, size))
        except OSError:
            os.close(descriptor)
            return None

    def _release(self, block: SharedBlock) -> None:
        if self._closed:
            _close(block)
        else:
            self._free.append(block)


def _close(block: SharedBlock) -> None:
    with suppress(BufferError):  # an array is just going
        block.memory.close()
    os.close(block.descriptor)


class SharedMemoryAllocator(Allocator):
    """Allocates a worker's reply in a shared block, one array after the other, as long as they fit."""

    def __init__(self, memory: Bytes) -> None:
        self._memory, self._used = memory, 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """Returns a new array, in the block if it fits."""
        item = np.dtype(dtype).itemsize
        size, start = int(np.prod(shape)) * item, -(-self._used // item) * item
        if start + size > self._memory.size:
            return np.empty(shape, dtype)
        self._used = start + size
        found: npt.NDArray[Any] = self._memory[start : self._used].view(dtype).reshape(shape)
        return found

    def joined(self, blocks: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Returns the rows of all blocks as one array; a view without a copy if the blocks are adjacent."""
        starts, dtypes = [self._offset(block) for block in blocks], {block.dtype for block in blocks}
        first, end = starts[0], starts[0]
        for block, start in zip(blocks, starts, strict=True):
            if end is None or start != end or len(dtypes) > 1:
                return super().joined(blocks)
            end += block.nbytes
        found: npt.NDArray[Any] = self._memory[first:end].view(blocks[0].dtype).reshape(-1, *blocks[0].shape[1:])
        return found

    def offset_of(self, array: npt.NDArray[Any]) -> int | None:
        """Returns the array's offset in the block, after copying it there if necessary; None if it does not fit."""
        start = self._offset(array)
        if start is None:
            copy = self.empty(array.shape, array.dtype)
            copy[...] = array
            start = self._offset(copy)
        return start

    def _offset(self, array: npt.NDArray[Any]) -> int | None:
        start = int(array.ctypes.data) - int(self._memory.ctypes.data)
        inside = start >= 0 and start + array.nbytes <= self._memory.size
        return start if inside and array.flags.c_contiguous else None


class AttachedMemory:
    """The server's blocks that a worker has mapped."""

    def __init__(self) -> None:
        self._attached: dict[int, Bytes] = {}

    def attach(self, address: list[int] | None) -> Allocator:
        """Returns an allocator for the block at an address; the heap if the block cannot be opened."""
        if address is None:
            return HEAP
        process, block_id, descriptor, size = address
        if block_id not in self._attached:
            try:
                with open(f"/proc/{process}/fd/{descriptor}", "r+b") as file:
                    memory = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
            except (OSError, ValueError):
                return HEAP
            while len(self._attached) >= _MAX_ATTACHED:
                del self._attached[next(iter(self._attached))]
            self._attached[block_id] = memory
        return SharedMemoryAllocator(self._attached[block_id])


def read_shared_arrays(
    declared: Mapping[str, Any], block: Bytes | None, allowed: Callable[[str], bool]
) -> dict[str, npt.NDArray[Any]]:
    """Returns views of the arrays that a reply declares in its shared block, name -> [start, dtype, shape].

    The reply comes from another process, so nothing in it is trusted: raises ProtocolError for an array that is not
    inside the block.
    """
    found = {}
    for name, (start, dtype, shape) in declared.items():
        if block is None or not allowed(dtype) or start < 0 or min(shape, default=0) < 0:
            raise ProtocolError(f"a reply has vectors '{name}' in memory outside its allocation")
        size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if start + size > block.size or start % np.dtype(dtype).itemsize:
            raise ProtocolError(f"a reply has vectors '{name}' of {size} bytes at {start}, beyond its {block.size}")
        found[name] = block[start : start + size].view(dtype).reshape(shape)
    return found
