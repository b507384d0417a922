"""The floor: the loop that one would write by hand, in processes that are started once.

`Floor` keeps the processes; `Floor.open` gives a `FloorJob`, which plays the rounds that were written for it and ends
at a model [D] that can be compared. The same clients, rows, batches and order as flctl, written down beforehand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.floor_worker import Job
from harness.processes import environment, module_command

__all__ = ["Floor", "FloorJob", "memory_folder"]

MEMORY_FILES, ROOM_BYTES = Path("/dev/shm"), 1 << 30


def memory_folder(needed: int) -> Path | None:
    """Where files lie in memory, if there is room for so many bytes; containers often have little."""
    roomy = os.access(MEMORY_FILES, os.W_OK) and shutil.disk_usage(MEMORY_FILES).free > 2 * needed
    return MEMORY_FILES if roomy else None


class Floor:
    """Processes of one thread each, which wait on a pipe between rounds; a context, which ends them."""

    def __init__(self, processes: int = 2) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=memory_folder(ROOM_BYTES))
        self.folder = Path(self._folder.name)
        self._processes = [
            subprocess.Popen(
                module_command("floor_worker", str(number)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1"),
                text=True,
            )
            for number in range(processes)
        ]
        self._hear("ready")
        self._jobs = 0

    def __enter__(self) -> Floor:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
        self._folder.cleanup()

    def open(self, start: npt.NDArray[np.float32], **fields: Any) -> FloorJob:
        """A job from the model `start` [D]; `fields` are those of `floor_worker.Job`."""
        folder = self.folder / f"job-{self._jobs}"
        folder.mkdir()
        self._jobs += 1
        job = Job(str(folder), parameters=len(start), processes=len(self._processes), **fields)
        return FloorJob(self, job, start)

    def order(self, do: str, **details: Any) -> None:
        """Tells every process, and waits until all have done it. Raises RuntimeError when one ended."""
        line = json.dumps({"do": do, **details}) + "\n"
        for process in self._processes:
            process.stdin.write(line)  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        self._hear("done")

    def _hear(self, word: str) -> None:
        for process in self._processes:
            heard = process.stdout.readline().strip()  # type: ignore[union-attr]
            if heard != word:
                raise RuntimeError(f"a process of the floor said {heard!r}, expected {word!r}")


class FloorJob:
    """One training on the floor; `play` is what is timed."""

    def __init__(self, floor: Floor, job: Job, start: npt.NDArray[np.float32]) -> None:
        self.floor, self.job, self.round = floor, job, 0
        self.model = self._mapped("model", 1)[0]
        self.partial = self._mapped("partial", job.processes)
        if job.scaffold:
            self.control = self._mapped("control", 1)[0]
            self.controls = self._mapped("controls", job.clients)
            self.control_partial = self._mapped("control_partial", job.processes)
        self.model[:] = start
        fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
        floor.order("open", **fields)

    def _mapped(self, name: str, rows: int) -> npt.NDArray[np.float32]:
        shape = (rows, self.job.parameters)
        return np.memmap(Path(self.job.folder) / f"{name}.bin", np.float32, "w+", shape=shape)

    def prepare(self, rounds: Sequence[int]) -> None:
        """Has the processes read the plans of rounds, which lie beside the data as `round-N.npz`."""
        self.floor.order("prepare", folder=self.job.folder, rounds=list(rounds))

    def play(self, count: int) -> float:
        """Seconds that the next `count` rounds take."""
        started = time.perf_counter()
        for _ in range(count):
            self.round += 1
            self.floor.order("play", folder=self.job.folder, number=self.round)
            self._step()
        return time.perf_counter() - started

    def _step(self) -> None:
        if self.job.clip is None:
            np.sum(self.partial, axis=0, out=self.model)
        else:
            self.model += self.partial.sum(axis=0)
        if self.job.scaffold:
            self.control += self.control_partial.sum(axis=0) / np.float32(self.job.clients)

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D] after the rounds played so far."""
        return np.array(self.model)

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Takes `model` [D] for the global one."""
        self.model[:] = model

    def close(self) -> None:
        """Has the processes forget the job and its data, and removes what they shared."""
        self.floor.order("close", folder=self.job.folder)
        shutil.rmtree(self.job.folder)
