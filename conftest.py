"""Fixtures of all tests, those of the plugins included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flctl.report import curves

_draw = curves.curves


@pytest.fixture(scope="session", autouse=True)
def _no_pictures() -> Iterator[None]:
    """Ends runs without curves.png: drawing it takes four fifths of a short run's CPU time."""

    def skip(rows: Any, out: Path, metric: str | None = None) -> Path:
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "curves", skip)
        yield


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has runs draw curves.png, as they do for users."""
    monkeypatch.setattr(curves, "curves", _draw)
