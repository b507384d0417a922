"""`flctl eval` of two unequal classes: what stands first, thresholds, subgroups, pictures, and widths of a terminal."""

import csv
import json

import numpy as np
import pytest
from support import train_run

from flctl.cli import run as command
from flctl.evaluation.subgroups import FLOOR
from flctl.partition.store import Partition

ROWS = 600


def write_table(path, seed):
    """A table with `sick` in 12 % of the rows, sites of two sizes, and one ward of few rows."""
    rng = np.random.default_rng(seed)
    sick = rng.random(ROWS) < 0.12
    x = rng.normal(size=(ROWS, 2)) + 1.5 * sick[:, None]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "ward", "outcome"])
        for row in range(ROWS):
            ward = "rare" if row % 97 == 0 else ("east" if row % 3 else "west")
            writer.writerow([f"{x[row, 0]:.4f}", f"{x[row, 1]:.4f}", ward, "sick" if sick[row] else "well"])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    write_table(root / "ill.csv", 0)
    table = [str(root / "ill.csv"), "--target", "outcome", "--categorical", "ward", "--clients", "4", "--scheme", "iid"]
    for name, fraction in (("held", "0.25"), ("plain", "0")):
        out = ["--validation-fraction", fraction, "--seed", "1", "--out", str(root / name)]
        assert command(["partition", *table, "--test-fraction", "0.5", *out]) == 0
    # Sorted, sick is the first class: well would be the positive one.
    held, plain = (Partition.open(root / name) for name in ("held", "plain"))
    train_run(held, root / "run", "eval.positive=sick", "local.class_weights=balanced")
    train_run(plain, root / "bare", "rounds=1", "eval.positive=sick", "metric=auprc", "eval.per_client=true")
    return root


@pytest.fixture
def run(home, monkeypatch, capsys):
    monkeypatch.chdir(home)

    def call(*arguments, width=80):
        monkeypatch.setenv("COLUMNS", str(width))
        code = command(["eval", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def data(run):
    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)["data"]

    return call


def test_balanced_accuracy_stands_first_and_orders_clients(home, data, run):
    found = data("run", "--per-client")
    assert found["metric"] == "balanced_accuracy"
    assert "of the rows are 'well'" in found["why"]
    (one,) = found["runs"]
    assert one["positive"] == "sick"
    assert {"recall", "specificity", "precision", "npv", "f1", "auprc", "ks"} <= one["central"].keys()
    _, out, _ = run("run")
    lines = out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.lstrip().startswith("────"))
    assert lines[first + 1].split()[0:2] == ["balanced", "accuracy"]


def test_a_run_is_best_in_its_headline_and_reports_it_each_round(home):
    summary = json.loads((home / "run" / "summary.json").read_text())
    assert summary["metric"] == "balanced_accuracy"
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    assert summary["best"]["value"] == max(line["balanced_accuracy"] for line in lines)
    (bare,) = (json.loads(line) for line in (home / "bare" / "metrics.jsonl").read_text().splitlines())
    assert {"auprc", "auprc_mean", "accuracy_mean"} <= bare.keys()


def test_a_threshold_is_chosen_on_validation_rows_and_used_on_test_rows(data):
    free, chosen = (data("run", *more)["runs"][0] for more in ((), ("--threshold", "sensitivity=0.9")))
    found = chosen["threshold"]
    assert (found["split"], found["rule"]) == ("validation", "sensitivity=0.9")
    assert found["rates"]["recall"] >= 0.9
    again = data("run", "--threshold", found["value"])["runs"][0]
    assert again["central"] == chosen["central"]
    assert again["threshold"]["split"] is None
    assert chosen["central"]["auroc"] == free["central"]["auroc"]
    assert not chosen["notes"]


def test_without_validation_rows_training_rows_choose_and_test_rows_only_if_named(data):
    notes = data("bare", "--threshold", "youden")["runs"][0]["notes"]
    assert "chosen on training rows" in notes[-1]
    one = data("bare", "--threshold", "youden", "--threshold-on", "test")["runs"][0]
    assert (one["threshold"]["split"], "too good" in one["notes"][-1]) == ("test", True)
    assert one["threshold"]["rates"]["recall"] == pytest.approx(one["central"]["recall"])


