"""`flctl train` and `flctl runs` as a person meets them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import checkpoint_digests, flctl, prefork, slow_but, train_run, untimed_lines

from flctl.cli import demo
from flctl.cli import run as cli
from flctl.cli.train.command import FLAGS
from flctl.cli.train.job import target_flags
from flctl.config.config import Config

QUICK = ("--model", "logreg", "--rounds", "3", "--clients-per-round", "4", "--seed", "7")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> dict:
    code = cli([*arguments, "--json"])
    error = said(capsys)["error"]
    assert code == error["exit_code"] != 0
    return error


@pytest.mark.usefixtures("pictures")
def test_flags_make_a_run(toy, tmp_path, capsys):
    flags = ["--local-epochs", "2", "--batch-size", "8", "--lr", "0.2", "--optimizer", "sgd", "--strategy", "fedavg"]
    assert cli(["train", str(toy.path), *QUICK, *flags, "--out", "runs/x", "--json"]) == 0
    data = said(capsys)["data"]
    assert (data["run"], data["status"], data["rounds"]) == ("runs/x", "finished", 3)
    lines = [json.loads(text) for text in (tmp_path / "runs/x/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3]
    phases = {"total", "select", "train", "aggregate", "evaluate", "checkpoint"}
    for line in lines:
        assert {"loss", "accuracy", "test_loss", "examples", "bytes_up", "bytes_down", "failed"} <= set(line)
        assert set(line["seconds"]) == phases
        assert all(seconds >= 0 for seconds in line["seconds"].values())
    files = {"config.yaml", "origins.json", "run.json", "metrics.jsonl", "checkpoints", "summary.json", "curves.png"}
    assert files <= set(os.listdir(tmp_path / "runs/x"))
    origins = json.loads((tmp_path / "runs/x/origins.json").read_text())
    assert origins["local.lr"] == {"source": "flag", "where": "--lr"}


def test_flags_a_file_and_overrides_agree(toy, tmp_path):
    (tmp_path / "x.yaml").write_text(
        f"data: {toy.path.as_posix()}\nmodel: logreg\nrounds: 9\nseed: 7\ncohort: {{clients: 4}}\nlocal: {{lr: 0.3}}\n"
    )
    assert cli(["train", str(toy.path), *QUICK, "--lr", "0.05", "--out", "a"]) == 0
    assert cli(["train", "--config", "x.yaml", "-o", "local.lr=0.05", "--rounds", "3", "--out", "b"]) == 0
    assert checkpoint_digests(tmp_path / "a") == checkpoint_digests(tmp_path / "b")


def test_the_seed_decides_everything(toy, tmp_path):
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        assert cli(["train", str(toy.path), *QUICK[:-1], seed, "--out", name]) == 0
    assert untimed_lines(tmp_path / "a") == untimed_lines(tmp_path / "b") != untimed_lines(tmp_path / "c")


def test_sampling_rate_means_poisson(toy, tmp_path):
    flags = ["--model", "logreg", "--rounds", "8", "--sampling-rate", "0.3", "--out", "x"]
    assert cli(["train", str(toy.path), *flags]) == 0
    asked = {line["asked"] for line in untimed_lines(tmp_path / "x")}
    assert len(asked) > 1
    assert "sampling: poisson" in (tmp_path / "x" / "config.yaml").read_text()


def test_local_steps_are_counted_whatever_the_size(toy):
    assert cli(["train", str(toy.path), *QUICK, "--local-steps", "3", "--out", "x"]) == 0
    assert cli(["runs", "replay", "x", "--round", "1", "--client", "0", "--json"]) == 0


@pytest.mark.parametrize(
    ("text", "metric", "value"),
    [
        ("accuracy=0.97", "accuracy", 0.97),
        ("accuracy>=0.97", "accuracy", 0.97),
        ("rmse<=4e1", "rmse", 40.0),
        ("0.5", None, 0.5),
    ],
)
def test_ways_to_write_a_target(text, metric, value):
    flags = target_flags(text)
    assert flags["stop.target"].value == value
    assert (flags["stop.metric"].value if "stop.metric" in flags else None) == metric


def test_a_target_ends_the_run(toy, tmp_path, capsys):
    flags = [*QUICK[:2], "--rounds", "50", *QUICK[4:], "--target-metric", "accuracy=0.6"]
    assert cli(["train", str(toy.path), *flags, "--out", "x", "--json"]) == 0
    data = said(capsys)["data"]
    assert data["status"] == "target"
    assert data["rounds"] < 50
    assert data["final"]["accuracy"] >= 0.6


def test_patience_ends_the_run(toy, capsys):
    flags = ["-o", "stop.patience=2", "-o", "stop.min_delta=0.5", "--rounds", "50"]
    assert cli(["train", str(toy.path), *QUICK[:2], *flags, "--out", "x", "--json"]) == 0
    assert (said(capsys)["data"]["status"], len(untimed_lines_of("x"))) == ("patience", 3)


def untimed_lines_of(name):
    from pathlib import Path

    return untimed_lines(Path(name))


@pytest.mark.parametrize(("every", "evaluated"), [("0", [5]), ("2", [2, 4, 5]), ("1", [1, 2, 3, 4, 5])])
def test_when_the_model_is_evaluated(toy, tmp_path, every, evaluated):
    flags = [*QUICK[:2], "--rounds", "5", "-o", f"eval.every={every}"]
    assert cli(["train", str(toy.path), *flags, "--out", "x"]) == 0
    assert [line["round"] for line in untimed_lines(tmp_path / "x") if "accuracy" in line] == evaluated


def test_fewer_clients_than_the_default_number_are_all_asked(tmp_path):
    from support import toy_partition

    toy_partition(tmp_path / "small", clients=3)
    assert cli(["train", "small", "--model", "logreg", "--rounds", "1", "--out", "x"]) == 0
    assert untimed_lines(tmp_path / "x")[0]["asked"] == 3


def test_a_default_run_directory_is_never_overwritten(toy):
    for _ in range(2):
        assert cli(["train", str(toy.path), *QUICK]) == 0
    assert sorted(os.listdir("runs")) == ["toy-fedavg", "toy-fedavg-2"]


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--strategy", "fedagv"], 2, "unknown strategy 'fedagv'"),
        (["-o", "local.lrr=0.1"], 2, "lrr"),
        (["--model", "cnn"], 2, "cnn"),
        (["--lr", "-1"], 2, "lr"),
        (["--clients-per-round", "11"], 2, "cohort.clients is 11, and the partition has 10"),
        (["--aggregator", "secag"], 2, "unknown aggregator 'secag'"),
        (["--config", "nothing.yaml"], 2, "nothing.yaml"),
        (["--target-metric", "accuracy~1"], 2, "NAME=VALUE"),
        (["--target-metric", "acuracy=0.9"], 2, "acuracy"),
        (["-o", "plugins=[./none.py]"], 2, "does not exist"),
        (["--engine", "cloud"], 2, "unknown engine 'cloud'"),
        (["-o", "eval.every=0", "-o", "stop.patience=2"], 2, "eval.every is 0"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(toy, capsys, flags, code, says):
    error = refused(capsys, "train", str(toy.path), "--rounds", "2", *flags, "--out", "x")
    assert error["exit_code"] == code
    assert says in error["message"]
    assert not os.path.lexists("x")


def test_places_that_are_no_partition(tmp_path, capsys):
    assert refused(capsys, "train", "nowhere", "--out", "x")["exit_code"] == 2
    (tmp_path / "empty").mkdir()
    assert "not a partition" in refused(capsys, "train", "empty", "--out", "x")["message"]
    assert "no partition was named" in refused(capsys, "train", "--out", "x")["message"]


def test_an_existing_run_directory_is_kept(toy, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "precious").write_text("data")
    assert "exists already" in refused(capsys, "train", str(toy.path), *QUICK, "--out", "x")["message"]
    assert (tmp_path / "x" / "precious").read_text() == "data"


def test_a_flipped_byte_in_a_shard_is_found_before_training(tmp_path, capsys):
    from support import toy_partition

    partition = toy_partition(tmp_path / "toy")
    file = partition.path / partition.manifest.columns["x"].file
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    error = refused(capsys, "train", "toy", *QUICK, "--out", "x")
    assert error["exit_code"] == 6
    assert file.name in error["message"]


def test_divergence_keeps_the_last_good_checkpoint_and_says_so(toy, tmp_path, capsys):
    flags = ["--model", "mlp", "--rounds", "20", "--lr", "1e12", "--local-epochs", "5", "--out", "x"]
    error = refused(capsys, "train", str(toy.path), *flags)
    assert error["kind"] == "divergence"
    assert "local.lr" in error["hint"]
    assert (tmp_path / "x" / "checkpoints" / "round-00000" / "manifest.json").exists()
    assert cli(["eval", "x", "--checkpoint", "0", "--json"]) == 0


@pytest.mark.parametrize("workers", slow_but([("1",), ("2",)], "1"))
def test_resume_by_the_command_line(toy, tmp_path, capsys, workers):
    assert cli(["train", str(toy.path), *QUICK[:2], "--rounds", "6", "--seed", "7", "--out", "whole"]) == 0
    assert cli(["train", str(toy.path), *QUICK[:2], "--rounds", "2", "--seed", "7", "--out", "part"]) == 0
    assert cli(["train", "--resume", "part", "--rounds", "6", "--workers", workers]) == 0
    assert untimed_lines(tmp_path / "whole") == untimed_lines(tmp_path / "part")
    capsys.readouterr()
    error = refused(capsys, "train", "--resume", "part", "--lr", "0.7")
    assert error["exit_code"] == 3
    assert "cannot change local.lr" in error["message"]
    assert refused(capsys, "train", "--resume", "part", "--out", "y")["exit_code"] == 2
    assert refused(capsys, "train", "--resume", "nothing")["exit_code"] == 2


def test_a_resume_records_the_configuration_that_holds_from_then_on(toy, tmp_path, capsys):
    cli(["train", str(toy.path), "--rounds", "2", "--lr", "0.2", "--out", "x"])
    assert cli(["train", "--resume", "x", "--rounds", "3"]) == 0
    config = Path("x/config.yaml").read_text()
    assert "\nrounds: 3\n" in config
    assert "  lr: 0.2\n" in config
    origins = json.loads(Path("x/origins.json").read_text())
    assert (origins["rounds"]["where"], origins["local.lr"]["where"]) == ("--rounds", "--lr")


def test_a_resume_names_only_the_keys_that_it_cannot_change(toy, tmp_path, capsys):
    cli(["train", str(toy.path), "--rounds", "2", "--out", "x"])
    capsys.readouterr()
    error = refused(capsys, "train", "--resume", "x", "--rounds", "4", "--seed", "9")
    assert error["message"].startswith("a resume cannot change seed: ")
    assert "rounds" in error["hint"]


def test_a_run_directory_that_is_deleted_ends_the_training(toy, tmp_path, capsys, monkeypatch):
    from flctl.run.directory import RunDirectory

    append = RunDirectory.append

    def deleting(self, report):
        if report.round == 3:
            shutil.rmtree(self.path)
        append(self, report)

    monkeypatch.setattr(RunDirectory, "append", deleting)
    error = refused(capsys, "train", str(toy.path), "--rounds", "50", "--out", "gone")
    assert (error["exit_code"], Path("gone").exists()) == (1, False)
    assert "was removed or renamed while training" in error["message"]


def test_a_changed_config_or_partition_is_not_resumed(toy, tmp_path, capsys):
    from support import toy_partition

    toy_partition(tmp_path / "toy")
    assert cli(["train", "toy", *QUICK, "--out", "x"]) == 0
    stored = tmp_path / "x" / "config.yaml"
    stored.write_text(stored.read_text().replace("seed: 7", "seed: 8"))
    capsys.readouterr()
    assert "changed since the run was made" in refused(capsys, "train", "--resume", "x")["message"]
    stored.write_text(stored.read_text().replace("seed: 8", "seed: 7"))
    toy_partition(tmp_path / "other", clients=9)
    assert "not the partition" in refused(capsys, "train", "other", "--resume", "x")["message"]


def test_a_moved_run_and_partition_go_on(tmp_path):
    from support import toy_partition

    toy_partition(tmp_path / "a" / "parts" / "toy")
    os.chdir(tmp_path / "a")
    assert cli(["train", "parts/toy", *QUICK, "--out", "runs/x"]) == 0
    os.chdir(tmp_path)
    os.rename("a", "b")
    assert cli(["train", "--resume", "b/runs/x", "--rounds", "4"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), slow_but([(signal.SIGINT, 130), (signal.SIGTERM, 143)], signal.SIGINT))
def test_a_signal_ends_the_run_after_its_round(toy, tmp_path, number, code):
    command = [sys.executable, "-c", "from flctl.cli import main; main()", "train", str(toy.path), "--model", "logreg"]
    command += ["--rounds", "100000", "-o", "eval.every=0", "--out", "x"]
    start = prefork.start if number == signal.SIGINT else subprocess.Popen
    process = start(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "x" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    process.send_signal(number)
    said_last = process.communicate()[1]
    assert process.returncode == code
    assert "finishing the round" in said_last
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (tmp_path / "x" / "checkpoints" / f"round-{summary['rounds']:05d}").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or not sys.platform.startswith("linux"), reason="file size limit of Linux"
)
def test_a_full_disk_is_an_error_and_the_run_goes_on_afterwards(toy, tmp_path):
    """A limit on file sizes stands in for a full disk: metrics.jsonl outgrows it after some rounds."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "import flctl.server.training; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000));"
        "from flctl.cli import main; main()"
    )
    command = [
        sys.executable,
        "-c",
        limited,
        "train",
        str(toy.path),
        "--model",
        "logreg",
        "--rounds",
        "60",
        "--out",
        "x",
    ]
    done = prefork.run(command, cwd=tmp_path)
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert flctl("train", "--resume", "x", cwd=tmp_path).returncode == 0
    train_run(toy, tmp_path / "whole", "rounds=60", "cohort.clients=10")
    assert untimed_lines(tmp_path / "x") == untimed_lines(tmp_path / "whole")


