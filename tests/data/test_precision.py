"""Numbers that 32-bit floats merge: timestamps, large targets, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from support.data_files import read

from flctl.data.dataset import Dataset
from flctl.data.precision import merges
from flctl.partition.export import export_client
from flctl.partition.partitioner import Partitioner
from flctl.partition.schemes.uniform import Iid
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition

START = 1_700_000_000_000
TIMES = START + 1000 * np.arange(72)
"""A minute and a bit in milliseconds since 1970: two values as float32."""


def columns() -> dict[str, np.ndarray]:
    return {"when": TIMES, "label": np.arange(72) % 2}


def write(path: Path, values: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(values), path)
    elif path.suffix == ".npy":
        np.save(path, np.column_stack(list(values.values())))
    elif path.suffix == ".npz":
        np.savez(path, x=values["when"][:, None], y=values["label"])
    else:
        lines = [",".join(values), *(",".join(map(str, row)) for row in zip(*values.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return path


def stored(path: Path, data: Dataset) -> Partition:
    scheme: Partitioner = Iid.from_options({})
    return write_partition(path, data, scheme, PartitionSpec(clients=2, test_fraction=0, seed=0))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npy", "npz"])
def test_timestamps_are_centred_before_they_are_cast(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"a.{suffix}", columns())
    options = {"npz": {}, "npy": {"target": "1"}}.get(suffix, {"target": "label"})
    data = read(suffix, source, **options)
    assert data.inputs is not None
    offset = data.inputs.columns[0].offset
    np.testing.assert_array_equal(data.x[:, 0].astype(np.float64) + offset, TIMES)
    assert any("an offset is subtracted" in note for note in data.notes)
    partition = stored(tmp_path / "p", data)
    x = np.concatenate([partition.train(k)[0] for k in range(2)])
    assert len(np.unique(x)) == 72
    export_client(partition, 0, tmp_path / "site.csv", "all")
    exported = np.loadtxt(tmp_path / "site.csv", delimiter=",", skiprows=1, usecols=0)
    np.testing.assert_array_equal(exported, TIMES[partition.column("source_row")[: len(exported)]])
    assert abs(float(x.mean())) < 1e-6


def test_a_missing_number_stays_missing_beside_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("when,label\n" + "".join(f"{t if t % 7000 else ''},{t // 1000 % 2}\n" for t in TIMES.tolist()))
    x = read("csv", path, target="label").x[:, 0]
    np.testing.assert_array_equal(np.isnan(x), TIMES % 7000 == 0)


def test_a_target_of_a_billion_and_little_is_a_regression_with_its_digits(tmp_path: Path) -> None:
    price = 1e9 + np.arange(60) / 8
    source = write(tmp_path / "a.csv", {"size": np.arange(60.0), "price": price})
    data = read("csv", source, target="price")
    assert data.task == "regression"
    np.testing.assert_array_equal(data.y, price)
    partition = stored(tmp_path / "p", data)
    shift, scale = partition.target_scale
    y = np.concatenate([partition.train(k)[1] for k in range(2)])
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.sort(y.astype(np.float64) * scale + shift), price, rtol=0, atol=1e-6)


def test_what_no_offset_can_keep_is_said(tmp_path: Path) -> None:
    values = np.concatenate([TIMES, TIMES + 10**15])
    data = read("csv", write(tmp_path / "a.csv", {"when": values, "label": np.arange(144) % 2}), target="label")
    assert any("float32 merges distinct values of 'when'" in note for note in data.notes)


@pytest.mark.parametrize(
    "values",
    [np.arange(100.0), np.random.default_rng(0).normal(size=5000), 1e5 + np.random.default_rng(0).normal(0, 300, 500),
     np.full(9, 0.1), np.r_[np.nan, np.nan], np.r_[1e300, 1.0]],
)  # fmt: skip
def test_ordinary_numbers_have_no_offset(values: np.ndarray) -> None:
    assert not merges(values)


def test_leaf_numbers_are_centred_too(tmp_path: Path) -> None:
    user = {"x": [[t, i % 3] for i, t in enumerate(TIMES.tolist())], "y": [i % 2 for i in range(72)]}
    content = {"users": ["u"], "num_samples": [72], "user_data": {"u": user}}
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = read("leaf", tmp_path / "a.json")
    assert data.inputs is not None
    assert data.inputs.columns[1].offset == 0
    np.testing.assert_array_equal(data.x[:, 0].astype(np.float64) + data.inputs.columns[0].offset, TIMES)


def test_one_hot_targets_are_labels_and_validation_arrays_are_no_training_rows(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(6, 2)
    y = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_val=x[:2], y_val=y[:2])
    data = read("npz", tmp_path / "a.npz")
    assert data.y.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.test is not None
    assert data.test.y.tolist() == [0, 1]
    assert data.notes == ("x_val: validation rows, used as the source's test rows",)
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_val=x[:2], y_val=y[:2], x_test=x[5:], y_test=y[5:])
    data = read("npz", tmp_path / "b.npz")
    assert data.test is not None
    assert data.validation is not None
    assert (data.test.y.tolist(), data.validation.y.tolist()) == ([2], [0, 1])
    assert data.validation.x.tolist() == x[:2].tolist()
    assert data.notes == ("x_val: used as the source's validation rows",)
