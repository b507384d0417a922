"""`.npy` headers of strangers: parsed without evaluating code, and held against what is really there."""

from __future__ import annotations

import tokenize
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from flctl.data.examples import checked_size
from flctl.errors import DataError, IntegrityError

__all__ = ["NpyHeader", "read_header", "read_values"]

MAX_HEADER = 10_000
_UNSOUND = (
    ValueError,
    TypeError,
    SyntaxError,
    tokenize.TokenError,
    KeyError,
    RecursionError,
    MemoryError,
    OverflowError,
)
CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """Header of a .npy: an array of `shape` and `dtype`, `size` bytes from `offset` on."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]
    offset: int
    size: int


def read_header(stream: IO[bytes], length: int, name: str) -> NpyHeader:
    """The header at the stream's start, the whole being `length` bytes long.

    Raises IntegrityError where it is no .npy, holds pickled objects, or declares another size than `length` leaves.
    """
    shape, fortran_order, dtype = _parse(stream, name)
    if dtype.hasobject:
        raise IntegrityError(
            f"{name} holds pickled Python objects, which are never loaded: they can run any code",
            hint="Save it as an array of numbers or strings.",
        )
    if dtype.names is not None or dtype.itemsize == 0:
        raise DataError(f"{name} has type {dtype}; expected numbers or strings")
    offset = stream.tell()
    size = checked_size(shape, dtype.itemsize, length - offset, name)
    if size != length - offset:
        raise IntegrityError(f"{name} declares {size:,} bytes of values and holds {length - offset:,}")
    return NpyHeader(shape, fortran_order, dtype, offset, size)


def _parse(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise IntegrityError(f"{name} has .npy version {version}; versions 1.0 and 2.0 are read")
        shape, fortran_order, dtype = readers[version](stream, max_header_size=MAX_HEADER)
    # The header is a stranger's text: NumPy's parser raises these and more for text that is no header.
    except _UNSOUND as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(
            f"{name} has no valid .npy header: {reason}", hint="The file may be truncated: fetch it again."
        ) from error
    return tuple(int(side) for side in shape), bool(fortran_order), dtype


def read_values(stream: IO[bytes], header: NpyHeader, name: str) -> npt.NDArray[Any]:
    """The array that follows a header, read in pieces so that a stream which ends early is found out early."""
    values = np.empty(header.size, np.uint8)
    filled = 0
    while filled < header.size:
        piece = stream.read(min(CHUNK, header.size - filled))
        if not piece:
            raise IntegrityError(f"{name} is truncated: {filled:,} of {header.size:,} bytes are there")
        values[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
        filled += len(piece)
    array: npt.NDArray[Any] = values.view(header.dtype)
    array = array.reshape(header.shape, order="F" if header.fortran_order else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)
