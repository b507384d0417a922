"""Pictures in folders, a folder for each class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader, Examples, Split
from flctl.data.extras import optional
from flctl.data.files import existing, require_memory, short_name
from flctl.data.options import Columns, Pixels
from flctl.data.preprocessing import FittedPreprocessing
from flctl.data.schema import refuse_other_groups
from flctl.data.splits import Parts, arrange, split_of_word
from flctl.data.targets import encode_labels
from flctl.errors import DataError, IntegrityError, counted

__all__ = ["ImageFolderReader"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
_EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")
_OTHERS = (".heic", ".heif", ".avif", ".jp2", ".j2k", ".svg", ".dcm", ".nii", ".nii.gz", ".raw", ".cr2", ".nef", ".psd",
           ".ico", ".jxl", ".exr", ".hdr", ".npy")  # fmt: skip
"""Pictures that are not read, and are named in a note."""
_GREY, _COLOUR = (
    ("1", "L", "I;16", "I;16L", "I;16B", "I"),
    ("LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr"),
)
_DEEP = ("I;16", "I;16L", "I;16B", "I")
_CLEAR = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""
MAX_PIXELS = 64 << 20
"""More pixels in one picture than this is a decompression bomb, or a scan to be cut up first."""
MAX_DEPTH = 8
DEEPEST = 65535


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
        train, test = list(parts.train), list(parts.test)
        level = self.config.class_level or len(train[0].folders)
        words = np.array([p.folder(level) for p in (*train, *test)])
        form, notes = self._form((*train, *test))
        target = encode_labels(words, folder.name)
        count = len(train)
        split = Split(_decode(test, form), target.y[count:]) if test else None
        groups = self._groups(train, level)
        x = _decode(train, form)
        return Dataset(
            short_name(source),
            "classification",
            x,
            target.y[:count],
            target.classes,
            groups=groups,
            test=split,
            notes=(*parts.notes, *notes, *_left_out(folder)),
        )

    def read_examples(self, source: str, fitted: FittedPreprocessing) -> Examples:
        """The pictures of a folder, at any depth, or one picture, resized as the training pictures were."""
        path = existing(source)
        optional("PIL.Image", "Pillow", "pictures")
        pictures = list(_walk(path, 0)) if path.is_dir() else [_Picture(path, ())]
        if not pictures:
            raise DataError(f"{path.name} has no PNG or JPEG pictures")
        form = _ImageForm(*fitted.shape)
        for picture in pictures:
            if (size := _header(picture).size) != (form.height, form.width) and self.config.image_size is None:
                raise DataError(
                    f"{picture.shown} is {_times(size)}, and training pictures were {form.height}x{form.width}",
                    hint=f"--reader-option image_size={form.height}x{form.width} resizes all.",
                )
        return Examples(_decode(pictures, form), tuple(picture.shown for picture in pictures))

    def _groups(self, pictures: Sequence[_Picture], level: int) -> dict[str, npt.NDArray[Any]]:
        levels = [i for i in range(1, len(pictures[0].folders) + 1) if i != level]
        refuse_other_groups(self.config.by, [f"folder{i}" for i in levels], "this folder")
        return {f"folder{i}": np.array([p.folder(i) for p in pictures]) for i in levels}

    def _form(self, pictures: Sequence[_Picture]) -> tuple[_ImageForm, list[str]]:
        headers = [_header(picture) for picture in pictures]
        size = self.config.image_size or headers[0].size
        for picture, header in zip(pictures, headers, strict=True):
            if header.size != size and self.config.image_size is None:
                found, first = _times(header.size), _times(size)
                raise DataError(
                    f"{picture.shown} is {found} and {pictures[0].shown} is {first}: sizes differ",
                    hint=f"--image-size {first} resizes all.",
                )
        colour = any(header.mode in _COLOUR for header in headers)
        channels = int(self.config.channels) if self.config.channels != "auto" else 3 if colour else 1
        return _ImageForm(channels, *size), _form_notes(headers)


@dataclass(frozen=True, slots=True)
class _Picture:
    path: Path
    folders: tuple[str, ...]

    @property
    def shown(self) -> str:
        return "/".join((*self.folders, self.path.name))

    def folder(self, level: int) -> str:
        if level > len(self.folders):
            raise DataError(
                f"{self.shown} lies {len(self.folders)} folders deep, and --class-level is {level}",
                hint="Put all pictures at the same folder depth.",
            )
        return self.folders[level - 1]


@dataclass(frozen=True, slots=True)
class _ImageHeader:
    """Height and width as the picture is seen, the type of its pixels, and whether it is `clear` in parts."""

    size: tuple[int, int]
    mode: str
    clear: bool = False


@dataclass(frozen=True, slots=True)
class _ImageForm:
    channels: int
    height: int
    width: int


def _walk(folder: Path, least: int) -> Iterator[_Picture]:
    """The pictures below a folder in name order, at least `least` folders deep; hidden ones are left out."""
    for place, folders, names in os.walk(folder, followlinks=True):
        inner = Path(place).relative_to(folder).parts
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if len(inner) < MAX_DEPTH else []
        if len(inner) >= least:
            for name in sorted(names):
                if name.lower().endswith(_EXTENSIONS) and not name.startswith("."):
                    yield _Picture(Path(place, name), inner)


def _parts(folder: Path) -> Parts[_Picture]:
    """The pictures by part: folders at the top called train, test or val are parts, if one of them is for training.

    Raises DataError if folders are not all equally deep.
    """
    named = [inner for inner in sorted(folder.iterdir()) if inner.is_dir() and split_of_word(inner.name)]
    found = arrange(named, lambda inner: Path(inner.name, "*"))
    if found.test and any(split_of_word(inner.name) == "train" for inner in named):
        train, test = ([p for inner in inners for p in _walk(inner, 1)] for inners in (found.train, found.test))
        parts = Parts(tuple(train), tuple(test), tuple(note for note in found.notes if "validation" in note))
    else:
        parts = Parts(tuple(_walk(folder, 1)))
    if not parts.train:
        raise DataError(f"{folder.name} has no pictures in folders, one per class")
    first = parts.train[0]
    for picture in (*parts.train, *parts.test):
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


def _form_notes(headers: Sequence[_ImageHeader]) -> list[str]:
    clear = sum(header.clear for header in headers)
    deep = sum(header.mode in _DEEP for header in headers)
    return [
        *([f"{counted(clear, 'picture')} with transparency placed on a white background"] if clear else []),
        *([f"{counted(deep, 'picture')} of 16 bits scaled to 8 bits (65535 becomes 255)"] if deep else []),
    ]


@contextmanager
def _opened(picture: _Picture) -> Iterator[Any]:
    """The picture, its header read. Raises IntegrityError for what does not decode or would unpack into a bomb."""
    image = optional("PIL.Image", "Pillow", "pictures")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(picture.path, formats=_FORMATS) as opened:
                yield opened
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise _bomb(picture, str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(
            f"{picture.shown} is truncated or not a picture: {error}", hint="Fetch it again."
        ) from error


def _header(picture: _Picture) -> _ImageHeader:
    with _opened(picture) as opened:
        width, height = opened.size
        if width * height > MAX_PIXELS:
            raise _bomb(picture, f"{height:,} x {width:,}")
        if opened.mode not in (*_GREY, *_COLOUR):
            raise DataError(
                f"{picture.shown} has pixels of type {opened.mode}; expected 8 bits a channel",
                hint="Convert it first.",
            )
        if opened.getexif().get(_ORIENTATION) in _TURNED:
            height, width = width, height
        clear = opened.mode in _CLEAR or "transparency" in opened.info
        return _ImageHeader((height, width), str(opened.mode), clear)


def _bomb(picture: _Picture, found: str) -> IntegrityError:
    return IntegrityError(
        f"{picture.shown} declares too many pixels ({found}; at most {MAX_PIXELS:,} are read)",
        hint="Cut or shrink it first.",
    )


def _decode(pictures: Sequence[_Picture], form: _ImageForm) -> npt.NDArray[np.uint8]:
    shape = (len(pictures), form.channels, form.height, form.width)
    require_memory(int(np.prod(shape, dtype=object)), f"{counted(len(pictures), 'picture')}")
    x = np.empty(shape, np.uint8)
    for row, picture in enumerate(pictures):
        with _opened(picture) as opened:
            pixels = _upright(opened).convert("L" if form.channels == 1 else "RGB")
            if pixels.size != (form.width, form.height):
                bilinear = optional("PIL.Image", "Pillow", "pictures").Resampling.BILINEAR
                pixels = pixels.resize((form.width, form.height), bilinear)
            x[row] = np.asarray(pixels).reshape(form.height, form.width, form.channels).transpose(2, 0, 1)
    return x


def _upright(opened: Any) -> Any:
    """The picture as viewers show it: turned as its EXIF says, transparent parts on white, 8 bits a channel."""
    image = optional("PIL.Image", "Pillow", "pictures")
    picture = optional("PIL.ImageOps", "Pillow", "pictures").exif_transpose(opened)
    if picture.mode in _DEEP:
        values = np.asarray(picture).astype(np.int64).clip(0, DEEPEST)
        return image.fromarray(((values * 255 + DEEPEST // 2) // DEEPEST).astype(np.uint8))
    if picture.mode in _CLEAR or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return image.alpha_composite(image.new("RGBA", picture.size, "white"), picture)
    return picture


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
