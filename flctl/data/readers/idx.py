"""IDX: the file format of MNIST and its family."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import PATH, Options
from flctl.data.dataset import Dataset, DatasetReader, Examples, Split
from flctl.data.examples import as_examples, checked_size, same_count
from flctl.data.files import (
    DEFLATE_RATIO,
    corrupt_gzip_refused,
    existing,
    find_one,
    is_gzip,
    require_memory,
    short_name,
)
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.splits import Parts, arrange
from flctl.data.targets import encode_labels
from flctl.errors import DataError, IntegrityError

__all__ = ["IdxReader", "read_idx"]

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IMAGES = re.compile(r"images?[-._]idx\d[-._]ubyte(\.gz)?$|\.idx\d?(\.gz)?$", re.IGNORECASE)
_TRAIN = re.compile(r"train-images[-._]idx3[-._]ubyte(\.gz)?$", re.IGNORECASE)
_TEST = re.compile(r"(t10k|test)-images[-._]idx3[-._]ubyte(\.gz)?$", re.IGNORECASE)
_VALIDATION = re.compile(r"(val|valid|validation|dev)-images[-._]idx3[-._]ubyte(\.gz)?$", re.IGNORECASE)


class IdxReader(DatasetReader):
    """IDX images and labels, plain or .gz: a folder as MNIST comes, or one images file (LeCun, Cortes, Burges 1998)."""

    name = "idx"

    class Config(Options):
        """`labels`: the labels file of an images file, where it does not lie beside it under the usual name."""

        labels: str | None = Field(None, json_schema_extra=PATH)

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is an IDX file by its name, or a folder with train-images-idx3-ubyte[.gz]."""
        path = Path(source)
        if path.is_dir():
            return any(_TRAIN.search(p.name) for p in path.iterdir())
        return _IMAGES.search(path.name) is not None

    def read(self, source: str, seed: int) -> Dataset:
        """x uint8 [n, 1, height, width], y int64 codes [n]; a folder's t10k files are the test split, its val files
        validation rows, or the test split if there are no t10k files."""
        path = existing(source)
        files = _in_folder(path) if path.is_dir() else Parts((path,))
        (train,), held_out = files.train, (*files.test, *files.validation)
        pairs = [_read_pair(train, self._labels_of(train, *held_out))]
        pairs += [_read_pair(images, _labels_beside(images)) for images in held_out]
        target = encode_labels(np.concatenate([pair.y for pair in pairs]), train.name)
        codes = np.split(target.y, np.cumsum([len(pair.y) for pair in pairs])[:-1])
        train_part, *others = (Split(pair.x, y) for pair, y in zip(pairs, codes, strict=True))
        return Dataset(
            short_name(source),
            "classification",
            train_part.x,
            train_part.y,
            target.classes,
            test=others[0] if files.test else None,
            validation=others[-1] if files.validation else None,
            notes=files.notes,
        )

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The images of one images file; no labels are needed."""
        path = existing(source)
        if path.is_dir():
            raise DataError(f"{source} is a folder, and new rows must be in one images file", hint="Use a file in it.")
        return Examples(as_examples(read_idx(path), path.name))

    def _labels_of(self, images: Path, *others: Path) -> Path:
        if self.config.labels is None:
            return _labels_beside(images)
        if others:
            raise DataError(
                "--labels needs a single images file as the source, and the source is a folder with a test part"
            )
        return existing(self.config.labels)


def _in_folder(folder: Path) -> Parts[Path]:
    train = find_one(folder, _TRAIN.search, "training images")
    if train is None:
        raise DataError(f"{folder.name} has neither train-images-idx3-ubyte nor its .gz")
    prefix = train.name[: cast(re.Match[str], _TRAIN.search(train.name)).start()]
    test = find_one(folder, lambda n: n.startswith(prefix) and _TEST.search(n), "test images")
    validation = find_one(folder, lambda n: n.startswith(prefix) and _VALIDATION.search(n), "validation images")
    if validation is None:
        return Parts((train,), (test,) if test else ())
    return arrange((train, *([test] if test else []), validation), lambda path: Path(path.name.removeprefix(prefix)))


def _labels_beside(images: Path) -> Path:
    name = images.name.replace("images", "labels").replace("image", "label").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (images.with_name(name), images.with_name(plain), images.with_name(plain + ".gz")):
        if candidate.is_file() and candidate != images:
            return candidate
    raise DataError(f"{images.name}: no labels file {plain} beside it", hint="Name it with --labels FILE.")


def _read_pair(images: Path, labels: Path) -> Split:
    x, y = read_idx(images), read_idx(labels)
    if x.ndim < 2:
        raise DataError(f"{images.name} holds values of shape {x.shape}, expected images [n, height, width]")
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{labels.name} holds {y.dtype} of shape {y.shape}, expected whole-number labels [n]")
    same_count(len(x), len(y), images.name)
    return Split(as_examples(x, images.name), y)


@dataclass(frozen=True, slots=True)
class _IdxHeader:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    length: int


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array of one IDX file, native byte order.

    Raises IntegrityError for a wrong magic number and for a declared size that is not what is there, before
    anything of that size is allocated.
    """
    compressed = is_gzip(path)
    with corrupt_gzip_refused(path), gzip.open(path) if compressed else path.open("rb") as stream:
        header = _read_header(cast(BinaryIO, stream), path.name)
        room = path.stat().st_size * DEFLATE_RATIO if compressed else path.stat().st_size - header.length
        size = checked_size(header.shape, header.dtype.itemsize, room, path.name)
        require_memory(size, path.name)
        return _read_values(cast(BinaryIO, stream), header, path.name)


def _read_header(stream: BinaryIO, name: str) -> _IdxHeader:
    magic = stream.read(4)
    if len(magic) < 4:
        raise IntegrityError(f"{name} is truncated: {len(magic)} bytes, and an IDX header has at least 8")
    if magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= 8:
        raise IntegrityError(
            f"{name} begins with {magic.hex(' ')}, which is not an IDX magic number (00 00, type 08..0e, dimensions)",
            hint="If it is another format, name it with --reader.",
        )
    sides = stream.read(4 * magic[3])
    if len(sides) < 4 * magic[3]:
        raise IntegrityError(f"{name} is truncated inside its header")
    shape = tuple(int(side) for side in np.frombuffer(sides, ">u4"))
    return _IdxHeader(np.dtype(_DTYPES[magic[2]]), shape, 4 + len(sides))


def _read_values(stream: BinaryIO, header: _IdxHeader, name: str) -> npt.NDArray[Any]:
    values = np.empty(header.shape, header.dtype)
    view, filled = values.reshape(-1).view(np.uint8).data, 0
    while filled < len(view):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise IntegrityError(f"{name} is truncated: {filled:,} of {len(view):,} declared bytes are there")
        filled += count
    # One byte more is enough to know that the header is wrong; a bomb is never unpacked further.
    if stream.read(1):
        raise IntegrityError(f"{name} holds more than the {len(view):,} bytes that its header declares")
    return values.astype(header.dtype.newbyteorder("="), copy=False)
