"""`flctl predict`: new rows are encoded as training rows were, predicted, and written as a stream."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import census, toy_partition, train_run

from flctl.cli import run as command
from flctl.data.encoding import TableEncoder
from flctl.data.preprocessing import InputColumn, Inputs
from flctl.data.readers.delimited import CsvReader
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry
from flctl.prediction.outputs import predictions_of
from flctl.prediction.predictor import load_predictor

HEADER = "age,hours,occupation,sex\n"
NEW = ("hours", "sex", "occupation", "age")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on census rows, runs/census, and the table that it was trained on."""
    root = tmp_path_factory.mktemp("predict")
    source = census.write(root / "train.csv", 600, 1)
    assert command(["partition", str(source), *census.PARTITION, "--out", str(root / "parts/census")]) == 0
    arguments = ["--rounds", "3", "--lr", "0.1", "--out", str(root / "runs/census")]
    assert command(["train", str(root / "parts/census"), *arguments]) == 0
    return root


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Runs `flctl predict ...` beside the run: (exit code, stdout, stderr)."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        code = command(["predict", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def done(run, tmp_path):
    """(The envelope's data, the written rows) of a call with --json and --out."""

    def call(*arguments):
        out = tmp_path / f"p{len(list(tmp_path.iterdir()))}.csv"
        code, stdout, err = run(*arguments, "--out", out, "--json")
        assert code == 0, err
        return json.loads(stdout)["data"], list(csv.DictReader(out.open(newline="")))

    return call


@pytest.fixture
def refused(run):
    """(exit code, message, hint) of a call that is refused."""

    def call(*arguments):
        code, stdout, _ = run(*arguments, "--out", "never.csv", "--json")
        error = json.loads(stdout)["error"]
        assert error["exit_code"] == code != 0
        return code, error["message"], error["hint"]

    return call


# -- the same inputs as in training -----------------------------------------------------------------------------------


def test_new_rows_become_the_very_inputs_that_training_rows_were(home):
    partition = Partition.open(home / "parts/census")
    sheets = CsvReader.from_options({"na": "?", "features": "age"}).open_new(str(home / "train.csv"))
    encoded = np.concatenate([block.x for block in TableEncoder(partition.manifest.inputs, sheets).blocks()])
    np.testing.assert_array_equal(encoded[partition.column("source_row")], partition.column("x"))


