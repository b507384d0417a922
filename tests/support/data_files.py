"""Small files of each format for the tests of readers."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flctl.data import READERS
from flctl.data.dataset import Dataset

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def read(reader: str, source: Path | str, /, **options: Any) -> Dataset:
    """What the reader makes of the source."""
    kind = {kind.name: kind for kind in READERS}[reader]
    return kind.from_options(options).read(str(source), 0)


def idx_bytes(array: np.ndarray) -> bytes:
    """The array as an IDX file: big-endian header and values."""
    sides = b"".join(struct.pack(">I", side) for side in array.shape)
    return (
        bytes([0, 0, CODES[array.dtype.name], array.ndim])
        + sides
        + array.astype(array.dtype.newbyteorder(">")).tobytes()
    )


def npy_bytes(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    """The array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """A .npy header that declares `shape`, with no values behind it."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def npz_bytes(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """An archive of raw .npy members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def cifar_bytes(labels: np.ndarray, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Records [n] with labels [n] or [n, 2], and their pixels uint8 [n, 3072]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return np.hstack([labels.reshape(len(labels), -1).astype(np.uint8), pixels]).tobytes(), pixels
