"""Clients' replies: checked, weighted and joined; exceptions as failures of one line."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from flctl import arrays
from flctl.errors import DivergenceError, FlctlError, IntegrityError, ProtocolError, StorageError
from flctl.types import WEIGHT, Arrays, ClientUpdate, Failure, Gathered, Layout, Work
from flctl.wire.buffers import HEAP, Allocator

__all__ = [
    "check_update",
    "check_words",
    "failed_chunk",
    "failure_of",
    "guarded",
    "is_out_of_memory",
    "is_system_error",
    "merged",
    "no_updates",
    "one_line",
    "unguarded",
    "weighted",
]

_LONGEST = 400
_OUT_OF_MEMORY = "can't allocate memory"
Result = TypeVar("Result")


def weighted(update: ClientUpdate, *, multiplied: bool) -> Arrays:
    """Returns the vectors as an aggregator takes them, w_k a_k if they are to be `multiplied`, else a_k; and the
    weight."""
    if multiplied:
        check_words(update)
        update = dataclasses.replace(update, arrays=arrays.weigh(update.arrays, update.weight))
    return {**update.arrays, WEIGHT: np.array([update.weight], np.float64)}


def check_words(update: ClientUpdate) -> None:
    """Raises FlctlError if an update has integer vectors and a fractional weight; the weighted sum would not be an
    integer."""
    words = any(vector.dtype.kind in "iu" for vector in update.arrays.values())
    if words and update.weight != int(update.weight):
        raise FlctlError(f"the update has integer vectors and the weight {update.weight}, expected a whole number")


def check_update(update: ClientUpdate, layout: Layout) -> None:
    """Raises FlctlError unless the update has the layout, DivergenceError unless it is finite."""
    wrong = arrays.misfit(update.arrays, layout)
    if wrong:
        raise FlctlError(f"the update has {wrong}")
    if not isinstance(update.weight, (int, float, np.number)) or not np.isfinite(update.weight) or update.weight < 0:
        raise FlctlError(f"the update's weight is {update.weight}, expected a finite number of at least 0")
    for name, vector in update.arrays.items():
        if not arrays.is_finite({name: vector}):
            bad = vector.size - int(np.isfinite(vector).sum())
            raise DivergenceError(f"the update's vector '{name}' has {bad} of {vector.size} values NaN or infinite")


def guarded(work: Callable[[], Result]) -> Result | Failure:
    """Returns what `work` returns, or a `Failure` for any exception for which a client may be at fault (not
    `is_system_error`)."""
    try:
        return work()
    except (Exception, SystemExit) as error:  # a client that calls sys.exit must not end the server
        if is_system_error(error):
            raise
        return failure_of(error)


def unguarded(work: Callable[[], Result]) -> Result:
    """Calls `work` and lets exceptions pass; takes the place of `guarded` to show the error."""
    return work()


def is_system_error(error: BaseException) -> bool:
    """True for errors that no client caused: exhausted memory, a full disk, or damaged files."""
    return isinstance(error, StorageError | IntegrityError) or is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """True if the process ran out of memory (torch has no exception class for that)."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY in str(error))


def failure_of(error: BaseException) -> Failure:
    """The error as a failure."""
    if isinstance(error, DivergenceError):
        return Failure("non-finite", error.message)
    if isinstance(error, ProtocolError):
        return Failure("refused", error.message)
    return Failure("exception", error.message if isinstance(error, FlctlError) else _last_line(error))


def no_updates(work: Work, *, keep_individual: bool) -> Arrays:
    """Returns the sum, or the rows, of zero clients."""
    if keep_individual:
        return {name: np.zeros((0, length), np.float32) for name, length in work.layout.items()}
    return {**arrays.zeros(work.layout), WEIGHT: np.zeros(1)}


def failed_chunk(client_index: int, failure: Failure, work: Work, *, keep_individual: bool) -> Gathered:
    """Returns the reply of a chunk of one client that failed."""
    none = np.zeros(0)
    return Gathered(
        no_updates(work, keep_individual=keep_individual),
        np.zeros(0, np.int64),
        none,
        none,
        none,
        none,
        {client_index: failure},
        {},
        0,
    )


def merged(parts: Sequence[Gathered], allocator: Allocator = HEAP, *, keep_individual: bool) -> Gathered:
    """Joins the replies of a chunk's parts: sums are added in order, rows are concatenated in memory of `allocator`."""
    if len(parts) == 1:
        return parts[0]
    per_client = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("numbers", "weights", "loss", "examples", "steps")
    }
    failed = {client_index: failure for part in parts for client_index, failure in part.failed.items()}
    seconds: dict[str, float] = {}
    for part in parts:
        for name, spent in part.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + spent
    answered = [part.vectors for part in parts if part.numbers.size] or [parts[0].vectors]
    if keep_individual:
        vectors: dict[str, Any] = {name: allocator.joined([part[name] for part in answered]) for name in answered[0]}
    else:
        vectors = {name: array.copy() for name, array in answered[0].items()}
        for more in answered[1:]:
            arrays.accumulate(vectors, more)
    bytes_up = sum(part.bytes_up for part in parts)
    return Gathered(vectors=vectors, failed=failed, seconds=seconds, bytes_up=bytes_up, **per_client)


def _last_line(error: BaseException) -> str:
    """The error in one line of at most 500 printable characters: it goes to terminals, logs and other processes."""
    frames = traceback.extract_tb(error.__traceback__)
    origin = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(str(error))}{origin}"


def one_line(text: str) -> str:
    """Returns a text in one line of at most 400 printable characters: a client may have written it.

    >>> one_line("two\\nlines")
    'two lines'
    """
    shown = " ".join(text[: _LONGEST + 1].split())
    shown = shown if len(text) <= _LONGEST else f"{shown[: _LONGEST - 4]} ..."
    return "".join(character if character.isprintable() else "?" for character in shown)
