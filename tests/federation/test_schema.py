"""Schemas: strict reading, one digest for one meaning, and rows that are refused by count alone."""

from __future__ import annotations

import numpy as np
import pytest

from flctl.config.problems import Source
from flctl.errors import ConfigError, DataError, IncompatibleError
from flctl.federation.schema.draft import propose
from flctl.federation.schema.mock import write_mock
from flctl.federation.schema.read import open_schema, read_schema
from flctl.federation.schema.rows import read_rows
from flctl.plugins.registry import Registry

SCHEMA = """\
format: flctl-schema/1
name: stroke
task: binary
target: {column: stroke, classes: ["no", "yes"]}
missing: [NA]
columns:
  age: {type: number, unit: years, range: [0, 120], mean: 50, sd: 10, missing: mean}
  sex: {type: category, levels: [f, m]}
  ward: {type: category, levels: [a, b, other], missing: level}
"""
ROWS = "ward,age,sex,stroke\na,40,f,no\nzz,60,m,yes\n,NA,m,no\n"


def schema_of(text=SCHEMA):
    return read_schema(Source("s.yaml", text, is_file=True))


def rows_of(tmp_path, text, schema=None):
    (tmp_path / "rows.csv").write_text(text)
    return read_rows(str(tmp_path / "rows.csv"), schema or schema_of(), Registry())


def test_rows_become_features_in_the_schemas_order_and_not_in_the_files(tmp_path):
    found = rows_of(tmp_path, ROWS)
    assert schema_of().inputs.features == ("age", "sex=f", "sex=m", "ward=a", "ward=b", "ward=other", "ward=(missing)")
    expected = [[40, 1, 0, 1, 0, 0, 0], [60, 0, 1, 0, 0, 1, 0], [np.nan, 0, 1, 0, 0, 0, 1]]
    np.testing.assert_array_equal(found.x, np.array(expected, np.float32))
    assert found.y.tolist() == [0, 1, 0]
    assert found.notes == ("column 'ward': 1 row mapped to 'other'",)


def test_the_digest_counts_order_and_not_layout():
    spaced = SCHEMA.replace("[f, m]", "[ f,  m ]")
    assert schema_of(spaced).digest == schema_of().digest
    assert schema_of(SCHEMA.replace("[f, m]", "[m, f]")).digest != schema_of().digest


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("name: stroke", "nam: stroke", "s.yaml:2:1: the schema has no key 'nam'. Did you mean 'name'?"),
        ("task: binary", "task: binry", "s.yaml:3:7: task: 'binry' is not one of binary, classification, regression"),
        ("[f, m]", "[f, f]", "s.yaml:8:37: levels: 'f' is there twice"),
        ("[f, m]", "[f, 1.5]", "s.yaml:8:37: levels: 1.5 is not a word"),
        ("sd: 10", "sd: 0", "s.yaml:7:67: sd is 0, expected more than 0"),
        (", mean: 50, sd: 10", "", "missing: mean needs `mean` and `sd`"),
        ("[0, 120]", "[120, 0]", "s.yaml:7:43: range: expected [least, largest]"),
        ('["no", "yes"]', '["no"]', "classes: expected a list of 2"),
        ("column: stroke", "column: age", "the target 'age' is among the columns too"),
        ("[f, m]", '[f, "m\\u202e"]', "names and levels have 1 to 256 printable characters"),
        ("age: {type: number", "age: {typ: number", "needs the key 'type'"),
        ("flctl-schema/1", "flctl-schema/2", "s.yaml:1:9: format: 'flctl-schema/2' is not one of flctl-schema/1"),
    ],
)
def test_each_problem_of_a_schema_has_its_line_and_column(before, after, expected):
    with pytest.raises(ConfigError) as refused:
        schema_of(SCHEMA.replace(before, after))
    assert expected in str(refused.value)


def test_all_problems_of_a_schema_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"^2 problems"):
        schema_of(SCHEMA.replace("task: binary", "task: x").replace("[f, m]", "[f, f]"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a,40,SECRET,no", "1 row: column 'sex' has a level that is not in the schema"),
        ("a,40,f,SECRET", "1 row: the target 'stroke' has a class that is not in the schema"),
        ("a,987654,f,no", "1 row: column 'age' outside its range"),
        ("a,40,,no", "1 row: no value in column 'sex'"),
        ("a,40,f,NA", "1 row: no value in the target 'stroke'"),
    ],
)
def test_rows_that_do_not_fit_are_counted_and_not_quoted(tmp_path, row, expected):
    with pytest.raises(DataError) as refused:
        rows_of(tmp_path, f"{ROWS}{row}\n")
    assert expected in refused.value.message
    assert "SECRET" not in refused.value.message
    assert "987654" not in refused.value.message


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(IncompatibleError, match="'sex'"):
        rows_of(tmp_path, "ward,age,stroke\na,40,no\n")


def test_a_draft_leaves_out_rare_levels_and_extremes_and_reads_back(tmp_path):
    lines = [f"{40 + i % 20},{'f' if i % 2 else 'm'},{'no' if i % 3 else 'yes'}" for i in range(60)]
    lines += ["117,zebra,no"]
    (tmp_path / "rows.csv").write_text("age,sex,stroke\n" + "\n".join(lines) + "\n")
    draft = propose(str(tmp_path / "rows.csv"), "stroke", Registry())
    assert "zebra" not in draft
    assert "117" not in draft
    (tmp_path / "draft.yaml").write_text(draft)
    drafted = open_schema(tmp_path / "draft.yaml")
    assert [(one.name, one.levels) for one in drafted.columns] == [("age", ()), ("sex", ("f", "m", "other"))]
    assert drafted.target.classes == ("no", "yes")


def test_mock_rows_follow_the_schema_and_the_seed(tmp_path):
    first, again, other = (write_mock(tmp_path / f"m{k}", schema_of(), ["a", "b"], 60, k // 2) for k in range(3))
    assert first.digest == again.digest != other.digest
    assert first.counts.tolist() == [[48, 12], [48, 12]]
    x = first.read_raw("x", 0, 120)
    assert 0 <= x[:, 0].min() <= x[:, 0].max() <= 120
    np.testing.assert_array_equal(x[:, 1:3].sum(axis=1), 1)
    assert set(first.read_raw("y", 0, 120).tolist()) == {0, 1}
