"""Loads models for `flctl eval`, from a run's checkpoint or a weights file, with the rows to evaluate on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl.client.memory import ClientMemory, work_after
from flctl.client.memory_store import MemoryStore
from flctl.component import Catalogue
from flctl.config.config import Config, Flag
from flctl.config.load import load
from flctl.errors import ConfigError, DataError, FlctlError, IncompatibleError, counted
from flctl.evaluation.binary import Decision
from flctl.evaluation.evaluate import Evaluated, evaluate, evaluate_own_models
from flctl.evaluation.thresholds import ChosenThreshold
from flctl.evaluation.trained_rows import seen_test_rows, treat_seen_rows
from flctl.metrics import positive_code
from flctl.models.tasks import task_for
from flctl.partition.align import align
from flctl.partition.store import Partition
from flctl.run import run as runs
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.stored.weights import load_weights
from flctl.types import Arrays

if TYPE_CHECKING:
    from flctl.models.flat_model import FlatModel

__all__ = [
    "LoadedModel",
    "OwnModels",
    "assess",
    "assess_own_models",
    "from_run",
    "from_weights",
    "load_checkpoint",
    "load_own_model",
    "open_partition",
    "own_partition",
    "picked_by_test_rows",
]


@dataclass(frozen=True)
class OwnModels:
    """Clients' own models, one for each in order; `gone` is why they cannot be had."""

    models: Callable[[], Iterator[Arrays]]
    notes: tuple[str, ...] = ()
    gone: FlctlError | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model and the partition to evaluate it on, standardised as the model needs it; and beside it, where the run's
    strategy leaves them any, the clients' own."""

    name: str
    round: int | None
    model: FlatModel
    partition: Partition
    batch_size: int
    notes: tuple[str, ...] = ()
    own_models: OwnModels | None = None
    hidden_by: str | None = None
    """Name of the run's aggregator if it hides clients."""
    positive: str | None = None
    """Name of the positive one of two classes; None for the second."""
    own: Partition | None = None
    """The partition that the model was trained on, if it is there."""
    words: Mapping[str, npt.NDArray[np.str_]] = field(default_factory=dict)
    """Columns of the central test rows, as text, by which subgroups are compared."""


def open_partition(path: Path) -> Partition:
    """A partition whose bytes are what its manifest says. Raises DataError, IntegrityError or IncompatibleError."""
    partition = Partition.open(path)
    partition.verify_digests()
    return partition


def from_run(
    path: Path, checkpoint: str, data: Path | None, registry: Catalogue, trained_rows: str = "refuse"
) -> LoadedModel:
    """The model of a run's checkpoint: a round's number, "best" or "last"; on the run's own partition, or `data`.

    `trained_rows` (refuse, leave-out, keep) decides about test rows of `data` that the model was trained on. Raises
    ConfigError for what is no run or a checkpoint that it does not have, IncompatibleError where the partition is not
    the one of the run or `data` does not fit the model, IntegrityError for damaged files.
    """
    directory = RunDirectory(path)
    config = load(registry, file=directory.config_file).config
    own = own_partition(config, directory)
    if own is None and data is None:
        raise IncompatibleError(
            f"the partition that {path} was made on is not at {config.data} or {directory.facts['partition']}",
            hint="Restore it, or name a partition with --data.",
        )
    partition, notes = _chosen(own, data, trained_rows)
    model = runs.build_model(config, own or partition, registry)
    round_number = load_checkpoint(directory, checkpoint, model)
    if partition.selection == "test" and partition.digest == directory.facts["partition_digest"]:
        notes += picked_by_test_rows(directory, checkpoint)
    strategy = registry.get("strategy", config.strategy.name).from_options(dict(config.strategy.options))
    clients = None
    if strategy.personalises:
        clients = _own_models(directory, config, registry, partition if own is partition else None, round_number)
    aggregator = registry.get("aggregator", config.aggregator.name)
    return LoadedModel(
        name=str(path),
        round=round_number,
        model=model,
        partition=partition,
        batch_size=config.eval.batch_size,
        notes=notes,
        own_models=clients,
        hidden_by=aggregator.name if aggregator.hides else None,
        positive=config.eval.positive,
        own=own,
    )


def picked_by_test_rows(directory: RunDirectory, checkpoint: str) -> tuple[str, ...]:
    """Returns a note if the scores of a checkpoint on the run's own test rows are too good, because these rows picked
    it."""
    status = (directory.summary() or {}).get("status")
    if checkpoint == "best":
        what = "the round was picked by these test rows"
    elif checkpoint == "last" and status in ("target", "patience"):
        what = "these test rows decided when training stopped"
    else:
        return ()
    return (f"{what}, so its scores are too good: partition with --validation-fraction",)


