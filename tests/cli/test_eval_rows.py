"""`flctl eval --data FILE`: labelled rows that are not partitioned, and those among them that were trained on."""

import gzip
import json

import pytest
from support import census

from flctl.cli import run as command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on census rows, and the table that it was trained on."""
    root = tmp_path_factory.mktemp("rows")
    source = census.write(root / "train.csv", 300, 1)
    assert command(["partition", str(source), *census.PARTITION, "--out", str(root / "part")]) == 0
    assert command(["train", str(root / "part"), "--rounds", "2", "--lr", "0.1", "--out", str(root / "run")]) == 0
    return root


@pytest.fixture
def evaluated(home, capsys, monkeypatch):
    """(exit code, the first run's data or the error) of `flctl eval run ... --json`."""
    monkeypatch.chdir(home)

    def call(*arguments):
        capsys.readouterr()
        code = command(["eval", "run", *map(str, arguments), "--json"])
        envelope = json.loads(capsys.readouterr().out)
        return code, envelope["data"]["runs"][0] if code == 0 else envelope["error"]

    return call


def test_left_out_training_rows_leave_the_very_test_rows(evaluated):
    code, found = evaluated("--data", "train.csv", "--trained-rows", "leave-out", "--per-client")
    _, own = evaluated("--per-client")
    assert code == 0
    assert found["central"]["rows"] == own["central"]["rows"] == 60
    assert found["central"]["log_loss"] == pytest.approx(own["central"]["log_loss"])
    scores = {client["client"]: client["accuracy"] for client in own["per_client"]}
    assert {client["client"]: client["accuracy"] for client in found["per_client"]} == scores
    assert "240 of 300 rows were trained on; they are left out" in found["notes"]


def test_the_training_source_is_refused_unless_it_is_asked_for(evaluated):
    code, error = evaluated("--data", "train.csv")
    assert code == 3
    assert error["message"] == "train.csv: 240 of 300 rows were trained on, and metrics on them would be too optimistic"
    code, found = evaluated("--data", "train.csv", "--trained-rows", "keep")
    assert (code, found["central"]["rows"]) == (0, 300)


def test_another_file_that_repeats_training_rows_is_refused_by_their_copies(evaluated, home):
    lines = (home / "train.csv").read_text().splitlines()
    (home / "again.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    code, error = evaluated("--data", "again.csv")
    assert code == 3
    assert "are exact copies of rows that the model was trained on" in error["message"]


def test_another_sites_file_with_fewer_categories_and_other_column_order_is_scored(evaluated, home):
    columns = ("income", "sex", "id", "occupation", "hours", "age")
    census.write(home / "site.csv", 80, 4, columns, ("clerk", "pilot"))
    code, found = evaluated("--data", "site.csv")
    assert code == 0
    assert (found["central"]["rows"], found["clients"]) == (80, 1)
    assert any("occupation: " in note and "pilot" in note for note in found["notes"])


def test_rows_without_the_target_or_of_unknown_classes_are_refused(evaluated, home):
    census.write(home / "bare.csv", 10, 4, ("age", "hours", "occupation", "sex"))
    code, error = evaluated("--data", "bare.csv")
    assert (code, error["message"]) == (2, "bare.csv has no target: the model predicts 'income'")
    (home / "odd.csv").write_text("age,hours,occupation,sex,income\n40,40,clerk,male,rich\n")
    code, error = evaluated("--data", "odd.csv")
    assert (code, error["message"]) == (3, "target 'income' has classes that training never had: 'rich'")


def test_the_reader_and_unseen_categories_are_chosen_as_in_predict(evaluated, home):
    text = census.write(home / "pilots.csv", 19, 4, occupations=("pilot",)).read_text()
    (home / "rows.weird").write_text(text.replace(",", ";"))
    code, found = evaluated("--data", "rows.weird", "--reader", "csv", "--reader-option", "delimiter=;")
    assert (code, found["central"]["rows"]) == (0, 19)
    code, error = evaluated("--data", "rows.weird", "--reader", "csv", "--unseen", "refuse")
    assert code == 2
    assert "a category that training never had" in error["message"]
    code, error = evaluated("--unseen", "refuse")
    assert code == 2
    assert "for the rows of a file" in error["message"]


@pytest.mark.slow
def test_new_rows_of_the_real_census_are_predicted_and_scored(data_root, tmp_path, capsys):
    """A file of a few rows has fewer categories than the training table: 67 one-hot columns and not 99."""
    table = data_root / "adult" / "adult.data.gz"
    if not table.is_file():
        pytest.skip("the folder of real data sets has no census table")
    lines = [line for line in gzip.decompress(table.read_bytes()).decode().splitlines() if line.strip()]
    start = 0 if lines[0].split(",")[0].strip().isdigit() else 1
    width = len(lines[start].split(","))
    header = ",".join(f"c{i}" for i in range(width - 1)) + ",income"
    (tmp_path / "train.csv").write_text("\n".join([header, *lines[start : start + 4000]]) + "\n")
    (tmp_path / "new.csv").write_text("\n".join([header, *lines[start + 4000 : start + 4200]]) + "\n")
    options = ["--target", "income", "--categorical", "c1,c3,c5,c6,c7,c8,c9,c13", "--na", "?"]
    assert command(["partition", str(tmp_path / "train.csv"), *options, "--out", str(tmp_path / "part")]) == 0
    assert command(["train", str(tmp_path / "part"), "--rounds", "2", "--out", str(tmp_path / "run")]) == 0
    assert command(["predict", str(tmp_path / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "p.csv")]) == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 201
    capsys.readouterr()
    assert command(["eval", str(tmp_path / "run"), "--data", str(tmp_path / "new.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["runs"][0]["central"]["rows"] == 200
