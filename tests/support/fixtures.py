"""Fixtures of all tests, those of the plugins included; each package's conftest.py loads them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flctl.cli.partition import job
from flctl.engines import worker_process
from flctl.report import curves
from support import prefork

_draw, _draw_heatmap = curves.curves, job.draw


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Ends runs without curves.png, and reports of partitions without heatmaps, unless these are asked for by name:
    drawing takes four fifths of the CPU time of a short run or a small partition."""

    def skip(rows: Any, out: Path, metric: str | None = None) -> Path:
        return out

    def draw(heatmap: Any, out: Path) -> Path:
        return out if out.stem == "heatmap" else _draw_heatmap(heatmap, out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "curves", skip)
        patch.setattr(job, "draw", draw)
        yield


@pytest.fixture(scope="session", autouse=True)
def _state_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sets the user's state folder for the session, so that runs made in shared fixtures leave the real one alone."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        yield state


@pytest.fixture(autouse=True)
def _state_of_test(_state_of_fixtures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test an empty state folder: the registry of privacy ledgers refuses data that another run used."""
    monkeypatch.setenv("XDG_STATE_HOME", str(_state_of_fixtures / uuid4().hex))


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has runs draw curves.png, and partitions their heatmaps, as they do for users."""
    monkeypatch.setattr(curves, "curves", _draw)
    monkeypatch.setattr(job, "draw", _draw_heatmap)


@pytest.fixture(scope="session", autouse=True)
def _forked_workers() -> Iterator[None]:
    """Has pools fork their workers from a process that has imported torch, which saves seconds of CPU time each."""
    with pytest.MonkeyPatch.context() as patch:
        if prefork.AVAILABLE:
            patch.setattr(worker_process, "subprocess", prefork.as_subprocess())
        yield
        prefork.stop_server()


@pytest.fixture
def started_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pools start their workers as they do for users: a new interpreter each."""
    monkeypatch.setattr(worker_process, "subprocess", subprocess)