def from_weights(
    path: Path,
    config: Path | None,
    flags: Mapping[str, Flag],
    overrides: Sequence[str],
    data: Path,
    registry: Catalogue,
) -> LoadedModel:
    """Weights that flctl did not train, in the model that flags, -o and `config` name, on the partition `data`.

    Raises IncompatibleError when tensors are missing, unknown or of another shape, IntegrityError for a file that
    is not safetensors.
    """
    chosen = load(registry, file=config, flags=flags, overrides=overrides).config
    partition = open_partition(data)
    model = runs.build_model(chosen, partition, registry)
    tensors, prefix = load_weights(path, model.module.state_dict().keys())
    model.load_state_dict_arrays(tensors)
    notes: tuple[str, ...] = (f"rows are standardised by the statistics of {data}",)
    notes += () if prefix is None else (f"the prefix '{prefix}' was removed from the tensors' names",)
    loaded = LoadedModel(str(path), None, model, partition, chosen.eval.batch_size, notes, own=partition)
    return replace(loaded, positive=chosen.eval.positive)


def assess(loaded: LoadedModel, batch_size: int | None = None, threshold: ChosenThreshold | None = None) -> Evaluated:
    """The subject's evaluation; `batch_size` defaults to the run's own, with which it evaluated in training.
    `threshold` decides between two classes; None: the more probable one.

    Raises DataError for a partition without test rows.
    """
    partition = loaded.partition
    if not partition.manifest.rows.central_test and not partition.manifest.rows.test:
        hint = "Partition the data with --test-fraction above 0, or name another partition with --data."
        raise DataError(f"{partition.path} has no test rows", hint=hint)
    task = task_for(partition.task, partition.target_scale)
    left_out = f"numbers over clients are left out: aggregator '{loaded.hidden_by}' hides clients (see --disclose)"
    return Evaluated(
        name=loaded.name,
        round=loaded.round,
        data=_shown(partition.path),
        partition_digest=partition.digest,
        rows_digest=_rows_digest(partition),
        classes=partition.classes,
        evaluation=evaluate(
            loaded.model, partition, task, batch_size or loaded.batch_size, _decision(loaded, threshold)
        ),
        threshold=threshold,
        notes=(*loaded.notes, left_out) if loaded.hidden_by else loaded.notes,
        withheld=loaded.hidden_by is not None,
    )


def assess_own_models(
    loaded: LoadedModel, batch_size: int | None = None, threshold: ChosenThreshold | None = None
) -> Evaluated | None:
    """The evaluation of the clients' own models, each on its client's test rows; None where there are none."""
    partition, own = loaded.partition, loaded.own_models
    if own is None or own.gone or loaded.hidden_by or not partition.manifest.rows.test:
        return None
    task, size = task_for(partition.task, partition.target_scale), batch_size or loaded.batch_size
    rows = partition.manifest.central_test == "clients"
    return Evaluated(
        name=f"{loaded.name} (personal models)",
        round=loaded.round,
        data=_shown(partition.path),
        partition_digest=partition.digest,
        rows_digest=_rows_digest(partition) if rows else f"clients of {partition.digest}",
        classes=partition.classes,
        evaluation=evaluate_own_models(loaded.model, own.models(), partition, task, size, _decision(loaded, threshold)),
        threshold=threshold,
        notes=own.notes,
        personal=True,
    )


def _own_models(
    directory: RunDirectory, config: Config, registry: Catalogue, partition: Partition | None, round_number: int
) -> OwnModels:
    """Clients' own models as of the checkpoint of round `round_number`; `partition` is the run's, None where another
    one is evaluated."""
    if partition is None:
        error = IncompatibleError(
            "clients' personal models can only be evaluated on the partition that they were trained on"
        )
        return OwnModels(lambda: iter(()), gone=error)
    run = Run.build(config, registry, partition, directory.memory)
    try:
        store = MemoryStore(directory.memory, partition.clients, run.memory_layout)
        store.require(round_number)
    except FlctlError as error:
        return OwnModels(lambda: iter(()), gone=error)
    saved = directory.checkpoints.load(round_number, run.build_model())
    client_memory = ClientMemory(run, store, run.division.private_of(saved.params))
    work = work_after(run, round_number, saved.params, saved.states["strategy"])
    _, known = store.read(np.arange(partition.clients), round_number + 1)
    without_record = int((~known).sum())
    absent = (
        f"{counted(without_record, 'client')} never took part; evaluated with a new client's initial personal model"
    )
    notes = (absent,) if without_record else ()
    return OwnModels(lambda: client_memory.models(work), notes)


