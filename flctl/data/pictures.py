"""Pictures from files or bytes: headers checked first, then pixels as viewers show them, uint8."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from flctl.data.extras import optional
from flctl.data.files import require_memory
from flctl.errors import DataError, IntegrityError, counted

__all__ = ["ImageForm", "Picture", "common_form", "decode", "header_of", "pixels_text"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
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
DEEPEST = 65535


class Picture(Protocol):
    """A picture that has not been read."""

    @property
    def shown(self) -> str:
        """Its name in messages."""

    def open(self) -> IO[bytes]:
        """Its bytes."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Height and width as the picture is seen, the type of its pixels, and whether it is `clear` in parts."""

    size: tuple[int, int]
    mode: str
    clear: bool = False


@dataclass(frozen=True, slots=True)
class ImageForm:
    channels: int
    height: int
    width: int


def common_form(
    pictures: Sequence[Picture], size: tuple[int, int] | None, channels: str, resize: str
) -> tuple[ImageForm, list[str]]:
    """The form that all pictures take, and notes on what changes in them. `resize` is the option that resizes.

    Raises DataError if sizes differ and no `size` (height, width) is given.
    """
    headers = [header_of(picture) for picture in pictures]
    wanted = size or headers[0].size
    for picture, header in zip(pictures, headers, strict=True):
        if header.size != wanted and size is None:
            found, first = pixels_text(header.size), pixels_text(wanted)
            raise DataError(
                f"{picture.shown} is {found} and {pictures[0].shown} is {first}: sizes differ",
                hint=f"{resize} {first} resizes all.",
            )
    colour = any(header.mode in _COLOUR for header in headers)
    count = int(channels) if channels != "auto" else 3 if colour else 1
    return ImageForm(count, *wanted), _form_notes(headers)


def _form_notes(headers: Sequence[ImageHeader]) -> list[str]:
    clear = sum(header.clear for header in headers)
    deep = sum(header.mode in _DEEP for header in headers)
    return [
        *([f"{counted(clear, 'picture')} with transparency placed on a white background"] if clear else []),
        *([f"{counted(deep, 'picture')} of 16 bits scaled to 8 bits (65535 becomes 255)"] if deep else []),
    ]


@contextmanager
def _opened(picture: Picture) -> Iterator[Any]:
    """The picture, its header read. Raises IntegrityError for what does not decode or would unpack into a bomb."""
    image = optional("PIL.Image", "Pillow", "pictures")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with picture.open() as stream, image.open(stream, formats=_FORMATS) as opened:
                yield opened
    except (image.DecompressionBombError, image.DecompressionBombWarning) as error:
        raise _bomb(picture, str(error)) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise IntegrityError(
            f"{picture.shown} is truncated or not a picture: {error}", hint="Fetch it again."
        ) from error


def header_of(picture: Picture) -> ImageHeader:
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
        return ImageHeader((height, width), str(opened.mode), clear)


def _bomb(picture: Picture, found: str) -> IntegrityError:
    return IntegrityError(
        f"{picture.shown} declares too many pixels ({found}; at most {MAX_PIXELS:,} are read)",
        hint="Cut or shrink it first.",
    )


def decode(pictures: Sequence[Picture], form: ImageForm) -> npt.NDArray[np.uint8]:
    shape = (len(pictures), form.channels, form.height, form.width)
    require_memory(int(np.prod(shape, dtype=object)), counted(len(pictures), "picture"))
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


def pixels_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
