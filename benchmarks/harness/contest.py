"""Rounds of flctl against the floor, on one workload, in the same minutes, to the same model."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.partition.store import Partition
from flctl.run.run import Run
from harness.flctl_rounds import build_run, executor_of, opened, write_data, write_rounds
from harness.floor import Floor, FloorJob
from harness.measurement import Check, paired
from harness.workloads import Workload, make_partition

__all__ = ["FLOOR", "LEAN", "OURS", "OURS_ALONE", "PLAIN", "Amount", "Contest", "Session"]

FLOOR, LEAN, PLAIN = "floor", "lean floor", "plain floor"
OURS, OURS_ALONE = "flctl", "flctl, one process"


@dataclass(frozen=True, slots=True)
class Contest:
    """Seconds a round of each contender by block, that they ended at the same model, which executor flctl chose, and
    its seconds a round by phase."""

    times: Mapping[str, Sequence[float]]
    check: Check
    executor: str
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Amount:
    """How often to measure: `blocks` of `rounds` rounds each, and flctl in so many worker processes."""

    blocks: int
    rounds: int
    workers: int = 2
    alone: bool = True
    """Whether flctl in one process takes part too."""

    @property
    def played(self) -> int:
        """Rounds that each contender plays, the one that warms up included."""
        return self.blocks * self.rounds + 1


class Session:
    """The floor's processes and a folder for partitions and runs; a context, which ends and removes them."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = ExitStack()
        self._partitions: dict[Workload, Partition] = {}
        self._runs = 0

    def __enter__(self) -> Session:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was made is removed
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self.floor = self._stack.enter_context(Floor())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def partition(self, workload: Workload) -> Partition:
        """The workload's partition, made once."""
        if workload not in self._partitions:
            path = self.folder / f"parts-{len(self._partitions)}"
            self._partitions[workload] = make_partition(workload, path, real=not self.quick)
            write_data(self._partitions[workload], path / "data")
        return self._partitions[workload]

    def run(self, workload: Workload, settings: Sequence[str], workers: int, executor: str | None) -> Run:
        """A run of the workload in a new directory."""
        self._runs += 1
        folder = self.folder / f"run-{self._runs}"
        named = [*workload.settings(), *settings]
        return build_run(self.partition(workload), folder, named, workers=workers, executor=executor)

    def contest(
        self,
        workload: Workload,
        amount: Amount,
        settings: Sequence[str] = (),
        variant: Mapping[str, Any] | None = None,
        executor: str | None = None,
    ) -> Contest:
        """Plays flctl with `settings` against the floor with the same algorithm (`variant`, fields of the floor's
        `Job`), and against another floor: the lean one for plain FedAvg, the plain one for anything else."""
        run = self.run(workload, settings, amount.workers, executor)
        start = run.build_model().read()["params"]
        self.write_rounds(run, amount)
        kinds = {FLOOR: dict(variant or {})} | ({PLAIN: {}} if variant else {LEAN: {"kind": "lean"}})
        floors = {name: self.job(workload, run, start, fields, self.floor) for name, fields in kinds.items()}
        for job in floors.values():
            job.prepare(range(1, amount.played + 1))
        with ExitStack() as stack:
            ours = {OURS: stack.enter_context(opened(run))}
            if amount.alone:
                alone = self.run(workload, settings, 1, executor)
                ours[OURS_ALONE] = stack.enter_context(opened(alone))
            times, check = paired({**floors, **ours}, amount.blocks, amount.rounds, start, [PLAIN], workload.tolerance)
            phases = {name: seconds / amount.played for name, seconds in ours[OURS].phases.items()}
            contest = Contest(times, check, executor_of(ours[OURS]), phases)
        for job in floors.values():
            job.close()
        return contest

    def write_rounds(self, run: Run, amount: Amount) -> None:
        """Writes down what the floor is to play."""
        write_rounds(run, run.partition.path / "data", range(1, amount.played + 1))

    def job(
        self,
        workload: Workload,
        run: Run,
        start: npt.NDArray[np.float32],
        fields: Mapping[str, Any],
        floor: Floor,
    ) -> FloorJob:
        """A job of a floor on the run's data."""
        return floor.open(
            start,
            data=str(run.partition.path / "data"),
            model=workload.model,
            options=workload.options,
            clients=workload.clients,
            lr=workload.lr,
            batch_size=workload.batch_size,
            **fields,
        )
