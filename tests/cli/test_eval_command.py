"""`flctl eval` on runs that were really trained: numbers, files, comparisons, foreign weights, refusals."""

import csv
import json
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import load_file, save_file
from support import Given, toy_dataset, toy_partition, train_run

import flctl.cli
from flctl.cli.eval import command
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """parts/toy with two runs on it, and parts/other: other rows, dealt otherwise."""
    root = tmp_path_factory.mktemp("eval")
    toy = toy_partition(root / "parts" / "toy")
    train_run(toy, root / "runs" / "one", "checkpoint.every=2")
    train_run(toy, root / "runs" / "two", "local.lr=0.001")
    other = toy_dataset(90, seed=9)
    owner = np.arange(90) % 5
    write_partition(root / "parts" / "other", other, Given(owner), PartitionSpec(clients=5, test_fraction=0.3, seed=1))
    return root


@pytest.fixture
def run(home, monkeypatch, capsys):
    """Runs `flctl eval ...` from the folder of the runs: (exit code, stdout, stderr)."""

    def app(disabled):
        made = typer.Typer(name="flctl", no_args_is_help=True, pretty_exceptions_enable=False)
        made.callback()(flctl.cli._root)
        command.register(made)
        return made

    monkeypatch.setattr(flctl.cli, "build", app)
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        code = flctl.cli.run(["eval", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def data(run):
    """The data of `flctl eval ... --json`."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        envelope = json.loads(out)
        assert envelope["ok"]
        return envelope["data"]

    return call


@pytest.fixture
def refused(run):
    """(exit code, message, hint) of a call that is refused, as `--json` says it."""

    def call(*arguments):
        code, out, _ = run(*arguments, "--json")
        error = json.loads(out)["error"]
        assert error["exit_code"] == code != 0
        return code, error["message"], error["hint"]

    return call


# -- numbers -----------------------------------------------------------------------------------------------


def test_the_last_checkpoint_scores_what_training_reported(data, home):
    (found,) = data("runs/one")["runs"]
    lines = [json.loads(line) for line in (home / "runs/one/metrics.jsonl").read_text().splitlines()]
    assert found["round"] == 4
    assert found["central"]["accuracy"] == lines[-1]["accuracy"]
    assert found["central"]["test_loss"] == lines[-1]["test_loss"]
    (earlier,) = data("runs/one", "--checkpoint", "2")["runs"]
    assert earlier["central"]["test_loss"] == lines[1]["test_loss"]


def test_the_best_checkpoint_is_the_best_rounds(data, home):
    best = json.loads((home / "runs/one/summary.json").read_text())["best"]
    (found,) = data("runs/one", "--checkpoint", "best")["runs"]
    assert found["round"] == best["round"]
    assert found["central"]["accuracy"] == best["value"]


def test_the_federated_mean_weighs_by_rows_and_central_rows_are_the_clients(data):
    (found,) = data("runs/one", "--per-client")["runs"]
    assert found["central_rows"] == "clients"
    rows = np.array([client["test_rows"] for client in found["per_client"]])
    accuracy = np.array([client["accuracy"] for client in found["per_client"]])
    federated = found["federated"]["accuracy"]
    assert federated["weighted_mean"] == pytest.approx(found["central"]["accuracy"])
    assert federated["weighted_mean"] == pytest.approx(np.average(accuracy, weights=rows))
    assert federated["mean"] == pytest.approx(accuracy.mean())
    assert federated["worst_decile"] == accuracy.min()
    assert federated["quantiles"]["0.5"] == np.median(accuracy)
    assert 0 < federated["jain"] <= 1
    assert sum(group["clients"] for group in found["by_size"]) == 10


def test_the_confusion_matrix_adds_up(data):
    (found,) = data("runs/one", "--confusion")["runs"]
    counts = np.array(found["confusion"]["counts"])
    assert found["confusion"]["classes"] == ["a", "b", "c"]
    assert counts.sum() == found["central"]["rows"]
    assert counts.trace() / counts.sum() == pytest.approx(found["central"]["accuracy"])


def test_tables_show_the_same_numbers(run, data):
    (found,) = data("runs/one")["runs"]
    code, out, _ = run("runs/one", "--per-client", "--confusion")
    assert code == 0
    assert "runs/one, round 4, on parts/toy" in out
    assert f"{found['central']['accuracy']:.4f}" in out
    assert f"{found['federated']['accuracy']['jain']:.4f}" in out
    for title in ("Central test set", "Over 10 clients", "By size of the client", "worst first", "Confusion matrix"):
        assert title in out


def test_every_line_of_the_tables_fits_eighty_columns(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run("runs/one", "runs/two", "--per-client")
    tables = [line for line in out.splitlines() if not line.startswith(("runs/", "["))]
    assert max(map(len, tables)) <= 80


# -- several runs ------------------------------------------------------------------------------------------


def test_two_runs_stand_side_by_side_with_paired_differences(data):
    found = data("runs/two", "runs/one")
    two, one = (item["central"] for item in found["runs"])
    (difference,) = found["differences"]
    assert (difference["first"], difference["second"], difference["paired"]) == ("runs/two", "runs/one", True)
    change = difference["central"]["accuracy"]
    assert change["value"] == pytest.approx(one["accuracy"] - two["accuracy"])
    assert change["low"] <= change["value"] <= change["high"]
    assert 0 <= change["p"] <= 1
    clients = difference["clients"]["accuracy"]
    mean = [item["federated"]["accuracy"]["mean"] for item in found["runs"]]
    assert clients["value"] == pytest.approx(mean[1] - mean[0])


def test_a_comparison_shows_intervals(run):
    code, out, _ = run("runs/one", "runs/two", "--per-client")
    assert code == 0
    for words in ("difference", "95 % interval", "McNemar", "Mean over clients", "runs/two mean"):
        assert words in out


# -- another partition -------------------------------------------------------------------------------------


def test_another_partition_is_used_on_request_and_said(data, home):
    (found,) = data("runs/one", "--data", "parts/other")["runs"]
    assert found["data"] == "parts/other"
    assert found["partition_digest"] == Partition.open(home / "parts/other").digest
    assert "not the training partition" in found["notes"][0]
    assert found["central"]["accuracy"] > 0.5


def test_the_runs_own_partition_may_be_named(data):
    (found,) = data("runs/one", "--data", "parts/toy")["runs"]
    assert found["notes"] == []


def test_a_partition_that_is_gone_or_was_replaced_is_refused(refused, home, tmp_path):
    for name in ("parts", "runs"):
        shutil.copytree(home / name, tmp_path / name)
    config = tmp_path / "runs/one/config.yaml"
    config.write_text(config.read_text().replace(home.as_posix(), tmp_path.as_posix()))
    shutil.rmtree(tmp_path / "parts/toy")
    code, message, hint = refused(tmp_path / "runs/one")
    assert (code, "is not at" in message, "--data" in hint) == (3, True, True)
    shutil.copytree(home / "parts/other", tmp_path / "parts/toy")
    code, message, hint = refused(tmp_path / "runs/one")
    assert (code, "the digest differs" in message, "--data" in hint) == (3, True, True)


def test_a_partition_that_does_not_fit_is_refused(refused, home):
    other = toy_dataset(40)
    foreign = type(other)("wide", other.task, np.zeros((40, 6), np.float32), other.y, other.classes, tuple("pqrstu"))
    if not (home / "parts/wide").exists():
        write_partition(
            home / "parts/wide", foreign, Given(np.arange(40) % 4), PartitionSpec(clients=4, test_fraction=0.3, seed=1)
        )
    code, message, _ = refused("runs/one", "--data", "parts/wide")
    assert code == 3
    assert "an example has shape [6], the model takes [4]" in message


# -- files -------------------------------------------------------------------------------------------------


def test_predictions_as_csv_name_each_row(run, data, home, tmp_path):
    code, _, err = run("runs/one", "--predictions", tmp_path / "p.csv")
    assert code == 0
    assert f"wrote {tmp_path / 'p.csv'}" in err
    lines = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))
    (found,) = data("runs/one")["runs"]
    assert len(lines) == found["central"]["rows"]
    right = sum(line["truth"] == line["prediction"] for line in lines) / len(lines)
    assert right == pytest.approx(found["central"]["accuracy"])
    partition = Partition.open(home / "parts/toy")
    labels = toy_dataset(245).y
    for line in lines:
        assert "abc"[labels[int(line["source_row"])]] == line["truth"]
        assert sum(float(line[f"p:{name}"]) for name in "abc") == pytest.approx(1, abs=1e-4)
        assert line["client"] in partition.client_ids


def test_predictions_as_npz_hold_the_same(run, tmp_path):
    run("runs/one", "--predictions", tmp_path / "p.csv")
    run("runs/one", "--predictions", tmp_path / "p.npz")
    lines = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as arrays:
        assert [str(arrays["classes"][code]) for code in arrays["prediction"]] == [line["prediction"] for line in lines]
        assert [str(arrays["client_ids"][k]) for k in arrays["client"]] == [line["client"] for line in lines]
        assert arrays["source_row"].tolist() == [int(line["source_row"]) for line in lines]
        assert arrays["probability"].shape == (len(lines), 3)


def test_each_clients_numbers_as_csv(run, data, tmp_path):
    run("runs/one", "runs/two", "--csv", tmp_path / "c.csv")
    lines = list(csv.DictReader((tmp_path / "c.csv").open(encoding="utf-8")))
    assert [line["run"] for line in lines] == ["runs/one"] * 10 + ["runs/two"] * 10
    (found,) = data("runs/one", "--per-client")["runs"]
    assert [float(line["accuracy"]) for line in lines[:10]] == [c["accuracy"] for c in found["per_client"]]


def test_a_picture_of_the_clients(run, tmp_path):
    code, _, _ = run("runs/one", "runs/two", "--plot", tmp_path / "c.svg", "--metric", "log_loss")
    drawn = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert code == 0
    assert "By client (dotted: mean)" in drawn
    assert "log loss (nats)" in drawn


@pytest.mark.parametrize("flag", ["--predictions", "--csv", "--plot"])
def test_no_file_is_overwritten(refused, tmp_path, flag):
    path = tmp_path / ("x.png" if flag == "--plot" else "x.csv")
    path.write_text("mine")
    code, message, _ = refused("runs/one", flag, path)
    assert (code, message) == (2, f"{path} exists already")
    assert path.read_text() == "mine"


# -- weights from elsewhere --------------------------------------------------------------------------------


@pytest.fixture
def weights(home):
    return load_file(home / "runs/one/checkpoints/round-00004/model.safetensors")


def test_weights_from_elsewhere_score_what_their_run_scores(data, weights, tmp_path):
    save_file({f"module.{name}": value for name, value in weights.items()}, tmp_path / "m.safetensors")
    found = data("runs/one", "--model-file", tmp_path / "m.safetensors", "--model", "logreg", "--data", "parts/toy")
    own, foreign = found["runs"]
    assert foreign["central"] == own["central"]
    assert "the prefix 'module.' was removed" in foreign["notes"][1]
    assert found["differences"][0]["central"]["accuracy"]["value"] == 0


def test_tensors_that_do_not_fit_are_listed(refused, weights, tmp_path):
    name, *_ = sorted(weights)
    wrong = {key: value for key, value in weights.items() if key != name} | {"extra": np.zeros(2, np.float32)}
    save_file(wrong, tmp_path / "m.safetensors")
    code, message, _ = refused("--model-file", tmp_path / "m.safetensors", "--model", "logreg", "--data", "parts/toy")
    assert code == 3
    assert f"no tensor '{name}'" in message
    assert "unknown tensor 'extra'" in message


def test_a_pickle_is_refused(refused, tmp_path):
    (tmp_path / "m.safetensors").write_bytes(pickle.dumps({"weight": [1.0]}))
    code, message, hint = refused(
        "--model-file", tmp_path / "m.safetensors", "--model", "logreg", "--data", "parts/toy"
    )
    assert (code, "it is a pickle" in message, "safetensors" in hint) == (6, True, True)


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to evaluate"),
        (("runs/none",), "runs/none is not a run"),
        (("runs/one", "--checkpoint", "3"), "has no checkpoint of round 3"),
        (("runs/one", "--checkpoint", "newest"), "--checkpoint newest is not a round"),
        (("runs/one", "--metric", "acuracy"), "unknown metric 'acuracy'"),
        (("runs/one", "--metric", "rmse"), "clients have no metric 'rmse' in classification"),
        (("runs/one", "--data", "parts/none"), "parts/none is not a partition"),
        (("runs/one", "--model", "mlp"), "describe the model of --model-file"),
        (("runs/one", "runs/two", "--predictions", "p.csv"), "--predictions takes one model"),
        (("runs/one", "--predictions", "p.txt"), "p.txt does not end in .csv or .npz"),
        (("runs/one", "--plot", "p.jpg"), "p.jpg does not end in .png or .svg"),
        (("--model-file", "m.safetensors", "--data", "parts/toy"), "--model-file needs --model"),
        (("--model-file", "m.safetensors", "--model", "mlp"), "--model-file needs --data"),
        (("--model-file", "m.safetensors", "--model", "mlp", "--data", "parts/toy"), "m.safetensors does not exist"),
        (("runs/one", "--batch-size", "0"), "--batch-size"),
    ],
)
def test_bad_arguments_are_named(refused, home, arguments, message):
    code, found, _ = refused(*arguments)
    assert code == 2
    assert message in found
    assert not list(home.glob("p.*"))


def test_a_partition_without_test_rows_is_refused(refused, home, tmp_path):
    write_partition(
        tmp_path / "p", toy_dataset(40), Given(np.arange(40) % 4), PartitionSpec(clients=4, test_fraction=0.0, seed=1)
    )
    code, message, hint = refused("runs/one", "--data", tmp_path / "p")
    assert (code, "has no test rows" in message, "--test-fraction" in hint) == (2, True, True)


def test_a_model_that_diverged_is_said_once_and_scored_null(run, data, weights, tmp_path):
    save_file({name: np.full_like(value, np.nan) for name, value in weights.items()}, tmp_path / "m.safetensors")
    asked = ("--model-file", tmp_path / "m.safetensors", "--model", "logreg", "--data", "parts/toy")
    (found,) = data(*asked, "--per-client")["runs"]
    assert found["central"]["non_finite"] == found["central"]["rows"]
    assert found["central"]["accuracy"] is None
    assert found["federated"]["accuracy"]["undefined"] == 10
    code, out, _ = run(*asked, "--per-client", "--confusion")
    assert code == 0
    assert out.count("with outputs that are not finite") == 1


def test_a_flipped_byte_is_an_integrity_error(refused, home, tmp_path):
    shutil.copytree(home / "runs/one", tmp_path / "run")
    model = tmp_path / "run/checkpoints/round-00004/model.safetensors"
    damaged = bytearray(model.read_bytes())
    damaged[-1] ^= 1
    model.write_bytes(damaged)
    code, message, _ = refused(tmp_path / "run", "--data", "parts/toy")
    assert (code, "model.safetensors" in message) == (6, True)


def test_every_option_is_documented(run):
    _, out, _ = run("--help")
    options = set(re.findall(r"--[a-z][a-z-]+", out)) - {"--help", "--override"}
    text = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert {"--predictions", "--model-file"} <= options
    assert sorted(option for option in options if option not in text) == []
