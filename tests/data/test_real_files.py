"""Real files against the figures that their READMEs give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.data_files import read

from flctl.data.sources import open_source
from flctl.errors import DataError
from flctl.plugins.registry import Registry


def test_mnist(data_root: Path) -> None:
    data = read("idx", data_root / "mnist")
    assert data.x.shape == (60_000, 1, 28, 28)
    assert data.test is not None
    assert np.bincount(data.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert data.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.x.mean(dtype=np.float64) / 255 == pytest.approx(0.13066, abs=5e-6)
    assert data.classes == tuple("0123456789")


def test_adult_has_no_header_and_108_one_hot_columns(data_root: Path) -> None:
    options = {"target": "14", "categorical": "1,3,5,6,7,8,9,13"}
    data = read("csv", data_root / "adult" / "adult.data.gz", **options)
    assert data.x.shape == (32_561, 108)
    assert data.task == "binary"
    assert data.classes == ("<=50K", ">50K")
    assert np.bincount(data.y).tolist() == [24_720, 7_841]
    assert data.numeric is not None
    assert len(data.numeric) == 6
    assert "c1=?" in data.features
    assert data.features[0] == "c0"
    assert data.x[0, 0] == 39
    missing = read("csv", data_root / "adult" / "adult.data.gz", **options, na="?")
    assert missing.x.shape == (32_561, 108)
    assert "c1=(missing)" in missing.features
    assert int(missing.x[:, missing.features.index("c1=(missing)")].sum()) == 1836


def test_adult_by_workclass(data_root: Path) -> None:
    data = read("csv", data_root / "adult", target=14, by="1", categorical="3,5,6,7,8,9,13")
    sizes = dict(zip(*np.unique(data.groups["c1"], return_counts=True), strict=True))
    assert (sizes["Private"], sizes["?"], sizes["Federal-gov"], len(sizes)) == (22_696, 1_836, 960, 9)
    assert data.x.shape == (32_561, 99)


def test_wisdm(data_root: Path) -> None:
    data = read("arff", data_root / "wisdm", target="class", by="user", drop="UNIQUE_ID")
    counts = dict(zip(data.classes, np.bincount(data.y).tolist(), strict=True))
    expected = {"Downstairs": 528, "Jogging": 1625, "Sitting": 306, "Standing": 246, "Upstairs": 632, "Walking": 2081}
    assert counts == expected
    assert data.x.shape == (5_418, 43)
    users = np.unique(data.groups["user"], return_counts=True)[1]
    assert (len(users), users.min(), users.max()) == (36, 60, 273)
    assert int(np.isnan(data.x).sum()) == 615
    assert data.notes == ("missing cells: XPEAK 381, YPEAK 131, ZPEAK 103",)


def test_beijing_reads_twelve_files_as_one_table(data_root: Path) -> None:
    features = "SO2,NO2,CO,O3,TEMP,PRES,DEWP,RAIN,WSPM"
    data = read("csv", data_root / "beijing_air", target="PM2.5", by="station", na="NA", features=features)
    assert data.task == "regression"
    assert data.notes[0] == "8,739 rows without 'PM2.5' left out"
    assert len(data) + 8_739 == 420_768
    assert int((~np.isnan(data.x).any(axis=1)).sum()) == 383_767
    stations, counts = np.unique(data.groups["station"], return_counts=True)
    assert len(stations) == 12
    assert (35_064 - counts.max(), 35_064 - counts.min()) == (382, 953)
    assert data.y[:3].tolist() == [4, 8, 7]
    assert data.groups["station"][0] == "Aotizhongxin"
    by_glob = open_source(
        str(data_root / "beijing_air" / "*Shunyi*.gz"),
        None,
        {"target": "PM2.5", "na": "NA", "features": features},
        Registry(),
        0,
    )
    assert len(by_glob) == counts[stations.tolist().index("Shunyi")]


def test_beijing_without_na_names_the_first_cell(data_root: Path) -> None:
    with pytest.raises(DataError, match=r"PRSA_Data_Aotizhongxin.*, line 76, column 'SO2': 'NA' is not a number"):
        read("csv", data_root / "beijing_air", target="PM2.5", features="SO2,NO2")


def test_bike_sharing(data_root: Path) -> None:
    data = read("csv", data_root / "bike_sharing", target="cnt", drop="instant,dteday,casual,registered", by="season")
    assert len(data) == 17_379
    assert data.y.sum(dtype=np.float64) == 3_292_679
    assert data.task == "regression"


def test_fate_names_its_all_missing_column(data_root: Path) -> None:
    folder = data_root / "fate"
    with pytest.raises(DataError, match="column 'x2' has no value in any of 351 rows"):
        read("csv", folder / "ionosphere_scale_hetero_guest.csv", target="label", drop="sid")
    data = read("csv", folder / "ionosphere_scale_hetero_guest.csv", target="label", drop="sid,x2")
    assert int(np.isnan(data.x).sum()) == 809 - 351
    assert read("csv", folder / "vehicle_scale_homo_guest.csv", target="y", drop="id").task == "classification"
    with pytest.raises(DataError, match=r"breast_hetero_host\.csv has other columns"):
        read("csv", folder, target="y")


def test_shakespeare(data_root: Path) -> None:
    path = data_root / "tinyshakespeare" / "input.txt"
    data = read("text", path)
    assert len(data.classes) == 65
    assert data.x.dtype == np.uint8
    # Ten of the 309 roles have a name and no words.
    assert data.notes == ("10 of 309 speakers with fewer than 2 characters (0 in all) left out",)
    assert len(np.unique(data.groups["speaker"])) == 299
    loud = read("text", path, min_characters=1000)
    roles = np.unique(loud.groups["speaker"])
    assert len(roles) == 141
    text = "\n".join(_speeches_of(path, "GLOUCESTER"))
    rows = loud.groups["speaker"] == "GLOUCESTER"
    said = "".join(loud.classes[code] for code in loud.x[rows].reshape(-1)[loud.y[rows].reshape(-1) != -1])
    assert said == text[:-1]
    # The README's count has the line end that closes the file; a role's last character has no next one.
    assert int((loud.y != -1).sum()) == 976_437 - 1 - 141


def _speeches_of(path: Path, role: str) -> list[str]:
    blocks = (block.lstrip("\n").partition("\n") for block in path.read_text().split("\n\n"))
    return [speech.rstrip("\n") for head, _, speech in blocks if head == f"{role}:"]


def test_cifar_npz(data_root: Path) -> None:
    data = read("npz", data_root / "cifar10" / "cifar10_jpeg_8000_2000.npz")
    assert data.x.shape == (8_000, 3, 32, 32)
    assert data.x.dtype == np.uint8
    assert data.classes[:2] == ("airplane", "automobile")
    assert np.bincount(data.y).tolist() == [800] * 10
    assert data.test is not None
    assert np.bincount(data.test.y).tolist() == [200] * 10
    means = (data.x / np.float32(255)).mean(axis=(0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4919, 0.4817, 0.4457], atol=6e-4)