def test_predictions_of_test_rows_are_those_of_eval(home, done, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert command(["eval", "runs/census", "--predictions", str(tmp_path / "eval.csv")]) == 0
    evaluated = list(csv.DictReader((tmp_path / "eval.csv").open(newline="")))
    capsys.readouterr()
    _, predicted = done("runs/census", "train.csv")
    assert len(predicted) == 600
    for row in evaluated:
        found = predicted[int(row["source_row"])]
        assert found["prediction"] == row["prediction"]
        assert float(found["p:>50K"]) == pytest.approx(float(row["p:>50K"]), rel=1e-5)


def test_columns_come_in_any_order_and_what_the_model_does_not_use_is_noted(done, home):
    census.write(home / "asked.csv", 50, 5, ("age", "hours", "occupation", "sex"))
    census.write(home / "other_order.csv", 50, 5, ("id", *NEW))
    data, straight = done("runs/census", "asked.csv")
    assert (data["ignored"], data["rows"], data["round"]) == ([], 50, 3)
    moved, turned = done("runs/census", "other_order.csv", "--keep", "id")
    assert moved["ignored"] == []
    assert [row.pop("id") for row in turned] == [f"p{number}" for number in range(50)]
    assert turned == straight
    ignored, _ = done("runs/census", "other_order.csv")
    assert ignored["ignored"] == ["id"]
    assert "1 column the model does not use: id" in ignored["notes"]


def test_a_source_column_that_was_dropped_and_the_target_are_passed_over_in_silence(done):
    data, _ = done("runs/census", "train.csv")
    assert data["ignored"] == []


def test_missing_columns_are_refused_by_name(refused, home):
    (home / "short.csv").write_text("Age,occupation,sex\n40,clerk,male\n")
    code, message, hint = refused("runs/census", "short.csv")
    assert code == 3
    assert message == "short.csv lacks 2 of 4 columns that the model needs: 'age', 'hours'"
    assert hint == "Rename 'Age' to 'age'."
    assert not (home / "never.csv").exists()


def test_a_category_that_training_never_had_is_counted_and_encoded_as_none(done, home):
    (home / "unseen.csv").write_text(HEADER + "40,40,astronaut,male\n40,40,pilot,male\n40,40,clerk,male\n")
    data, rows = done("runs/census", "unseen.csv")
    assert data["unseen"] == {"occupation": {"rows": 2, "examples": ["astronaut", "pilot"]}}
    assert rows[0]["p:>50K"] == rows[1]["p:>50K"] != rows[2]["p:>50K"]


def test_unseen_other_takes_the_columns_own_category_of_that_name(done, refused, home):
    (home / "unseen.csv").write_text(HEADER + "40,40,astronaut,male\n40,40,other,male\n40,40,clerk,x\n")
    data, rows = done("runs/census", "unseen.csv", "--unseen", "other")
    assert rows[0]["p:>50K"] == rows[1]["p:>50K"]
    assert any("encoded as 'other'" in note for note in data["notes"])
    assert any("sex" in note and "all features of the column 0" in note for note in data["notes"])


def test_unseen_refuse_names_line_column_and_category(refused, home):
    (home / "unseen.csv").write_text(HEADER + "40,40,clerk,male\n40,40,pilot,male\n")
    code, message, _ = refused("runs/census", "unseen.csv", "--unseen", "refuse")
    assert code == 2
    assert message.startswith("unseen.csv, line 3, column 'occupation': 'pilot' is a category that training never had")


def test_unseen_other_without_such_a_category_is_refused():
    inputs = Inputs((InputColumn("sex", "category", ("f", "m")),))
    with pytest.raises(Exception, match="no column of the model has a category 'other'"):
        TableEncoder(inputs, _Sheets(), "other")


class _Sheets:
    names, missing, where = ("sex",), (), "x.csv"


def test_a_cell_that_is_no_number_is_named_with_its_line(refused, home):
    (home / "bad.csv").write_text(HEADER + "40,40,clerk,male\n40,forty,clerk,male\n")
    code, message, _ = refused("runs/census", "bad.csv")
    assert (code, message) == (2, "bad.csv, line 3, column 'hours': 'forty' is not a number")


def test_an_offset_is_subtracted_before_numbers_are_cut_to_32_bits(tmp_path):
    base = 1.7e12
    (tmp_path / "times.csv").write_text(f"t\n{base + 1:.0f}\n{base + 2:.0f}\n")
    sheets = CsvReader.from_options({"features": "t"}).open_new(str(tmp_path / "times.csv"))
    (block,) = TableEncoder(Inputs((InputColumn("t", "number", offset=base),)), sheets).blocks()
    assert block.x.tolist() == [[1.0], [2.0]]


def test_a_table_without_a_header_is_taken_by_position_with_or_without_its_target(tmp_path):
    inputs = Inputs((InputColumn("c0", "number"), InputColumn("c2", "number")), "c1", ("c0", "c1", "c2"))
    for text in ("1,9,2\n3,9,4\n", "1,2\n3,4\n"):
        (tmp_path / "x.csv").write_text(text)
        sheets = CsvReader.from_options({"header": "no"}).open_new(str(tmp_path / "x.csv"))
        (block,) = TableEncoder(inputs, sheets).blocks()
        assert block.x.tolist() == [[1, 2], [3, 4]]


# -- sources and outputs ---------------------------------------------------------------------------------------------


def test_parquet_in_and_out(run, done, home, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow.csv

    new = census.write(home / "new.csv", 40, 6, (*NEW, "id"))
    options = pyarrow.csv.ConvertOptions(null_values=["", "?"], strings_can_be_null=True)
    parquet.write_table(pyarrow.csv.read_csv(new, convert_options=options), tmp_path / "new.parquet")
    _, rows = done("runs/census", "new.csv")
    assert run("runs/census", tmp_path / "new.parquet", "--keep", "id", "--out", tmp_path / "p.parquet")[0] == 0
    found = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert found["prediction"] == [row["prediction"] for row in rows]
    assert found["p:>50K"] == pytest.approx([float(row["p:>50K"]) for row in rows])
    assert found["row"] == list(range(40))
    assert found["id"][:2] == ["p0", "p1"]


def test_without_out_predictions_go_to_stdout_and_words_to_stderr(home, tmp_path):
    census.write(tmp_path / "new.csv", 20, 7, NEW)
    piped = subprocess.run(
        [sys.executable, "-m", "flctl", "predict", "runs/census", "-"],
        cwd=home,
        input=(tmp_path / "new.csv").read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert piped.returncode == 0, piped.stderr
    rows = list(csv.DictReader(io.StringIO(piped.stdout)))
    assert len(rows) == 20
    assert set(rows[0]) == {"row", "prediction", "p:<=50K", "p:>50K"}
    assert "20 rows predicted" in piped.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "x.txt"), "does not end in .csv or .parquet"),
        (("--out", "train.csv"), "exists already"),
        (("--out", "x.csv", "--keep", "nope"), "has no column 'nope' (--keep)"),
        (("--out", "x.csv", "--client", "north"), "keeps no personal models"),
        (("--out", "x.csv", "--characters", "3"), "--characters is for text"),
        (("--out", "x.csv", "--reader-option", "nope=1"), "has no such option"),
        (("--out", "x.csv", "--checkpoint", "99"), "no checkpoint of round 99"),
        (("--out", "x.csv", "--unseen", "drop"), "drop"),
    ],
)
def test_what_cannot_be_done_is_refused_before_a_file_appears(run, home, arguments, message):
    code, _, err = run("runs/census", "train.csv", *arguments)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert not (home / "x.csv").exists()


