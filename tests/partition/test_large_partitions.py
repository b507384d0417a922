"""What only size and bad luck show: five million rows within bounded memory, and kills at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from flctl.partition.store import Partition
from flctl.partition.verify import verify

pytestmark = pytest.mark.slow
FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]


def save_table(path: Path, rows: int, features: int = 20) -> None:
    table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, features + 1))
    rng = np.random.default_rng(7)
    for start in range(0, rows, 1 << 18):
        part = table[start : start + (1 << 18)]
        part[:, :-1] = rng.standard_normal((len(part), features), dtype=np.float32)
        part[:, -1] = rng.integers(0, 10, len(part))
    table.flush()


def command(table: Path, clients: int, out: Path, *more: str) -> list[str]:
    words = f"partition {table} --target 20 --task classification --alpha 0.3 --clients {clients} --out {out}"
    return [*FLCTL, *words.split(), *more]


def test_five_million_rows_go_to_100_000_clients_within_4_gib(tmp_path):
    save_table(tmp_path / "table.npy", 5_000_000)
    process = subprocess.Popen(
        [*command(tmp_path / "table.npy", 100_000, tmp_path / "x"), "--json"], stdout=subprocess.PIPE
    )
    told = json.loads(process.stdout.read())
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_maxrss < 4 << 20, f"{usage.ru_maxrss} KiB"
    assert told["data"]["rows"]["train"] + told["data"]["rows"]["test"] == 5_000_000
    partition = Partition.open(tmp_path / "x")
    assert verify(partition).owned == 5_000_000
    assert partition.counts.shape == (100_000, 2)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_stopped_at_any_moment_leaves_a_whole_partition_or_none(tmp_path, how):
    save_table(tmp_path / "table.npy", 400_000)
    (tmp_path / "parts").mkdir()
    started = time.monotonic()
    subprocess.run(command(tmp_path / "table.npy", 2000, tmp_path / "parts" / "whole"), check=True, capture_output=True)
    length = time.monotonic() - started
    moments = np.random.default_rng(how).uniform(0, length, 8)
    for number, moment in enumerate(moments):
        out = tmp_path / "parts" / f"p{number}"
        process = subprocess.Popen(
            command(tmp_path / "table.npy", 2000, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moment)
        process.send_signal(how)
        process.wait()
        if out.exists():
            assert verify(Partition.open(out)).owned == 400_000
        hidden = [name for name in os.listdir(tmp_path / "parts") if name.startswith(".")]
        assert how == signal.SIGKILL or hidden == []
    subprocess.run(command(tmp_path / "table.npy", 2000, tmp_path / "parts" / "last"), check=True, capture_output=True)
    left = [name for name in os.listdir(tmp_path / "parts") if name.startswith(".")]
    assert all(name.endswith(".flctl-lock") for name in left), "only a lock of the last minute may be left"
    whole, last = (Partition.open(tmp_path / "parts" / name) for name in ("whole", "last"))
    assert whole.digest == last.digest
