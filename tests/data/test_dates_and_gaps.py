"""Dates and missing numbers: fitted on training rows, and the same for new rows and in exported models."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support.data_files import read
from support.runs import Given

from flctl.data.encoding import TableEncoder
from flctl.data.options import TabularOptions
from flctl.data.preprocessing import FittedPreprocessing, parse_preprocessing
from flctl.data.readers.delimited import CsvReader
from flctl.errors import ConfigError, DataError
from flctl.export.runtime import ExportedModel
from flctl.partition.manifest import preprocessing_of
from flctl.partition.preprocess import Standardise, Standardiser
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition

ROWS = "a,when,on,label\n1,2026-03-01 10:00,True,x\n,2026-03-02 11:00,False,y\n3,,True,x\n8,2026-05-01 23:30,,y\n"
NEW = "on,when,a\nfalse,2026-12-31 00:15,\n,,5\n"


def divided(folder: Path, impute: str | None, standardise: Standardise = "auto") -> Partition:
    """The rows at two clients, the last row of each held out: training rows are 0 and 2."""
    path = folder / "rows.csv"
    path.write_text(ROWS)
    options = {"date": "when:month,hour,time"} | ({} if impute is None else {"impute": impute})
    data = read("csv", path, target="label", **options)
    out = folder / f"parts-{impute}-{standardise}"
    deal = Given([0, 0, 1, 1])
    spec = PartitionSpec(2, 0.5, 0, standardise, test_split="last")
    return write_partition(out, data, deal, spec)


def encoded(fitted: FittedPreprocessing, folder: Path) -> np.ndarray:
    (folder / "new.csv").write_text(NEW)
    assert fitted.inputs is not None
    blocks = TableEncoder(fitted.inputs, CsvReader().open_new(str(folder / "new.csv"))).blocks()
    return np.concatenate([block.x for block in blocks])


@pytest.mark.parametrize(("impute", "fill"), [("mean", 2.0), ("median", 2.0), ("indicator", 2.0)])
def test_missing_numbers_take_a_value_of_training_rows_alone(tmp_path: Path, impute: str, fill: float) -> None:
    parts = divided(tmp_path, impute, "none")
    x = parts.column("x")
    assert sorted(x[:, 0].tolist()) == [1, fill, 3, 8]
    fitted = preprocessing_of(parts.manifest)
    assert encoded(fitted, tmp_path)[:, 0].tolist() == [fill, 5]
    assert not np.isnan(encoded(fitted, tmp_path)).any()


def test_median_and_mean_differ_where_training_rows_are_skewed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,label\n1,x\n1,y\n10,x\n,y\n")
    fills = {}
    for impute in ("mean", "median"):
        data = read("csv", tmp_path / "a.csv", target="label", impute=impute)
        parts = write_partition(tmp_path / impute, data, Given([0] * 4), PartitionSpec(1, 0.0, 0, "none"))
        fills[impute] = parts.column("x").sum() - 12
    assert fills == {"mean": 4, "median": 1}


def test_an_indicator_is_a_feature_of_columns_with_gaps_and_is_not_standardised(tmp_path: Path) -> None:
    parts = divided(tmp_path, "indicator")
    fitted = preprocessing_of(parts.manifest)
    assert fitted.features == (
        *("a", "a (missing)", "on", "on (missing)", "when:month", "when:month (missing)"),
        *("when:hour", "when:hour (missing)", "when:time", "when:time (missing)"),
    )
    assert fitted.standardisation.scale[1::2] == (1.0,) * 5
    np.testing.assert_array_equal(encoded(fitted, tmp_path)[:, 1::2], [[1, 0, 0, 0, 0], [0, 1, 1, 1, 1]])


@pytest.mark.parametrize("impute", [None, "median", "indicator"])
def test_exported_models_encode_new_rows_as_flctl_does(tmp_path: Path, impute: str | None) -> None:
    fitted = preprocessing_of(divided(tmp_path, impute).manifest)
    assert parse_preprocessing(fitted.serialise(), "here") == fitted
    expected = Standardiser(fitted.standardisation, fitted.shape).x(encoded(fitted, tmp_path))
    model = ExportedModel(json.loads(json.dumps(asdict(fitted))), None, {})
    np.testing.assert_array_equal(model.encode(model.read_csv(str(tmp_path / "new.csv"))), expected)
    shutil.rmtree(tmp_path)


def test_a_time_keeps_its_seconds_by_an_offset(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("when,label\n2026-12-31T00:15:00,x\n2026-12-31T01:15:01+01:00,y\n")
    data = read("csv", tmp_path / "a.csv", target="label", date="when:time")
    assert data.inputs is not None
    assert (data.x.ravel().astype(np.float64) + data.inputs.columns[0].offset).tolist() == [1798676100, 1798676101]


@pytest.mark.parametrize(
    ("cells", "options", "message", "hint"),
    [
        ("1/2/2026 3/4/2026", {"date": "v:day"}, "may begin with the day or with the month", "%d/%m/%Y"),
        ("2026-01-01 soon", {"date": "v:day"}, "'soon' is not a date", "--na soon"),
        ("2026-01-01 2026-02-01", {"date": "v:days"}, "'days' is not a part of a date", "'day'"),
        ("2026-01-01 2026-02-01", {}, "'2026-01-01' is not a number", "--date v if it is a date"),
    ],
)
def test_dates_that_cannot_be_read(
    tmp_path: Path, cells: str, options: dict[str, str], message: str, hint: str
) -> None:
    rows = "".join(f"{cell},{'xy'[i]}\n" for i, cell in enumerate(cells.split()))
    (tmp_path / "a.csv").write_text("v,label\n" + rows)
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        read("csv", tmp_path / "a.csv", target="label", **options)
    assert hint in str(caught.value.hint)


def test_parts_of_a_date_may_be_divided_by_commas() -> None:
    options = TabularOptions.model_validate({"date": "when:month,hour,born,seen:day+year"})
    assert options.date == ("when:month+hour", "born", "seen:day+year")


def test_columns_that_count_rows_are_no_features_if_they_are_called_so(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i},{i * 7 % 5},{'xy'[i > 12]}\n" for i in range(25))
    (tmp_path / "a.csv").write_text("row_id,week,v,label\n" + rows)
    data = read("csv", tmp_path / "a.csv", target="label")
    assert data.features == ("week", "v")
    assert any("'row_id'" in note for note in data.notes)
    assert any("'week' counts the rows up" in note for note in data.notes)
    named = read("csv", tmp_path / "a.csv", target="label", features="row_id,v")
    assert named.features == ("row_id", "v")


def test_labels_that_are_one_number_are_one_class_and_versions_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v,label\n1,1\n2,1.0\n3,2\n")
    data = read("csv", tmp_path / "a.csv", target="label")
    assert data.classes == ("1", "2")
    assert data.notes == ("labels that are one number are one class: '1', '1.0'",)
    (tmp_path / "b.csv").write_text("v,label\n1,1.1\n2,1.10\n3,2\n")
    data = read("csv", tmp_path / "b.csv", target="label", task="classification")
    assert data.classes == ("1.1", "1.10", "2")