def _decision(loaded: LoadedModel, threshold: ChosenThreshold | None) -> Decision:
    positive = positive_code(loaded.partition.classes, loaded.positive)
    return Decision(positive, None if threshold is None else threshold.value)


def _shown(path: Path) -> Path:
    """Returns a path relative to the current directory, if it lies below it."""
    return Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path


def own_partition(config: Config, directory: RunDirectory) -> Partition | None:
    """The run's partition, where the config names it or where it lay beside the run; None where it is gone.

    Raises IncompatibleError where only another one is there.
    """
    wrong = None
    for path in (Path(str(config.data)), directory.partition_path()):
        if not path.is_dir():
            continue
        partition = Partition.open(path)
        if partition.digest == directory.facts["partition_digest"]:
            partition.verify_digests()
            return partition
        wrong = path
    if wrong is not None:
        raise IncompatibleError(
            f"{wrong} is not the partition that {directory.path} was made on: the digest differs",
            hint="Restore that partition; to evaluate on another one, use --data.",
        )
    return None


def _chosen(own: Partition | None, data: Path | None, trained_rows: str) -> tuple[Partition, tuple[str, ...]]:
    """Returns the partition to evaluate on, and notes on it for the user."""
    if own is None or data is None:
        partition = own or open_partition(Path(str(data)))
        note = f"the run's partition is missing, so rows are standardised by the statistics of {partition.path}"
        return partition, () if own else (note,)
    partition = open_partition(data)
    if partition.digest == own.digest:
        return partition, ()
    note = f"{data} is not the training partition; its rows are standardised by the statistics of training"
    aligned = align(partition, own.manifest)  # refuses what does not fit before rows are compared
    fewer, found = treat_seen_rows(partition, seen_test_rows(own, partition), trained_rows, str(data))
    return (aligned if fewer is partition else align(fewer, own.manifest)), (note, *found)


def load_own_model(
    directory: RunDirectory, config: Config, registry: Catalogue, client: str, round_number: int, model: FlatModel
) -> None:
    """Loads the own model that `client` has after round `round_number`.

    Raises IncompatibleError if the run's partition is gone or clients' memory of that round is, DataError for a
    client that is not there.
    """
    partition = own_partition(config, directory)
    if partition is None:
        raise IncompatibleError(
            f"clients' personal models need the partition that {directory.path} was trained on, and it is missing",
            hint=f"Restore it at {directory.facts['partition']}.",
        )
    index = partition.index(client)
    run = Run.build(config, registry, partition, directory.memory)
    store = MemoryStore(directory.memory, partition.clients, run.memory_layout)
    store.require(round_number)
    saved = directory.checkpoints.load(round_number, model)
    client_memory = ClientMemory(run, store, run.division.private_of(saved.params))
    model.load(client_memory.model(work_after(run, round_number, saved.params, saved.states["strategy"]), index))


def load_checkpoint(directory: RunDirectory, which: str, model: FlatModel) -> int:
    """Loads a checkpoint: a round's number, "best" or "last". Returns the round."""
    saved = directory.checkpoints.rounds()
    if not saved:
        raise ConfigError(f"{directory.path} has no checkpoint yet", hint="Train until the end of a round.")
    round_number = saved[-1]
    if which.isdecimal():
        round_number = int(which)
    elif which == "best":
        round_number = _best(directory, model, saved[-1])
    elif which != "last":
        raise ConfigError(f"--checkpoint {which} is not a round", hint="Use a round's number, best or last.")
    if round_number not in saved:
        shown = ", ".join(map(str, saved if len(saved) <= 12 else [*saved[:5], "...", *saved[-6:]]))
        raise ConfigError(
            f"{directory.path} has no checkpoint of round {round_number}", hint=f"Available rounds: {shown}."
        )
    directory.checkpoints.load(round_number, model)
    return round_number


def _best(directory: RunDirectory, model: FlatModel, last: int) -> int:
    best = directory.checkpoints.load(last, model).progress.get("best_round")
    if best is None:
        raise ConfigError(f"{directory.path} has no best round: nothing was evaluated", hint="Use --checkpoint last.")
    return int(best)


def _rows_digest(partition: Partition) -> str:
    """Equal for partitions whose central test rows are the same in the same order."""
    columns = partition.manifest.columns
    own = partition.manifest.central_test == "own"
    files = ("test_x", "test_y") if own else ("x", "y", "bounds")
    return hashlib.sha256("".join(columns[name].sha256 for name in files).encode()).hexdigest()
