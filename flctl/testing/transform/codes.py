"""Transforms that send codes, and transforms whose clients remember."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import arrays
from flctl.errors import FlctlError
from flctl.testing.conformance import Checks, said
from flctl.testing.transform.subject import LAYOUTS, TransformSubject, samples
from flctl.testing.values import gap, vectors_close
from flctl.types import Arrays, Layout

__all__ = ["add_codes"]


def add_codes(checks: Checks) -> None:
    """Adds the checks of `decode`, `remembers` and `keeps`."""
    _add_decode(checks)
    _add_bad_codes(checks)
    _add_memory(checks)


def _add_decode(checks: Checks) -> None:
    @checks.add(
        "decode",
        "decode returns finite vectors of the layout before sends, from the output of on_client.",
        why="The transform before it, and finally the strategy, must receive vectors of the layout that they sent.",
        todo="Return each vector of ctx.layout with its length, from the names that sends returns.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS if s.make().encodes else ():
            for sent in s.sent(layout):
                yield from _decoded_faults(s.make().decode(sent.arrays, s.shared(layout)), layout)

    @checks.add(
        "linear",
        "If `linear` is True, decoding the sum equals the sum of decoded codes.",
        why="With linear = True, codes are summed without decoding, and the sum is decoded once.",
        todo="Leave linear = False: then each client's code is decoded before it is added.",
    )
    def find_linear(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS if s.make().encodes and s.make().linear else ():
            sent = [arrays.weigh(update.arrays, update.weight) for update in s.sent(layout)]
            total = {name: np.sum([codes[name] for codes in sent], axis=0) for name in sent[0]}
            each = [s.make().decode(codes, s.shared(layout)) for codes in sent]
            summed = {name: np.sum([vectors[name] for vectors in each], axis=0) for name in layout}
            differs = vectors_close(s.make().decode(total, s.shared(layout)), summed, 1e-4)
            yield from [f"of three clients {differs}"] if differs else []


def _decoded_faults(found: Any, layout: Layout) -> Iterator[str]:
    wrong = arrays.misfit(found, layout)
    if wrong:
        yield f"it returned {wrong}"
    elif not arrays.is_finite(found):
        yield "it returned values that are NaN or infinite"


def _add_bad_codes(checks: Checks) -> None:
    @checks.add(
        "bad-codes",
        "decode raises ProtocolError for an invalid code, or returns vectors of the right layout.",
        why="Codes come from clients that the server does not control: an invalid position or count must cost that "
        "client's update and nothing else.",
        todo="Check dtype, range and counts before you use them as positions or sizes; raise flctl.ProtocolError.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS if s.make().encodes else ():
            sent = s.sent(layout, 1)[0].arrays
            for name, vector in sent.items():
                for what, lie in _lies(vector).items():
                    yield from _judged(s, {**sent, name: lie}, layout, f"'{name}' of {what}")


def _lies(vector: npt.NDArray[Any]) -> Mapping[str, npt.NDArray[Any]]:
    """Vectors of the same length, finite, that may not be what was sent."""
    rng = np.random.default_rng(4)
    return {
        "the largest int32": np.full(vector.size, 2**31 - 1, np.int32),
        "the least int32": np.full(vector.size, -(2**31), np.int32),
        "random bytes": rng.integers(0, 256, vector.size).astype(np.uint8),
        "zeros": np.zeros_like(vector),
        "fractions": rng.normal(size=vector.size).astype(np.float32),
        "1e30": np.full(vector.size, 1e30, np.float32),
    }


def _judged(s: TransformSubject, codes: Arrays, layout: Layout, what: str) -> Iterator[str]:
    try:
        with np.errstate(all="ignore"):
            found = s.make().decode(codes, s.shared(layout))
    except FlctlError:
        return
    except Exception as error:
        yield f"with {what}: {said(error)}"
        return
    wrong = arrays.misfit(found, layout)
    yield from [f"with {what} it returned {wrong}"] if wrong else []


def _add_memory(checks: Checks) -> None:
    @checks.add(
        "memory",
        "Client memory has the layout that remembers declares, is finite, and fits float32 in each round.",
        why="Client memory is stored in files of that layout between rounds, and another process may read them.",
        todo="Name each vector with its length in remembers(layout), and return those names from keeps, as float32.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            memory: Arrays = arrays.zeros(s.pipeline(layout).memory_layout)
            for round_number, update in enumerate(samples(layout, 4), 1):
                _, memory = s.send(update, round_number, memory)  # raises for another layout, and for NaN
                for name, vector in memory.items():
                    if gap(vector, vector.astype(np.float32)) > 0:
                        yield f"in round {round_number} '{name.rpartition('/')[2]}' is {vector.dtype}, and loses digits"
