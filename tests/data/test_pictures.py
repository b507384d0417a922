"""Folders of pictures: formats, EXIF orientation, transparency, 16 bits, and parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data_files import read


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def grey(value: int) -> np.ndarray:
    return np.full((4, 6), value, np.uint8)


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif", "tiff", "gif", "jpeg", "pgm"])
def test_common_formats_are_read(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    save(tmp_path / "owl" / f"0.{ending}", grey(40), **options)
    save(tmp_path / "cat" / "0.png", grey(200))
    data = read("image-folder", tmp_path)
    assert data.classes == ("cat", "owl")
    assert data.x[data.y == 1].mean() == pytest.approx(40, abs=1)


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("cat", "owl"):
        save(tmp_path / name / "0.png", grey(1))
    (tmp_path / "owl" / "1.heic").write_bytes(b"0")
    assert read("image-folder", tmp_path).notes == ("files left out, as this reader does not read them: 1 .heic",)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top left corner belongs to the top right
    save(tmp_path / "a" / "0.png", pixels, exif=exif)
    save(tmp_path / "b" / "0.png", np.zeros((6, 4), np.uint8))
    data = read("image-folder", tmp_path)
    assert data.x.shape == (2, 1, 6, 4)
    assert np.argwhere(data.x[0, 0] == 255).tolist() == [[0, 3]]


def test_transparent_parts_are_laid_on_white(tmp_path: Path) -> None:
    for name, alpha in (("a", 0), ("b", 255)):
        pixels = np.zeros((4, 4, 4), np.uint8)
        pixels[..., 3] = alpha
        save(tmp_path / name / "0.png", pixels)
    data = read("image-folder", tmp_path)
    assert data.x[data.y == 0].tolist() == np.full((1, 3, 4, 4), 255).tolist()
    assert data.x[data.y == 1].max() == 0
    assert data.notes == ("2 pictures with transparency placed on a white background",)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    for name, value in (("a", 65535), ("b", 257)):
        save(tmp_path / name / "0.png", np.full((4, 4), value, np.uint16))
    data = read("image-folder", tmp_path)
    assert [int(data.x[k].max()) for k in range(2)] == [255, 1]


def test_a_validation_folder_is_no_client_and_no_class(tmp_path: Path) -> None:
    for part, rows in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(rows):
                save(tmp_path / part / name / f"{number}.png", grey(number))
    data = read("image-folder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert dict(data.groups) == {}
    assert (len(data), data.test and len(data.test.y)) == (6, 4)
    assert "validation rows, used as the source's test rows" in data.notes[0]
    save(tmp_path / "test" / "dog" / "0.png", grey(9))
    data = read("image-folder", tmp_path)
    assert data.test is not None
    assert (len(data), data.test.y.tolist(), int(data.test.x.max())) == (6, [1], 9)
    assert data.validation is not None
    assert (data.validation.y.tolist(), data.validation.x[:, 0, 0, 0].tolist()) == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert "val/*: used as the source's validation rows" in data.notes[0]
