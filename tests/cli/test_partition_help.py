"""Help of `flctl partition`: one page for the bare command and its subcommands, and nothing heavy imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flctl.cli import run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def partition(*words: str) -> int:
    return run(["partition", *words])


def test_help_shows_options_and_subcommands(capsys):
    for words in (["--help"], ["-h"], ["iris", "--help"], ["--scheme", "iid", "-h"]):
        assert partition(*words) == 0
        page = capsys.readouterr().out
        for word in ("Usage: flctl partition", "--classes-per-client", "--target", "inspect", "verify", "export"):
            assert word in page


def test_each_subcommand_has_its_own_help(capsys):
    for noun, word in (("inspect", "--picture"), ("verify", "DIR"), ("export", "--client")):
        assert partition(noun, "--help") == 0
        page = capsys.readouterr().out
        assert f"flctl partition {noun}" in page
        assert word in page
        assert "--classes-per-client" not in page


def test_a_source_called_like_a_subcommand_is_a_path(capsys):
    Path("inspect").mkdir()
    assert partition("./inspect", "--out", "x") == 2
    assert "./inspect: no reader knows this folder" in capsys.readouterr().err


def imported_by(words: list[str], here: Path) -> set[str]:
    script = f"""
import sys
from flctl.cli import run
assert run({words!r}) == 0
print(*sorted({{"torch", "numpy", "sklearn", "matplotlib"}} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=here)
    return set(result.stderr.split())


def test_help_imports_nothing_heavy(here):
    assert imported_by(["partition", "--help"], here) == set()


def test_partitioning_imports_no_torch(here):
    assert imported_by(["partition", "iris", "--no-report"], here) == {"numpy"}


@pytest.mark.slow
def test_drawing_a_partition_imports_no_torch(here):
    assert imported_by(["partition", "iris"], here) == {"numpy", "matplotlib"}