def test_subgroups_below_the_floor_are_named_without_figures(data, run):
    groups = {group["name"]: group for group in data("run", "--by", "ward")["runs"][0]["subgroups"]["groups"]}
    assert set(groups) == {"east", "west", "rare"}
    assert groups["rare"]["rows"] < FLOOR
    assert not groups["rare"]["values"]
    assert groups["east"]["intervals"]["recall"]["low"] < groups["east"]["values"]["recall"]
    assert sum(group["rows"] for group in groups.values()) == data("run")["runs"][0]["central"]["rows"]
    assert "1 with fewer than 10 test rows: no figures" in run("run", "--by", "ward")[1]


def test_numbers_are_grouped_by_quarters(data):
    groups = data("run", "--by", "a")["runs"][0]["subgroups"]["groups"]
    assert len(groups) == 4
    lows = [float(group["name"].strip("[").split(",")[0]) for group in groups]
    assert lows == sorted(lows)


def test_a_file_is_grouped_by_any_of_its_columns(data, home):
    text = (home / "ill.csv").read_text(encoding="utf-8").splitlines()
    marked = [f"{line},{'sex' if not index else 'fm'[index % 2]}" for index, line in enumerate(text)]
    (home / "sex.csv").write_text("\n".join(marked) + "\n", encoding="utf-8")
    found = data("run", "--data", "sex.csv", "--trained-rows", "leave-out", "--by", "sex")["runs"][0]
    groups = {group["name"]: group["rows"] for group in found["subgroups"]["groups"]}
    assert set(groups) == {"f", "m"}
    assert sum(groups.values()) == found["central"]["rows"] < ROWS


@pytest.mark.parametrize("width", [80, pytest.param(60, marks=pytest.mark.slow)])
def test_numbers_never_break_however_narrow_the_terminal(run, width):
    _, wide, _ = run("run", "--by", "ward", "--per-class", "--per-client", width=200)
    _, narrow, _ = run("run", "--by", "ward", "--per-class", "--per-client", width=width)
    numbers = {word for word in wide.split() if word.replace(".", "").isdigit()}
    assert numbers <= set(narrow.split())
    tables = [line for line in narrow.splitlines() if "────" in line]
    assert max(map(len, tables)) <= width


@pytest.mark.parametrize("panels", ["roc,pr", pytest.param(None, marks=pytest.mark.slow)])
def test_the_picture_has_the_panels_that_apply(run, tmp_path, panels):
    asked = [] if panels is None else ["--panels", panels]
    code, _, err = run("run", "bare", "--plot", tmp_path / "x.svg", *asked)
    assert code == 0, err
    drawn = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert ">ROC<" in drawn
    assert ">Precision and recall<" in drawn
    assert ("Calibration" in drawn) == ("By client (dotted: mean)" in drawn) == (panels is None)
    assert ">bare<" in drawn


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", "yuden"), "--threshold 'yuden' is not a threshold or a rule"),
        (("--threshold-on", "train"), "--threshold-on chooses the rows of --threshold"),
        (("--positive", "sik"), "'sik' is not a class of the data"),
        (("--by", "wrd"), "'wrd' is not a column of the features"),
        (("--panels", "roc"), "--panels chooses what --plot draws"),
        (("--plot", "x.png", "--panels", "rocs"), "'rocs' is not a panel"),
        (("--plot", "x.png", "--panels", "residuals"), "'residuals' does not apply"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(run, arguments, message):
    code, out, _ = run("run", *arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, error["exit_code"]) == (2, 2)
    assert message in error["message"]
    assert error["hint"]


def test_a_prediction_takes_the_threshold(home, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(home)
    low = ["predict", "run", "ill.csv", "--threshold", "0.05", "--json", "--out", str(tmp_path / "low.csv")]
    assert command(low) == 0
    found = json.loads(capsys.readouterr().out)["data"]
    rows = list(csv.DictReader((tmp_path / "low.csv").open(newline="", encoding="utf-8")))
    assert found["predicted"]["sick"] == sum(row["prediction"] == "sick" for row in rows)
    assert all((float(row["p:sick"]) >= 0.05) == (row["prediction"] == "sick") for row in rows)
    assert command(["predict", "run", "ill.csv", "--positive", "well", "--out", str(tmp_path / "x.csv")]) == 2
