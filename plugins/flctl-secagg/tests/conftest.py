"""Loads the fixtures of all tests, also where these tests are run alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tests"))


def pytest_configure(config: pytest.Config) -> None:
    """Loads them once. Without them a run would enter its rows in the user's own registry of privacy ledgers."""
    config.pluginmanager.import_plugin("support.fixtures")
