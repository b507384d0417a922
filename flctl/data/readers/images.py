"""Pictures in folders, a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader, Examples, Split, divided
from flctl.data.extras import optional
from flctl.data.files import existing, short_name
from flctl.data.options import Columns, Pixels
from flctl.data.pictures import ImageForm, common_form, decode, header_of, pixels_text
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.schema import refuse_other_groups
from flctl.data.splits import Parts, arrange, split_of_word
from flctl.data.targets import encode_labels
from flctl.errors import DataError, IncompatibleError

__all__ = ["ImageFolderReader", "holds_pictures"]

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_OTHERS = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".svg", ".dcm", ".nii", ".nii.gz", ".raw", ".cr2", ".nef", ".psd",
           ".ico", ".jxl", ".exr", ".hdr", ".npy")  # fmt: skip
"""Pictures that are not read, and are named in a note."""
MAX_DEPTH = 8


class ImageFolderReader(DatasetReader):
    """Pictures, a folder per class, and test/ or val/ beside train/ if there is one (layout of ImageNet)."""

    name = "image-folder"

    class Config(Options):
        """`image_size`: HEIGHTxWIDTH to resize to (bilinear), needed where sizes differ. `channels`: 1, 3 or auto.

        `class_level`: which folder level, from 1 at the top, is the class (default: the one that holds the
        pictures). `by`: other levels to keep as groups, as `folder1`, `folder2` ...
        """

        image_size: Pixels | None = None
        channels: Literal["auto", "1", "3"] = "auto"
        class_level: int | None = Field(default=None, ge=1, le=MAX_DEPTH)
        by: Columns = ()

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is a folder whose subfolders hold pictures."""
        path = Path(source)
        return path.is_dir() and next(_walk(path, 1), None) is not None

    def read(self, source: str, seed: int) -> Dataset:
        """x uint8 [n, channels, height, width], y int64 codes [n], classes in the order of their folders' names."""
        folder = existing(source)
        optional("PIL.Image", "Pillow", "pictures")
        parts = _parts(folder)
        pictures = (*parts.train, *parts.test, *parts.validation)
        level = self.config.class_level or len(pictures[0].folders)
        words = np.array([picture.folder(level) for picture in pictures])
        form, notes = common_form(pictures, self.config.image_size, self.config.channels, "--image-size")
        target = encode_labels(words, folder.name)
        groups = self._groups(parts.train, level)
        rows = Split(decode(pictures, form), target.y)
        train, test, validation = divided(rows, len(parts.train), len(parts.test))
        return Dataset(
            short_name(source),
            "classification",
            train.x,
            train.y,
            target.classes,
            groups=groups,
            test=test,
            validation=validation,
            notes=(*parts.notes, *notes, *_left_out(folder)),
        )

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The pictures of a folder, at any depth, or one picture, resized as the training pictures were."""
        if len(fitted.shape) != 3:
            raise IncompatibleError(
                f"{source} has pictures, and the model needs examples of shape {list(fitted.shape)}",
                hint="Name rows in the format of the training source.",
            )
        path = existing(source)
        optional("PIL.Image", "Pillow", "pictures")
        pictures = list(_walk(path, 0)) if path.is_dir() else [_Picture(path, ())]
        if not pictures:
            raise DataError(f"{path.name} has no pictures", hint=f"Endings that are read: {', '.join(_EXTENSIONS)}.")
        form = ImageForm(*fitted.shape)
        for picture in pictures:
            if (size := header_of(picture).size) != (form.height, form.width) and self.config.image_size is None:
                raise DataError(
                    f"{picture.shown} is {pixels_text(size)}, and training pictures were {form.height}x{form.width}",
                    hint=f"--reader-option image_size={form.height}x{form.width} resizes all.",
                )
        return Examples(decode(pictures, form), tuple(picture.shown for picture in pictures))

    def _groups(self, pictures: Sequence[_Picture], level: int) -> dict[str, npt.NDArray[Any]]:
        levels = [i for i in range(1, len(pictures[0].folders) + 1) if i != level]
        refuse_other_groups(self.config.by, [f"folder{i}" for i in levels], "this folder")
        return {f"folder{i}": np.array([p.folder(i) for p in pictures]) for i in levels}


def holds_pictures(path: Path) -> bool:
    """True for one picture by its name, and for a folder with pictures at any depth."""
    if path.is_dir():
        return next(_walk(path, 0), None) is not None
    return path.name.lower().endswith(_EXTENSIONS)


@dataclass(frozen=True, slots=True)
class _Picture:
    path: Path
    folders: tuple[str, ...]

    @property
    def shown(self) -> str:
        return "/".join((*self.folders, self.path.name))

    def open(self) -> IO[bytes]:
        """The file's bytes."""
        return self.path.open("rb")

    def folder(self, level: int) -> str:
        if level > len(self.folders):
            raise DataError(
                f"{self.shown} lies {len(self.folders)} folders deep, and --class-level is {level}",
                hint="Put all pictures at the same folder depth.",
            )
        return self.folders[level - 1]


def _walk(folder: Path, least: int) -> Iterator[_Picture]:
    """The pictures below a folder in name order, at least `least` folders deep; hidden ones are left out."""
    for here, folders, names in os.walk(folder, followlinks=True):
        inner = Path(here).relative_to(folder).parts
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(inner) < MAX_DEPTH else []
        if len(inner) >= least:
            for name in sorted(names):
                if name.lower().endswith(_EXTENSIONS) and not name.startswith("."):
                    yield _Picture(Path(here, name), inner)


def _parts(folder: Path) -> Parts[_Picture]:
    """The pictures by part: folders at the top called train, test or val are parts, if one of them is for training.

    Raises DataError if folders are not all equally deep.
    """
    named = [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and split_of_word(inner.name)]
    found = arrange(named, lambda inner: Path(inner.name, "*"))
    if found.test and any(split_of_word(inner.name) == "train" for inner in named):
        train, test, validation = (
            tuple(picture for inner in inners for picture in _walk(inner, 1))
            for inners in (found.train, found.test, found.validation)
        )
        parts = Parts(train, test, validation, tuple(note for note in found.notes if "validation" in note))
    else:
        parts = Parts(tuple(_walk(folder, 1)))
    if not parts.train:
        raise DataError(f"{folder.name} has no pictures in folders, one per class")
    first = parts.train[0]
    for picture in (*parts.train, *parts.test, *parts.validation):
        if len(picture.folders) != len(first.folders):
            raise DataError(
                f"{picture.shown} and {first.shown} are at different folder depths",
                hint="Put all pictures at the same depth, in a folder that names the class.",
            )
    return parts


def _left_out(folder: Path) -> list[str]:
    """A note on pictures of formats that are not read."""
    count: dict[str, int] = {}
    for _, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if ending := next((ending for ending in _OTHERS if name.lower().endswith(ending)), None):
                count[ending] = count.get(ending, 0) + 1
    listed = ", ".join(f"{number:,} {ending}" for ending, number in sorted(count.items()))
    return [f"files left out, as this reader does not read them: {listed}"] if count else []
