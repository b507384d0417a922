"""Trains the baselines of a run, one after the other, and keeps each one's outcomes on the run's test rows.

`RUN/baselines.json` names the finished ones, with a digest of all that they depend on: these are not trained again. One
that was cut off is a run directory under `RUN/baselines/`, and goes on from its checkpoint.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flctl import atomic
from flctl.baselines.outcome_files import Rows, read_outcomes, write_outcomes
from flctl.baselines.plan import Baseline, key_of
from flctl.config.config import digest
from flctl.config.load import Loaded
from flctl.errors import IncompatibleError
from flctl.evaluation.evaluate import run_model
from flctl.json_files import JsonFormat
from flctl.partition.reassigned import reassign
from flctl.partition.store import Partition
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from flctl.types import Batch, IntArray

__all__ = ["BASELINES", "Finished", "ScoredRows", "Store", "partition_of", "scored_rows", "train_baselines"]

BASELINES, FOLDER, FORMAT = "baselines.json", "baselines", "flctl-baselines/1"
_DESCRIBED = JsonFormat(FORMAT, "Move it to another folder: the baselines are then trained again.")


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Test rows of a run: (x, y) and offsets [K + 1] by client; None if each client is scored on the central rows."""

    rows: Batch
    offsets: IntArray | None

    def of(self, index: int) -> slice:
        """Rows that client `index` is scored on."""
        if self.offsets is None:
            return slice(0, len(self.rows[1]))
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


def partition_of(run: Run) -> Partition:
    """The run's partition. Raises IncompatibleError if its rows are not on this machine."""
    if not isinstance(run.partition, Partition):
        hint = "Baselines pool rows: train on a partition of one machine to compare."
        raise IncompatibleError("the rows of this run are with their owners, not on this machine", hint=hint)
    return run.partition


def scored_rows(partition: Partition) -> ScoredRows:
    """The clients' own test rows; the central ones if clients have none."""
    if not partition.manifest.rows.test:
        return ScoredRows(partition.central_test(), None)
    x, y, offsets = partition.test_bounds()
    return ScoredRows((x, y), offsets)


@dataclass(frozen=True, slots=True)
class Finished:
    """Entry of a finished baseline: key, file of outcomes with its SHA-256, rounds, training rows, seconds."""

    key: str
    file: str
    sha256: str
    rounds: int
    rows: int
    seconds: float


class Store:
    """Finished baselines of a run on disk."""

    def __init__(self, run: Path) -> None:
        self.path, self.folder = run / BASELINES, run / FOLDER
        self._data = _read(self.path)

    def get(self, name: str, key: str) -> Rows | None:
        """Outcomes of a finished baseline; None if it has to be trained."""
        found = self._data["finished"].get(name)
        if not isinstance(found, dict) or found.get("key") != key:
            return None
        return read_outcomes(self.folder / Path(str(found["file"])).name, str(found["sha256"]))

    def keep(self, name: str, entry: Finished) -> None:
        """Records a finished baseline."""
        self._data["finished"][name] = asdict(entry)
        self._write()

    def conclude(self, result: Mapping[str, Any]) -> None:
        """Records the comparison."""
        self._data["result"] = json.loads(json.dumps(result))
        self._write()

    def _write(self) -> None:
        atomic.write_file(self.path, (json.dumps(self._data, indent=1, allow_nan=False) + "\n").encode())


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"format": FORMAT, "finished": {}}
    data = _DESCRIBED.read(path)
    if not isinstance(data.get("finished"), dict):
        raise _DESCRIBED.damaged(str(path), "it has no 'finished'")
    return data


def train_baselines(
    run: Run,
    baselines: Sequence[Baseline],
    store: Store,
    interrupted: Callable[[], bool],
    report: Callable[[str], None],
) -> dict[str, Rows] | None:
    """The outcomes of each baseline by name, on the rows that it is scored on: pooled on all, others on their client's.

    Returns None if `interrupted()`; a later call goes on from there. `report(name)` is called after each
    that was trained. Raises IncompatibleError if rows are not on this machine.
    """
    scored, found = scored_rows(partition_of(run)), {}
    for baseline in baselines:
        name, key = baseline.reassignment.name, key_of(baseline, run.partition.digest)
        outcomes = store.get(name, key)
        if outcomes is None:
            outcomes = _trained(run, baseline, scored, store, interrupted)
            if outcomes is None:
                return None
            report(name)
        found[name] = outcomes
    return found


def _trained(
    run: Run, baseline: Baseline, scored: ScoredRows, store: Store, interrupted: Callable[[], bool]
) -> Rows | None:
    started, name = time.monotonic(), baseline.reassignment.name
    folder = store.folder / name
    partition = reassign(partition_of(run), baseline.reassignment)
    directory = _directory(folder, baseline, partition)
    small = Run.build(baseline.config, run.registry, partition, directory.memory)
    result = train(small, directory, interrupted=interrupted)
    if result.status == "interrupted":
        return None
    outcomes = _outcomes(small, directory, baseline, scored)
    file = f"{name}.npz"
    sha256 = write_outcomes(store.folder / file, outcomes)
    rows, seconds = partition.manifest.rows.train, round(time.monotonic() - started, 3)
    store.keep(name, Finished(key_of(baseline, run.partition.digest), file, sha256, result.rounds, rows, seconds))
    shutil.rmtree(folder)
    return outcomes


def _directory(folder: Path, baseline: Baseline, partition: Partition) -> RunDirectory:
    """The run directory of a baseline: that of one that was cut off, or a new one."""
    if (folder / "run.json").is_file():
        directory = RunDirectory(folder)
        same = (digest(baseline.config), partition.digest)
        if (directory.facts["config_digest"], directory.facts["partition_digest"]) == same:
            return directory
    if folder.exists():
        shutil.rmtree(folder)
    return RunDirectory.create(folder, Loaded(baseline.config, {}), partition)


def _outcomes(small: Run, directory: RunDirectory, baseline: Baseline, scored: ScoredRows) -> Rows:
    model = small.build_model()
    directory.checkpoints.load(directory.checkpoints.rounds()[-1], model)
    where = slice(None) if baseline.reassignment.kind == "pooled" else scored.of(baseline.reassignment.index)
    x, y = (part[where] for part in scored.rows)
    size = small.config.eval.batch_size
    return run_model(model, small.task(), np.asarray(x), np.asarray(y), size, keep_scores=True)
