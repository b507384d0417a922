"""The tables of docs/data.md, "What is read": every line is a file, read with its options, with its features."""

from __future__ import annotations

import io
import re
import shlex
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from PIL import Image

from flctl.data.dataset import Dataset
from flctl.data.sources import open_source
from flctl.plugins.registry import Registry

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## What is read\n")[2].partition("\n## ")[0]
LINES = [
    [cell.strip() for cell in re.split(r"(?<=\s)\|(?=\s)", line[1:-1])]
    for line in re.findall(r"^\|.*\|$", SECTION, re.MULTILINE)
]
TEXT = [line for line in LINES if len(line) == 5 and line[1].startswith("`")]
TYPED = [line for line in LINES if len(line) == 4 and line[1].startswith("`")]
REGISTRY = Registry()


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (1, 1), value).save(stream, "PNG")
    return stream.getvalue()


NAMES = {"pa": pa, "nan": nan, "png": png, "Decimal": Decimal, "date": date, "datetime": datetime, "time": time,
         "timedelta": timedelta}  # fmt: skip


def bare(cell: str) -> str:
    return cell.strip().strip("`")


def read_with(source: Path, options: str) -> Dataset:
    """The data set as the options of a command line have it read; the target is `label` unless they name one."""
    words = shlex.split(bare(options))
    given: dict[str, Any] = {"target": "label"}
    while words:
        flag, _, value = words.pop(0).partition("=")
        given[flag.removeprefix("--").replace("-", "_")] = value or words.pop(0)
    return open_source(str(source), None, given, REGISTRY)


@pytest.mark.parametrize("line", TEXT, ids=lambda line: line[0])
def test_text_tables_that_are_read(tmp_path: Path, line: list[str]) -> None:
    _, name, content, options, features = line
    path = tmp_path / bare(name)
    path.write_bytes(bare(content).replace("⏎", "\n").replace("⇥", "\t").replace("␀", "\0").encode())
    data = read_with(path, options)
    np.testing.assert_array_equal(data.x, np.float32(eval(bare(features), NAMES)))
    assert data.classes == ("x", "y")


@pytest.mark.parametrize("ending", ["parquet", "feather"])
@pytest.mark.parametrize("line", TYPED, ids=lambda line: line[0])
def test_typed_columns_that_are_read(tmp_path: Path, line: list[str], ending: str) -> None:
    _, column, options, features = line
    table = pa.table({"a": eval(bare(column), NAMES), "label": ["x", "y"]})
    path = tmp_path / f"a.{ending}"
    (pa.parquet.write_table if ending == "parquet" else pa.feather.write_feather)(table, path)
    data = read_with(path, options)
    np.testing.assert_array_equal(data.x, np.float32(eval(bare(features), NAMES)))
    assert data.classes == ("x", "y")


def test_both_tables_were_found() -> None:
    assert len(TEXT) > 20
    assert len(TYPED) > 10