def test_events_are_lines_of_json_on_stderr(toy, capsys):
    assert cli(["train", str(toy.path), *QUICK, "--out", "x", "--json"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(text) for text in captured.err.splitlines()]
    assert [event["event"] for event in events] == ["started", "round", "round", "round"]
    assert events[-1]["round"] == 3
    assert len(captured.out.splitlines()) == 1


def test_a_plain_line_per_round_where_there_is_no_terminal(toy, capsys):
    assert cli(["train", str(toy.path), *QUICK, "--out", "x"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round ")] == ["1/3", "2/3", "3/3"]


def test_runs_are_listed_shown_and_replayed(toy, capsys):
    assert cli(["train", str(toy.path), *QUICK, "--out", "runs/x"]) == 0
    capsys.readouterr()
    assert cli(["runs", "list", "--json"]) == 0
    (row,) = said(capsys)["data"]["runs"]
    assert (row["run"], row["rounds"], row["status"]) == ("runs/x", 3, "finished")
    assert cli(["runs", "show", "runs/x", "--json"]) == 0
    shown = said(capsys)["data"]
    assert len(shown["lines"]) == 3
    assert "logreg" in shown["config"]
    assert cli(["runs", "show", "runs/x"]) == 0
    assert "checkpoints" in capsys.readouterr().out
    assert cli(["runs", "replay", "runs/x", "--round", "3", "--client", "5", "--json"]) == 0
    replayed = said(capsys)["data"]
    assert replayed["failed"] is None
    assert replayed["loss"] > 0


def test_replaying_a_failing_client_shows_its_traceback(toy, tmp_path, capsys):
    (tmp_path / "bad.py").write_text(
        "import flctl\n"
        "class Bad(flctl.Strategy):\n"
        "    'Fails in round 2.'\n"
        "    name = 'bad'\n"
        "    def report(self, local, work, memory):\n"
        "        if work.round == 2:\n"
        "            raise ValueError('unlucky')\n"
        "        return super().report(local, work, memory)\n"
        "@flctl.hookimpl\n"
        "def flctl_strategies():\n"
        "    return [Bad]\n"
    )
    flags = ["-o", "plugins=[bad.py]", "--strategy", "bad", "--out", "x"]
    error = refused(capsys, "train", str(toy.path), *QUICK, *flags)
    assert "round 2: client" in error["message"]
    client = error["message"].split("client '")[1].split("'")[0]
    assert f"--round 2 --client {client}" in error["hint"]
    assert cli(["runs", "replay", "x", "--round", "2", "--client", client]) == 0
    captured = capsys.readouterr()
    assert "ValueError: unlucky" in captured.err
    assert "in_cohort: True" in captured.out


def test_components_are_listed_and_shown(capsys):
    assert cli(["plugins", "list", "--json"]) == 0
    rows = said(capsys)["data"]["components"]
    assert {"kind": "strategy", "name": "fedavg"}.items() <= next(r for r in rows if r["name"] == "fedavg").items()
    assert all(row["summary"] and row["origin"].startswith(("flctl ", "flctl-")) for row in rows)
    assert cli(["plugins", "show", "fedprox", "--json"]) == 0
    (shown,) = said(capsys)["data"]["components"]
    assert shown["options"][0]["name"] == "proximal_mu"
    assert cli(["plugins", "list"]) == 0
    assert cli(["plugins", "show", "dirichlet"]) == 0
    capsys.readouterr()
    assert "Did you mean 'fedprox'" in refused(capsys, "plugins", "show", "fedpox")["hint"]
    assert refused(capsys, "plugins", "list", "--kind", "strateggy")["exit_code"] == 2


def test_the_doctor_finds_this_installation_well(capsys):
    assert cli(["doctor", "--json"]) == 0
    findings = said(capsys)["data"]["findings"]
    assert {"torch", "python", "components", "disk"} <= {finding["subject"] for finding in findings}
    assert not [finding for finding in findings if finding["status"] == "fail"]
    assert cli(["doctor"]) == 0


@pytest.mark.parametrize("task", ["classification", "regression", "next-character"])
def test_what_a_run_may_stop_by_is_what_is_measured(task, toy):
    import numpy as np

    from flctl.evaluation.metrics import quick_score
    from flctl.evaluation.outcomes import outcomes_of
    from flctl.types import QUICK

    outputs = {"next-character": np.zeros((2, 3, 4), np.float32), "regression": np.zeros((2, 1), np.float32)}
    y = {"next-character": np.zeros((2, 3), np.int64), "regression": np.array([0.0, 1.0], np.float32)}
    made = outcomes_of(task, outputs.get(task, np.zeros((2, 4), np.float32)), y.get(task, np.zeros(2, np.int64)))
    assert tuple(quick_score(made)) == QUICK[task]


def test_a_plugin_file_or_trace_that_changed_is_not_resumed(toy, tmp_path, capsys):
    (tmp_path / "own.py").write_text("import flctl\n")
    (tmp_path / "trace.csv").write_text("client,first_round,last_round\n1,1,9\n")
    flags = ["-o", "plugins=[own.py]", "-o", "cohort.sampling=trace", "-o", "cohort.trace=trace.csv"]
    assert cli(["train", str(toy.path), "--model", "logreg", "--rounds", "2", *flags, "--out", "x"]) == 0
    assert cli(["train", "--resume", "x", "--rounds", "3"]) == 0
    (tmp_path / "trace.csv").write_text("client,first_round,last_round\n2,1,9\n")
    capsys.readouterr()
    error = refused(capsys, "train", "--resume", "x", "--rounds", "4")
    assert error["exit_code"] == 3
    assert "trace.csv changed since the run was made" in error["message"]


def test_the_demo_quotes_folders_with_blanks(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(demo, "_run", shown.extend)
    folder = tmp_path / "my demo"
    assert cli(["demo", "--out", str(folder)]) == 0
    assert [shlex.split(command)[-1] for command in shown[:2]] == [
        (folder / "parts" / "digits").as_posix(),
        (folder / "runs" / "digits").as_posix(),
    ]


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.spelling)
def test_the_help_shows_the_default_of_the_configuration(flag):
    value = None if flag.key == "engine.purpose" else Config()  # an option of one engine alone
    for part in flag.key.split(".") if value else ():
        value = getattr(value, part)
    assert flag.default == value
    assert f"Default{': not set' if value is None else f' {value}'}" in flag.text


@pytest.mark.slow
def test_the_demo_does_the_main_job(tmp_path, capsys):
    assert cli(["demo", "--out", "shown", "--json"]) == 0
    data = said(capsys)["data"]
    assert len(data["commands"]) == 3
    summary = json.loads((tmp_path / data["run"] / "summary.json").read_text())
    assert summary["final"]["accuracy"] > 0.8
    assert refused(capsys, "partition", "digits", "--out", data["partition"])["exit_code"] == 2
