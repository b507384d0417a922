"""Frames come back as they were packed, and nothing else is taken for one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from flctl import wire
from flctl.errors import ProtocolError
from flctl.types import Allowance, Failure, LocalWork, Outgoing, Work
from flctl.wire import frames, messages

vectors = st.dictionaries(
    st.text(max_size=5),
    arrays_of.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8]), st.integers(0, 20)),
    max_size=4,
)


@given(vectors, st.dictionaries(st.text(max_size=4), st.integers(), max_size=3))
def test_a_frame_comes_back_as_it_was_packed(arrays, meta):
    packed = wire.pack("vector", meta=meta, arrays=arrays)
    frame = wire.unpack(packed, "vector")
    assert wire.size("vector", meta=meta, arrays=arrays) == len(packed)
    assert frame.meta == meta
    assert list(frame.arrays) == list(arrays)
    for name, array in arrays.items():
        assert frame.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(frame.arrays[name], array)


FRAME = wire.pack("vector", arrays={"delta": np.arange(3, dtype=np.float32)})


@given(st.integers(0, len(FRAME) - 1))
def test_a_truncated_frame_is_refused(length):
    with pytest.raises(ProtocolError):
        wire.unpack(FRAME[:length], "vector")


@given(st.binary(max_size=80))
def test_bytes_that_are_no_frame_are_refused(data):
    with pytest.raises(ProtocolError):
        wire.unpack(data, "vector")


@given(st.integers(0, len(FRAME) - 13), st.integers(1, 255))
def test_a_changed_byte_before_the_numbers_never_crashes(position, change):
    changed = bytearray(FRAME)
    changed[position] ^= change
    try:
        frame = wire.unpack(bytes(changed), "vector")
    except ProtocolError:
        return
    assert frame.kind == "vector"


def declared(header: bytes, body: bytes = b"", version: int = 1) -> bytes:
    return frames.PREFIX.pack(b"FLCW", version, len(header), len(body)) + header + body


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (declared(b"{}"), "lacks kind"),
        (declared(b"[" * 100_000), "not JSON"),
        (declared(b'{"kind":"vector","meta":{},"meta":{"n":1},"arrays":[]}'), "not JSON"),
        (declared(b'{"kind":"vector","meta":{"n":NaN},"arrays":[]}'), "not JSON"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[["a","<f4",4611686018427387904]]}'), "longer than its body"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[["a","<f4",-1]]}'), "bad name, dtype or length"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[["a",["<f4"],1]]}', b"1234"), "bad name, dtype or length"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[["a","|O",1]]}', b"12345678"), "bad name, dtype or length"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[["a","<f4",1],["a","<f4",1]]}', b"12345678"), "twice"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[]}', b"1234"), "beyond its arrays"),
        (declared(b'{"kind":"vector","meta":{},"arrays":[]}', version=2), "version 2"),
        (frames.PREFIX.pack(b"FLCW", 1, 1 << 31, 0), "header of 2147483648 bytes"),
        (frames.PREFIX.pack(b"FLCW", 1, 2, 1 << 60) + b"{}", "declares"),
        (wire.pack("work"), "kind 'work'"),
    ],
)
def test_a_malformed_frame_is_refused_with_a_reason(message, says):
    with pytest.raises(ProtocolError, match=says):
        wire.unpack(message, "vector")


def test_a_body_beyond_the_known_size_is_refused_before_it_is_read():
    prefix = wire.pack("vector", arrays={"a": np.zeros(10, np.float32)})[: frames.PREFIX.size]
    assert frames.lengths(prefix, most=40)[1] == 40
    with pytest.raises(ProtocolError, match="a body of 40 bytes; at most 39"):
        frames.lengths(prefix, most=39)
    with pytest.raises(ProtocolError, match="a body of 1152921504606846976 bytes"):
        frames.lengths(frames.PREFIX.pack(b"FLCW", 1, 2, 1 << 60))


def test_work_comes_back_as_it_was_packed():
    work = Work(
        round=3,
        params={"params": np.arange(4, dtype=np.float32), "buffers": np.ones(2, np.float32)},
        extra={"c": np.zeros(4, np.float32)},
        transforms={"clip": {"bound": np.array([2.0], np.float32)}},
        local=LocalWork(epochs=2, lr=0.05, clip_norm=1.0),
        layout={"delta": 4, "buffers": 2},
    )
    back = messages.unpack_work(messages.pack_work(work))
    assert messages.work_size(work) == len(messages.pack_work(work))
    assert back.allowance is None
    assert (back.round, back.local, back.layout) == (work.round, work.local, work.layout)
    np.testing.assert_array_equal(back.params["params"], work.params["params"])
    np.testing.assert_array_equal(back.extra["c"], work.extra["c"])
    np.testing.assert_array_equal(back.transforms["clip"]["bound"], work.transforms["clip"]["bound"])


def test_how_far_each_device_gets_travels_with_the_work_and_is_no_part_of_a_clients_message():
    work = Work(1, {"params": np.zeros(4, np.float32)}, {}, {}, LocalWork(), {"delta": 4})
    told = replace(work, allowance=Allowance(np.array([3, 8]), np.array([5, 1])))
    back = messages.unpack_work(messages.pack_work(told)).allowance
    assert (back.client_indices.tolist(), back.steps.tolist()) == ([3, 8], [5, 1])
    assert messages.work_size(told) == messages.work_size(work)


@pytest.mark.parametrize("sent", [{"loss": 0.5}, {}, Failure("exception", "boom")])
def test_vectors_for_the_client_half_come_back_as_they_were_packed(sent):
    vectors = {"delta": np.arange(3, dtype=np.float32), "weight": np.array([2.0])}
    one = sent if isinstance(sent, Failure) else Outgoing(vectors, sent)
    first, back = messages.unpack_outgoing(
        b"".join(bytes(part) for part in messages.pack_outgoing([Outgoing({}), one]))
    )
    assert not first.vectors
    if isinstance(one, Failure):
        assert back == one
        return
    assert back.metrics == one.metrics
    for name, vector in vectors.items():
        assert back.vectors[name].dtype == vector.dtype
        np.testing.assert_array_equal(back.vectors[name], vector)
