"""The tests of a plugin, run without those of flctl, have the same fixtures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"


@pytest.mark.slow
def test_they_leave_the_registry_of_privacy_ledgers_of_the_user_alone(tmp_path):
    pytest.importorskip("flctl_dp")
    environment = {name: value for name, value in os.environ.items() if name != "XDG_STATE_HOME"}
    test = "test_dp_notices.py::test_a_second_run_on_rows_has_to_be_confirmed"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", PLUGINS / "flctl-dp" / "tests" / test],
        cwd=PLUGINS,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / ".local").exists()
