"""Shared memory for clients' vectors: whose it is, when it is free again, and what is refused."""

import gc
import os
import sys

import numpy as np
import pytest

from flctl.errors import ProtocolError
from flctl.types import Gathered
from flctl.wire import frames, messages
from flctl.wire.buffers import HEAP
from flctl.wire.shared_memory import (
    MIN_BYTES,
    AttachedMemory,
    SharedMemoryAllocator,
    SharedMemoryPool,
    read_shared_arrays,
)

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="there is no memfd_create here: pipes are used")
ROWS = np.arange(6 * 30_000, dtype=np.float32).reshape(6, 30_000)


def gathered(**vectors):
    told = {name: np.arange(6.0) for name in ("weights", "loss", "examples", "steps")}
    return Gathered(vectors, np.arange(6), failed={}, seconds={}, bytes_up=7, **told)


@pytest.fixture
def slabs():
    made = SharedMemoryPool()
    yield made
    made.close()


def test_rows_are_written_once_and_read_where_they_lie(slabs):
    slab, memory = slabs.take(ROWS.nbytes)
    room = AttachedMemory().attach(slab.address)
    rows = room.empty(ROWS.shape, np.float32)
    rows[...] = ROWS
    message = b"".join(messages.pack_gathered(gathered(delta=rows), room))
    found = messages.unpack_gathered(message, memory)
    assert len(message) < 2000
    assert np.shares_memory(found.vectors["delta"], memory)
    np.testing.assert_array_equal(found.vectors["delta"], ROWS)
    rows[0, 0] = 5
    assert found.vectors["delta"][0, 0] == 5
    assert found.bytes_up == 7


def test_rows_from_elsewhere_are_copied_and_those_that_do_not_fit_travel_in_the_message(slabs):
    slab, memory = slabs.take(ROWS.nbytes)
    assert slab.size < 2 * ROWS.nbytes
    message = b"".join(
        messages.pack_gathered(gathered(a=ROWS, b=ROWS + 1, c=ROWS[0]), AttachedMemory().attach(slab.address))
    )
    assert len(message) > ROWS.nbytes
    found = messages.unpack_gathered(message, memory).vectors
    assert [np.shares_memory(found[name], memory) for name in "abc"] == [True, False, False]
    for name, expected in {"a": ROWS, "b": ROWS + 1, "c": ROWS[0]}.items():
        np.testing.assert_array_equal(found[name], expected)


def test_blocks_that_lie_one_behind_the_other_are_joined_without_a_copy(slabs):
    _, memory = slabs.take(4 * ROWS.nbytes)
    room = SharedMemoryAllocator(memory)
    first, second = (room.empty((3, 5), np.float32) for _ in range(2))
    first[...], second[...] = 1, 2
    joined = room.joined([first, second])
    np.testing.assert_array_equal(joined, np.repeat(np.float32([[1] * 5, [2] * 5]), 3, axis=0))
    assert np.shares_memory(joined, first)
    assert np.shares_memory(joined, second)
    for others in ([second, first], [first, second[:, :0].reshape(0, 5), second[1:]], [first, np.ones((1, 5), "f4")]):
        np.testing.assert_array_equal(room.joined(others), np.concatenate(others))
    np.testing.assert_array_equal(HEAP.joined([first, second]), joined)


def test_a_slab_is_free_again_once_nobody_holds_an_array_in_it(slabs):
    slab, memory = slabs.take(MIN_BYTES)
    kept = memory[:100].view(np.float32)[3]
    row = memory[:100].view(np.float32).reshape(5, 5)[2]
    del memory
    gc.collect()
    other, _ = slabs.take(MIN_BYTES)
    assert other.block_id != slab.block_id, "an array in the first one is still there"
    del row, kept
    again, _ = slabs.take(MIN_BYTES)
    assert again.block_id == slab.block_id


def test_a_slab_that_is_too_small_makes_room_for_a_larger_one(slabs):
    small = slabs.take(MIN_BYTES)[0].block_id
    gc.collect()
    before = descriptors()
    large = slabs.take(50 * MIN_BYTES)[0]
    assert large.size >= 50 * MIN_BYTES
    assert large.block_id != small
    assert descriptors() == before


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_little_goes_through_the_pipe_and_so_does_everything_after_the_end(slabs):
    assert slabs.take(MIN_BYTES - 1) is None
    slabs.close()
    assert slabs.take(MIN_BYTES) is None


def test_where_there_is_no_memory_there_is_no_slab(slabs, monkeypatch):
    def refuse(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    before = descriptors()
    assert slabs.take(MIN_BYTES) is None
    assert descriptors() == before


def test_a_worker_that_cannot_reach_a_slab_uses_the_heap():
    assert AttachedMemory().attach(None) is HEAP
    assert AttachedMemory().attach([os.getpid(), 1, 999_999, MIN_BYTES]) is HEAP
    assert AttachedMemory().attach([2**30, 1, 3, MIN_BYTES]) is HEAP


@pytest.mark.parametrize(
    "declared",
    [
        [-4, "<f4", [1, 1]],
        [0, "<f4", [1 << 40, 1 << 40]],
        [0, "<f4", [-1, 5]],
        [2, "<f4", [1, 1]],
        [(1 << 20) - 4, "<f4", [1, 2]],
        [0, "|O", [1, 1]],
    ],
)
def test_a_reply_cannot_point_beyond_its_slab(slabs, declared):
    _, memory = slabs.take(MIN_BYTES)
    with pytest.raises(ProtocolError, match="a reply has vectors 'delta'"):
        read_shared_arrays({"delta": declared}, memory, frames.DTYPES.__contains__)


def test_a_reply_without_a_slab_cannot_point_into_one():
    with pytest.raises(ProtocolError, match="in memory outside its allocation"):
        read_shared_arrays({"delta": [0, "<f4", [1, 1]]}, None, frames.DTYPES.__contains__)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_all_slabs_go_when_the_pool_is_closed():
    made = SharedMemoryPool()
    before = descriptors()
    memory = made.take(MIN_BYTES)[1]
    made.take(MIN_BYTES)
    made.close()
    assert descriptors() > before  # an array still lies in one
    del memory
    assert descriptors() == before