def test_json_without_out_is_refused(run):
    code, out, _ = run("runs/census", "train.csv", "--json")
    assert (code, json.loads(out)["error"]["hint"]) == (2, "Add --out FILE.")


def test_a_source_without_rows_is_refused(refused, home):
    (home / "empty.csv").write_text(HEADER)
    assert refused("runs/census", "empty.csv")[:2] == (2, "empty.csv has no rows")


def test_a_run_whose_partition_is_gone_still_predicts(done, home, tmp_path):
    shutil.copytree(home / "runs/census", tmp_path / "moved")
    _, moved = done(tmp_path / "moved", "train.csv")
    _, still = done("runs/census", "train.csv")
    assert moved == still


# -- other tasks -------------------------------------------------------------------------------------------------------


def test_a_regression_predicts_in_the_targets_units(home, tmp_path, capsys):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 2))
    lines = [f"{a:.6f},{b:.6f},{1000 + 100 * a:.3f}" for a, b in x]
    (tmp_path / "price.csv").write_text("\n".join(["a,b,price", *lines]) + "\n")
    part, trained = str(tmp_path / "part"), str(tmp_path / "run")
    assert command(["partition", str(tmp_path / "price.csv"), "--target", "price", "--out", part]) == 0
    assert command(["train", part, "--rounds", "10", "--lr", "0.1", "--out", trained]) == 0
    (tmp_path / "new.csv").write_text("b,a\n0,0\n0,1\n")
    capsys.readouterr()
    assert command(["predict", trained, str(tmp_path / "new.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["prediction"]) for row in rows] == pytest.approx([1000, 1100], abs=10)


def test_arrays_without_targets_are_predicted_by_shape(tmp_path, capsys):
    toy = toy_partition(tmp_path / "toy")
    train_run(toy, tmp_path / "run")
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.savez(tmp_path / "new.npz", x=x)
    np.save(tmp_path / "new.npy", x)
    for name in ("new.npz", "new.npy"):
        assert command(["predict", str(tmp_path / "run"), str(tmp_path / name)]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        predictor = load_predictor(tmp_path / "run", "last", None, Registry())
        found = predictions_of(predictor.outputs(x), predictor.fitted)
        assert [row["prediction"] for row in rows] == [toy.classes[code] for code in found.codes]
        sums = [sum(float(row[f"p:{name}"]) for name in toy.classes) for row in rows]
        assert sums == pytest.approx([1.0] * 7)
    np.savez(tmp_path / "wide.npz", x=np.zeros((2, 5), np.float32))
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "wide.npz")]) == 3


def test_text_is_continued_character_by_character(tmp_path, capsys):
    plays = "\n\n".join(f"{name}:\n{'ab' * 60}" for name in ("ANN", "BOB", "CLEO"))
    (tmp_path / "plays.txt").write_text(plays + "\n")
    part, trained = str(tmp_path / "part"), str(tmp_path / "run")
    assert command(["partition", str(tmp_path / "plays.txt"), "--by", "speaker", "--window", "10", "--out", part]) == 0
    options = [
        "--model",
        "char-lstm",
        "-o",
        "model.hidden=16",
        "--rounds",
        "5",
        "--local-epochs",
        "20",
        "--batch-size",
        "4",
    ]
    assert command(["train", part, *options, "--lr", "1", "--out", trained]) == 0
    (tmp_path / "lines.txt").write_text("abab\n\nababa#\n")
    capsys.readouterr()
    assert command(["predict", trained, str(tmp_path / "lines.txt"), "--characters", "3"]) == 0
    captured = capsys.readouterr()
    assert [(row["row"], row["next"]) for row in csv.DictReader(io.StringIO(captured.out))] == [
        ("0", "aba"),
        ("1", "bab"),
    ]
    assert "1 character not in the vocabulary, left out: '#'" in captured.err
    assert command(["predict", trained, str(tmp_path / "plays.txt")]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["speaker"] for row in rows] == ["ANN", "BOB", "CLEO"]
    assert command(["predict", trained, str(tmp_path / "lines.txt"), "--unseen", "refuse"]) == 2


def test_a_clients_own_model_is_the_one_that_eval_scores(tmp_path, capsys):
    toy = toy_partition(tmp_path / "toy")
    train_run(toy, tmp_path / "run", "strategy=ditto", "cohort.clients=10")
    _, train_end, end = toy.bounds[7].tolist()
    np.savez(tmp_path / "new.npz", x=toy.read_raw("x", train_end, end))
    truth = [toy.classes[code] for code in toy.read_raw("y", train_end, end)]
    capsys.readouterr()
    assert command(["eval", str(tmp_path / "run"), "--per-client", "--json"]) == 0
    _, own = json.loads(capsys.readouterr().out)["data"]["runs"]
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.npz"), "--client", "7"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    mine, found = [row["p:a"] for row in rows], [row["prediction"] for row in rows]
    right = np.mean([a == b for a, b in zip(found, truth, strict=True)])
    assert right == pytest.approx(own["per_client"][7]["accuracy"])
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.npz")]) == 0
    captured = capsys.readouterr()
    assert "--client ID selects a client's" in captured.err.replace("\n", " ")
    assert [row["p:a"] for row in csv.DictReader(io.StringIO(captured.out))] != mine
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.npz"), "--client", "nope"]) == 2


MILLION = """
import resource, sys
from flctl.cli import run
code = run(["predict", *sys.argv[1:]])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_million_rows_stream_in_bounded_memory(home, tmp_path, suffix):
    body = (home / "train.csv").read_text().partition("\n")[2]
    peaks = {}
    for rows in (60_000, 1_020_000):
        source = tmp_path / f"{rows}.csv"
        with source.open("w") as file:
            file.write("age,hours,occupation,sex,site,income\n")
            file.writelines(body for _ in range(rows // 600))
        out = tmp_path / f"{rows}-out{suffix}"
        arguments = ["runs/census", str(source), "--out", str(out)]
        done = subprocess.run(
            [sys.executable, "-c", MILLION, *arguments], cwd=home, capture_output=True, text=True, check=False
        )
        code, peak = done.stdout.split()[-2:]
        assert code == "0", done.stderr
        peaks[rows] = int(peak)
    # 960,000 rows more of 11 features are 42 MB as float32 alone; what grows is a few blocks in flight.
    assert peaks[1_020_000] - peaks[60_000] < 40_000
