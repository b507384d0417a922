"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support import toy_partition

from flctl.partition.store import Partition

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in the background, where tests of Ctrl-C would hear nothing
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Partition:
    """Ten clients of 20 to 29 rows, four features, three classes, seeded; read-only."""
    return toy_partition(tmp_path_factory.mktemp("parts") / "toy")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is not there."""
    named = os.environ.get("FLCTL_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("FLCTL_TEST_DATA does not name the folder of real data sets")
    return Path(named).resolve()
