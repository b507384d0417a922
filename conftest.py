"""Loads the fixtures of all tests, those of the plugins included."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests"))
pytest_plugins = ["support.fixtures"]
