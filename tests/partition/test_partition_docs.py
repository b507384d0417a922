"""docs/partition.md: its commands and its program run as they stand, and it names what a manifest holds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from flctl.cli import run

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "partition.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("docs")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_its_commands_and_its_program_run_as_they_stand(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    first, others = blocks("console")
    command, *shown = first.splitlines()
    assert run(shlex.split(command.removeprefix("$ "))[1:]) == 0
    told = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert told[: shown.index("...")] == shown[: shown.index("...")]
    assert told[-1] == shown[-1]
    for line in others.splitlines():
        assert run(shlex.split(line)[1:]) == 0, line
    capsys.readouterr()
    (program,) = blocks("python")
    exec(compile(program, "docs/partition.md", "exec"), {})
    assert capsys.readouterr().out.strip() == program.rpartition("# ")[2].strip()


def test_its_config_is_one(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "c.yaml").write_text(blocks("yaml")[0])
    assert run(["partition", "--config", "c.yaml", "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["path"] == "parts/breast_cancer"


def test_it_names_every_key_of_a_manifest_and_every_column(folder):
    manifest = json.loads((folder / "parts" / "iris" / "manifest.json").read_text())
    names = {*manifest, *manifest["dataset"], *manifest["rows"], *manifest["preprocess"], *manifest["columns"]}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []
