"""A partition is whole or absent: full and read-only disks, limits, signals; and its memory stays bounded."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from support import slow_but
from support.stores import Owners, store, table

from flctl.data.dataset import Dataset
from flctl.errors import DataError, StorageError
from flctl.partition.store import Partition


def test_a_full_disk_leaves_nothing(tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", mounted], check=False).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        with pytest.raises(StorageError, match="No space left") as caught:
            store(mounted / "x", table(100_000))
        assert os.listdir(mounted) == []
        assert caught.value.exit_code == 1
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_read_only_disk_is_a_storage_error(tmp_path):
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", mounted], check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        with pytest.raises(StorageError, match="Read-only"):
            store(mounted / "x")
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_file_size_limit_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="too large"):
            store(tmp_path / "x", table(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


SLOW_WRITER = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from flctl.data.dataset import Dataset
    from flctl.partition.partitioner import Assignment, Partitioner
    from flctl.partition.writer import PartitionSpec, write_partition

    class Slow(Partitioner):
        name = "slow"
        def assign(self, rows, clients, rng):
            return Assignment(np.arange(rows.count) % 50, 50)
        def alter(self, x, y, client, clients, rng):
            if client == 10:
                print("midway", flush=True)
                time.sleep(600)
            return x, y

    x = np.zeros((5000, 20), np.float32)
    data = Dataset("t", "classification", x, np.zeros(5000, np.int64), ("a",))
    write_partition(Path(sys.argv[1]), data, Slow(), PartitionSpec(clients=50, test_fraction=0.2, seed=1))
"""


@pytest.mark.parametrize("how", slow_but([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], signal.SIGKILL))
def test_a_writer_stopped_midway_leaves_nothing_that_could_be_taken_for_whole(tmp_path, how):
    command = [sys.executable, "-c", textwrap.dedent(SLOW_WRITER), str(tmp_path / "x")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"midway\n"
    process.send_signal(how)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "x").exists()
    left = os.listdir(tmp_path)
    assert (left == []) == (how == signal.SIGINT)
    for name in left:
        with pytest.raises(DataError, match="not a partition"):
            Partition.open(tmp_path / name)
    store(tmp_path / "x")
    assert os.listdir(tmp_path) == ["x"], "the next run cleans up"


# Size


# VmHWM and not ru_maxrss: the memory of the process that started this one counts in the latter.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
"""
MEASURE = """
    import json, sys
    from flctl.partition.store import Partition
    partition = Partition.open(sys.argv[1])
    for client in range(10):
        partition.train(client)
    few = peak()
    for client in range(partition.clients):
        partition.train(client)
        partition.test(client)
    print(json.dumps([few, peak()]))
"""
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="a process's peak is read from /proc")


@needs_proc
def test_memory_does_not_grow_with_the_number_of_clients_read(tmp_path):
    rows = 200_000  # 64 MB of x
    dataset = Dataset("t", "regression", np.ones((rows, 80), np.float32), np.ones(rows, np.float32))
    store(tmp_path / "x", dataset, Owners(np.arange(rows) % 2000), standardise="auto")
    command = [sys.executable, "-c", PEAK + textwrap.dedent(MEASURE), str(tmp_path / "x")]
    few, many = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert many - few < 4096, f"{few} KiB after ten clients, {many} KiB after all"


@pytest.mark.slow
@needs_proc
def test_writing_holds_chunks_beside_the_data_not_copies_of_it(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        import numpy as np
        from flctl.data.dataset import Dataset
        from flctl.partition.partitioner import Assignment, Partitioner
        from flctl.partition.writer import PartitionSpec, write_partition

        class Alternate(Partitioner):
            name = "alternate"
            def assign(self, rows, clients, rng):
                return Assignment(np.arange(rows.count) % 100, 100)

        x = np.ones((300_000, 250), np.float32)
        data = Dataset("t", "classification", x, np.zeros(len(x), np.int64), ("a",))
        before = peak()
        write_partition(Path(sys.argv[1]), data, Alternate(), PartitionSpec(clients=100, test_fraction=0.2, seed=1))
        print(peak() - before)
        """
    )
    command = [sys.executable, "-c", PEAK + script, str(tmp_path / "x")]
    grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
    shutil.rmtree(tmp_path / "x")
    assert grown < 150_000, f"{grown} KiB more than the 293,000 KiB of x"
