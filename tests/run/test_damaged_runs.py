"""A run directory whose files were damaged: named in a sentence with exit code 6, never a bug report."""

import json
import shutil

import pytest
from support import make_run, train_run

from flctl.cli import run
from flctl.errors import IntegrityError
from flctl.run.directory import RunDirectory


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train_run(toy, path, "rounds=2")
    return path


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs" / "run")


@pytest.mark.parametrize("content", [b"\xff\xfejunk\n", b"[1]\n", b"{}\n", b"3\n", b"[" * 100_000 + b"\n", None])
@pytest.mark.parametrize("command", [["train", "--rounds", "3", "--resume"], ["runs", "show"]])
def test_damaged_metrics_are_named(copy, capsys, content, command):
    if content is None:
        (copy / "metrics.jsonl").unlink()
    else:
        (copy / "metrics.jsonl").write_bytes(content)
    assert run([*command, str(copy)]) == 6
    assert "metrics.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["config_digest", "partition_digest", "partition", "versions"])
def test_facts_that_lack_a_key_are_named(copy, key):
    facts = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({name: value for name, value in facts.items() if name != key}))
    with pytest.raises(IntegrityError, match=f"no '{key}'"):
        RunDirectory(copy)


def test_a_damaged_run_does_not_hide_the_others(copy, capsys):
    shutil.copytree(copy, copy.parent / "other")
    (copy / "run.json").write_text("{")
    assert run(["runs", "list", str(copy.parent), "--json"]) == 0
    told = capsys.readouterr()
    assert [row["run"] for row in json.loads(told.out)["data"]["runs"]] == [str(copy.parent / "other")]
    assert "run.json is damaged: not JSON" in told.err


def test_a_damaged_config_is_shown_as_it_is(copy, capsys):
    (copy / "config.yaml").write_bytes(b"seed: \xff\n")
    assert run(["runs", "show", str(copy)]) == 0
    assert "seed: \N{REPLACEMENT CHARACTER}" in capsys.readouterr().out


def test_a_last_line_that_was_cut_off_is_left_out(toy, tmp_path):
    _, directory = make_run(toy, tmp_path / "run")
    directory.metrics.write_bytes(b'{"round": 1, "lo\xff')
    assert directory.lines() == []
