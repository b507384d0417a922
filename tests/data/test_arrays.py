"""IDX, .npz, .npy, CIFAR and folders of pictures: what comes out is what was put in, channels first."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.data_files import cifar_bytes, idx_bytes, npy_bytes, npz_bytes, read

from flctl.data.readers import numpy_files
from flctl.data.readers.idx import read_idx
from flctl.errors import ConfigError, DataError, MissingExtraError

RNG = np.random.default_rng(11)
IMAGES = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    ),
    compressed=st.booleans(),
)
def test_any_array_survives_idx(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, compressed: bool) -> None:
    path = tmp_path_factory.mktemp("idx") / "a-images-idx3-ubyte"
    raw = idx_bytes(array)
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def _mnist_folder(folder: Path) -> None:
    for part, count in (("train", 12), ("t10k", 6)):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES[:count])))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:count] + 5))


def test_an_idx_folder_has_its_own_test_split_and_one_set_of_classes(tmp_path: Path) -> None:
    _mnist_folder(tmp_path)
    data = read("idx", tmp_path)
    assert data.classes == ("5", "6", "7")
    np.testing.assert_array_equal(data.x, IMAGES[:, None])
    np.testing.assert_array_equal(data.y, LABELS)
    assert data.x.dtype == np.uint8
    assert data.test is not None
    np.testing.assert_array_equal(data.test.x, IMAGES[:6, None])
    np.testing.assert_array_equal(data.test.y, LABELS[:6])


def test_an_images_file_finds_its_labels_or_takes_those_named(tmp_path: Path) -> None:
    _mnist_folder(tmp_path)
    beside = read("idx", tmp_path / "t10k-images-idx3-ubyte.gz")
    assert beside.test is None
    np.testing.assert_array_equal(beside.y, LABELS[:6])
    (tmp_path / "mine.idx").write_bytes(idx_bytes(LABELS[:6][::-1]))
    named = read("idx", tmp_path / "t10k-images-idx3-ubyte.gz", labels=str(tmp_path / "mine.idx"))
    np.testing.assert_array_equal(named.y, LABELS[:6][::-1])
    with pytest.raises(DataError, match=r"no labels file mine\.idx"):
        read("idx", tmp_path / "mine.idx")


@pytest.mark.parametrize(
    ("x", "y", "x_test", "y_test"),
    [("x", "y", "x_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"), ("X", "y", "X_test", "y_test"),
     ("data", "target", "data_test", "target_test"), ("images", "labels", "test_images", "test_labels"),
     ("train_images", "train_labels", "test_images", "test_labels")],
)  # fmt: skip
def test_the_usual_names_of_an_npz_are_found(tmp_path: Path, x: str, y: str, x_test: str, y_test: str) -> None:
    np.savez(tmp_path / "a.npz", **{x: IMAGES, y: LABELS, x_test: IMAGES[:6], y_test: LABELS[:6]})
    data = read("npz", tmp_path / "a.npz")
    np.testing.assert_array_equal(data.x, IMAGES[:, None])
    assert data.test is not None
    np.testing.assert_array_equal(data.test.y, LABELS[:6])


def test_npz_names_can_be_given_and_other_arrays_are_not_read(tmp_path: Path) -> None:
    objects = npy_bytes(np.array([{"a": 1}], dtype=object), allow_pickle=True)
    raw = npz_bytes(inputs=npy_bytes(IMAGES), outputs=npy_bytes(LABELS), evil=objects, site=npy_bytes(LABELS // 2))
    (tmp_path / "a.npz").write_bytes(raw)
    data = read("npz", tmp_path / "a.npz", x="inputs", y="outputs", by="site")
    assert data.groups["site"].tolist() == [str(label // 2) for label in LABELS]
    with pytest.raises(DataError, match="none of the usual names") as caught:
        read("npz", tmp_path / "a.npz")
    assert caught.value.hint == "Name them: --x NAME --y NAME."
    with pytest.raises(DataError, match="has no array 'output'") as caught:
        read("npz", tmp_path / "a.npz", x="inputs", y="output")
    assert caught.value.hint == "Did you mean 'outputs'?"


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((6, 8, 9, 3), "auto", (6, 3, 8, 9)),
        ((6, 8, 9, 1), "auto", (6, 1, 8, 9)),
        ((6, 3, 8, 9), "auto", (6, 3, 8, 9)),
        ((6, 8, 9, 4), "auto", (6, 8, 9, 4)),
        ((6, 8, 9, 4), "nhwc", (6, 4, 8, 9)),
        ((6, 3, 3, 3), "nchw", (6, 3, 3, 3)),
        ((6, 8, 9), "auto", (6, 1, 8, 9)),
        ((6, 8, 9), "keep", (6, 8, 9)),
        ((6, 8), "auto", (6, 8)),
        ((6,), "auto", (6, 1)),
    ],
)
def test_images_come_out_channels_first(
    tmp_path: Path, shape: tuple[int, ...], layout: str, expected: tuple[int, ...]
) -> None:
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(6) % 2)
    data = read("npz", tmp_path / "a.npz", layout=layout)
    assert data.x.shape == expected
    assert data.x.flags.c_contiguous
    if len(shape) == 4 and expected != shape:
        np.testing.assert_array_equal(data.x[2, 1 % expected[1], 4, 5], x[2, 4, 5, 1 % expected[1]])


def test_an_ambiguous_layout_must_be_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 5, 3), np.uint8), y=np.arange(4) % 2)
    with pytest.raises(DataError, match="channels first or channels last"):
        read("npz", tmp_path / "a.npz")


def test_npz_classes_take_the_archives_names_and_pictures_are_never_regressed(tmp_path: Path) -> None:
    names = np.array([f"class {i}" for i in range(30)])
    x, y = np.zeros((60, 2, 2), np.uint8), np.arange(60) % 25
    np.savez(tmp_path / "a.npz", x=x, y=y, class_names=names)
    data = read("npz", tmp_path / "a.npz")
    assert data.task == "classification"
    assert data.classes == tuple(names)
    np.savez(tmp_path / "b.npz", x=x.reshape(60, 4), y=y)
    assert read("npz", tmp_path / "b.npz").task == "regression"
    assert len(read("npz", tmp_path / "b.npz", task="classification").classes) == 25
    np.savez(tmp_path / "c.npz", x=x, y=np.array(["b", "a"] * 30))
    assert read("npz", tmp_path / "c.npz").classes == ("a", "b")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ">f8", np.int16])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("target", [0, 2, -1])
def test_npy_splits_off_one_column(tmp_path: Path, dtype: str, order: str, target: int) -> None:
    table = RNG.integers(-50, 50, (40, 5)).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", table)
    data = read("npy", tmp_path / "a.npy", target=target, task="regression")
    np.testing.assert_array_equal(data.x, np.delete(table, target % 5, 1))
    np.testing.assert_array_equal(data.y, table[:, target])
    assert data.x.dtype == data.y.dtype == np.float32


def test_npy_slices_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = RNG.normal(size=(37, 4))
    np.save(tmp_path / "a.npy", table)
    monkeypatch.setattr(numpy_files, "SLICE", 20)
    np.testing.assert_array_equal(read("npy", tmp_path / "a.npy", target=1).x, np.float32(table[:, [0, 2, 3]]))


def test_npy_without_a_target_says_how_to_name_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="which of its 3 columns"):
        read("npy", tmp_path / "a.npy")


def test_cifar_10_reads_batches_in_order_and_its_test_batch(tmp_path: Path) -> None:
    pixels = []
    for index in (1, 2, 10):
        raw, part = cifar_bytes(np.full(4, index % 10), seed=index)
        (tmp_path / f"data_batch_{index}.bin").write_bytes(raw)
        pixels.append(part)
    (tmp_path / "test_batch.bin").write_bytes(cifar_bytes(np.arange(10))[0])
    (tmp_path / "batches.meta.txt").write_text("".join(f"{name}\n" for name in "abcdefghij") + "\n")
    data = read("cifar", tmp_path)
    np.testing.assert_array_equal(data.y, [1] * 4 + [2] * 4 + [0] * 4)
    np.testing.assert_array_equal(data.x, np.concatenate(pixels).reshape(12, 3, 32, 32))
    assert data.classes == tuple("abcdefghij")
    assert data.test is not None
    np.testing.assert_array_equal(data.test.y, np.arange(10))


def test_cifar_100_offers_both_labels_and_both_as_groups(tmp_path: Path) -> None:
    raw, _ = cifar_bytes(np.array([[3, 42], [19, 99], [0, 0]]))
    (tmp_path / "train.bin").write_bytes(raw)
    fine = read("cifar", tmp_path, by="coarse")
    np.testing.assert_array_equal(fine.y, [42, 99, 0])
    assert len(fine.classes) == 100
    assert fine.groups["coarse"].tolist() == ["3", "19", "0"]
    np.testing.assert_array_equal(read("cifar", tmp_path / "train.bin", label="coarse").y, [3, 19, 0])
    with pytest.raises(DataError, match="no such column"):
        read("cifar", tmp_path, by="site")


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_a_folder_per_class_and_its_own_test_folder(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                _save(tmp_path / part / name / f"{index}.png", np.full((6, 7, 3), [10 * label, index, 200], np.uint8))
    data = read("image-folder", tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.x.shape == (6, 3, 6, 7)
    np.testing.assert_array_equal(data.y, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.x[4, :, 2, 3], [10, 1, 200])
    assert data.test is not None
    np.testing.assert_array_equal(data.test.y, [0, 0, 1, 1])


def test_upper_folders_are_groups_and_any_level_can_be_the_class(tmp_path: Path) -> None:
    for site in ("north", "south"):
        for name in ("cat", "dog"):
            _save(tmp_path / site / name / "a.png", np.zeros((4, 4), np.uint8))
    data = read("image-folder", tmp_path, by="folder1")
    assert data.x.shape == (4, 1, 4, 4)
    assert data.classes == ("cat", "dog")
    assert data.groups["folder1"].tolist() == ["north", "north", "south", "south"]
    assert read("image-folder", tmp_path, class_level=1).classes == ("north", "south")
    with pytest.raises(DataError, match="no such column"):
        read("image-folder", tmp_path, by="folder7")


def test_sizes_that_differ_need_a_size_and_colour_can_be_forced(tmp_path: Path) -> None:
    _save(tmp_path / "a" / "1.png", np.full((4, 4), 80, np.uint8))
    _save(tmp_path / "b" / "1.jpg", np.full((8, 6), 80, np.uint8))
    with pytest.raises(DataError, match=r"b/1\.jpg is 8x6 and a/1\.png is 4x4") as caught:
        read("image-folder", tmp_path)
    assert caught.value.hint == "--image-size 4x4 resizes all."
    data = read("image-folder", tmp_path, image_size="5x3", channels="3")
    assert data.x.shape == (2, 3, 5, 3)
    np.testing.assert_array_equal(data.x[0], np.full((3, 5, 3), 80))


def test_pictures_may_be_links_and_hidden_files_are_no_data(tmp_path: Path) -> None:
    _save(tmp_path / "elsewhere.png", np.full((3, 3), 9, np.uint8))
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "set" / "b" / "._1.png").write_bytes(b"not a picture")
    assert len(read("image-folder", tmp_path / "set")) == 2


def test_without_pillow_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "a" / "1.png", np.zeros((4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match="needs Pillow"):
        read("image-folder", tmp_path)


def test_a_compressed_npz_reads_as_a_plain_one(tmp_path: Path) -> None:
    raw = npz_bytes(
        zipfile.ZIP_DEFLATED, x=npy_bytes(np.zeros((5000, 8), np.float32)), y=npy_bytes(np.arange(5000) % 2)
    )
    (tmp_path / "a.npz").write_bytes(raw)
    assert read("npz", tmp_path / "a.npz").x.shape == (5000, 8)
