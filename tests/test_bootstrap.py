"""`make` on a fresh machine: scripts/bootstrap.py installs once, in the right order, and says plainly why it cannot."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bootstrap.py"


def load() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script over a project of its own and with a pip that only writes down what it is told."""
    module = load()
    root = tmp_path / "project"
    (root / "plugins" / "one").mkdir(parents=True)
    (root / "pyproject.toml").write_text("[project]\nname = 'flctl'\n")
    (root / "plugins" / "one" / "pyproject.toml").write_text("[project]\nname = 'one'\n")
    installed: list[Sequence[str]] = []
    monkeypatch.setattr(module, "ROOT", root)
    monkeypatch.setattr(module, "installed", installed, raising=False)
    monkeypatch.setattr(module, "install", lambda environment, what, requirements: installed.append(requirements))
    monkeypatch.setattr(module, "make_environment", lambda environment: environment.mkdir(exist_ok=True))
    monkeypatch.setattr(module, "works", Path.exists)
    monkeypatch.delenv("FLCTL_TORCH", raising=False)
    return module


def test_torch_goes_first_then_flctl_and_its_plugins(bootstrap: ModuleType, tmp_path: Path) -> None:
    bootstrap.set_up(tmp_path / "venv", "data,dev", force=False)
    root = bootstrap.ROOT
    assert bootstrap.installed == [["torch==2.13.0"], ["-e", f"{root}[data,dev]", "-e", str(root / "plugins" / "one")]]


def test_the_second_time_nothing_is_installed(bootstrap: ModuleType, tmp_path: Path) -> None:
    bootstrap.set_up(tmp_path / "venv", "data", force=False)
    bootstrap.installed.clear()
    bootstrap.set_up(tmp_path / "venv", "data", force=False)
    assert bootstrap.installed == []


@pytest.mark.parametrize("change", ["project", "plugin", "new plugin", "torch", "extras", "force"])
def test_what_the_environment_depends_on_installs_again(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    bootstrap.set_up(tmp_path / "venv", "data", force=False)
    bootstrap.installed.clear()
    root = bootstrap.ROOT
    (root / "plugins" / "two").mkdir()
    files = {"project": root, "plugin": root / "plugins" / "one", "new plugin": root / "plugins" / "two"}
    if change in files:
        (files[change] / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    if change == "torch":
        monkeypatch.setenv("FLCTL_TORCH", "torch==2.12.0")
    bootstrap.set_up(tmp_path / "venv", "data,docs" if change == "extras" else "data", force=change == "force")
    assert len(bootstrap.installed) == 2


def test_an_installation_that_failed_is_tried_again(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bootstrap.set_up(tmp_path / "venv", "data", force=False)

    def fail(environment: Path, what: str, requirements: Sequence[str]) -> None:
        raise bootstrap.SetupError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "install", fail)
        with pytest.raises(bootstrap.SetupError):
            bootstrap.set_up(tmp_path / "venv", "data", force=True)
    bootstrap.installed.clear()
    bootstrap.set_up(tmp_path / "venv", "data", force=False)
    assert len(bootstrap.installed) == 2


def test_an_old_python_is_refused_in_a_sentence(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert bootstrap.main(["--venv", str(tmp_path / "venv")]) == 1
    expected = "error: Python 3.10 is too old: flctl needs 3.11 or newer. Use `make PYTHON=python3.11`.\n"
    assert capsys.readouterr().err == expected


def test_a_requirement_that_is_not_torch_is_refused(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLCTL_TORCH", "--pre")
    with pytest.raises(bootstrap.SetupError, match="FLCTL_TORCH is '--pre'"):
        bootstrap.set_up(tmp_path / "venv", "data", force=False)
    assert bootstrap.installed == []


@pytest.fixture
def real() -> ModuleType:
    """The script as it is."""
    return load()


def test_a_folder_that_is_no_environment_is_left_alone(real: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(real.SetupError, match="is not a virtual environment"):
        real.make_environment(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


def test_a_python_that_cannot_fill_an_environment_says_what_to_install(
    real: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "_importable", lambda module: False)
    with pytest.raises(real.SetupError, match="python3-venv"):
        real.make_environment(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


def test_a_pip_that_fails_is_quoted(real: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "python"
    pip.write_text("#!/bin/sh\nfor last; do :; done\necho could not find $last\nexit 3\n")
    pip.chmod(0o755)
    with pytest.raises(real.SetupError, match=r"pip could not install torch .*\n  could not find torch==2.13.0\n"):
        real.install(tmp_path, "torch", ["torch==2.13.0"])
    assert "could not find" in (tmp_path / "setup.log").read_text()
