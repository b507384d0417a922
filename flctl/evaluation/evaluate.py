"""A model on test rows: central, federated (every client's own rows) and per client.

The model runs once over all rows in large batches, as many at a time as there are cores, and clients are slices of the
result: 100,000 clients cost no more than their rows. Which rows share a batch, and what ran beside it, does not matter
to a model in evaluation mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.evaluation.binary import Decision, decided
from flctl.evaluation.client_metrics import client_scores
from flctl.evaluation.intervals import Interval
from flctl.evaluation.metrics import Scores, quick_score, score
from flctl.evaluation.outcomes import ClassificationOutcomes, RegressionOutcomes, concatenate, outcomes_of
from flctl.evaluation.spread import PARTS, spread
from flctl.evaluation.thresholds import ChosenThreshold
from flctl.machine import cores
from flctl.metrics import METRICS, Headline, headline
from flctl.types import PADDING, Batch, FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task
    from flctl.partition.view import PartitionView
    from flctl.types import Arrays

__all__ = [
    "BATCH",
    "ClientScores",
    "Evaluation",
    "Measured",
    "central",
    "clients",
    "evaluate",
    "evaluate_own_models",
    "evaluating",
    "on_all_cores",
    "run_model",
    "spread_of_own_models",
    "spread_over_clients",
    "tensor_of",
]

BATCH = 1000
COPIED = 10_000_000
"""Parameters up to which a module is copied for each thread."""
MOST_THREADS = 8
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ClientScores:
    """Metric -> one value per client [K]; a client without test rows has NaN. `sizes` [K] are all rows of each
    client, for training, validation and testing; `rows` [K] its test rows."""

    client_ids: Sequence[str]
    sizes: IntArray
    rows: IntArray
    values: Mapping[str, FloatArray]

    @property
    def without_rows(self) -> tuple[str, ...]:
        """The clients that have no test rows, and so no say in any mean."""
        return tuple(str(self.client_ids[int(index)]) for index in np.flatnonzero(self.rows == 0))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one partition: the scores, and the outcomes that they were computed from.

    `pooled` says that the central test set is the union of the clients' test rows. `headline` is the metric that stands
    first, and `decision` the rule that predicts one of two classes.
    """

    central: Scores
    clients: ClientScores
    central_outcomes: ClassificationOutcomes | RegressionOutcomes
    client_outcomes: ClassificationOutcomes | RegressionOutcomes
    pooled: bool
    headline: Headline
    decision: Decision = field(default_factory=Decision)


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics of an evaluated round beside those of `quick_score`: `classes` name the codes, and `positive` is the
    code of the positive one of two."""

    classes: Sequence[str] = ()
    extra: tuple[str, ...] = ()
    positive: int = 1


NOTHING_MORE, MORE_PROBABLE = Measured(), Decision()


def run_model(
    model: FlatModel, task: Task, x: Array, y: Array, batch_size: int = BATCH, *, keep_scores: bool = False
) -> ClassificationOutcomes | RegressionOutcomes:
    """Evaluates a model on rows x [n, ...], y [n] or [n, window] and returns each row's outcome.

    Restores the module's mode and the process's thread count. `keep_scores` keeps each row's log-probabilities
    (for AUROC).
    """

    def outcomes(module: Module, start: int) -> Any:
        rows = slice(start, start + batch_size)
        predicted = module(tensor_of(x[rows])).numpy()
        return outcomes_of(task.name, predicted, y[rows], task.target_scale, keep_scores=keep_scores)

    # Zero rows still make one (empty) batch, so that the outcomes have their kind and columns.
    starts = range(0, max(1, len(y)), batch_size)
    with evaluating(model):
        joined: ClassificationOutcomes | RegressionOutcomes = concatenate(on_all_cores(model, outcomes, starts))
    return joined


def on_all_cores(model: FlatModel, outcomes: Callable[[Module, int], Any], starts: Sequence[int]) -> list[Any]:
    """Yields the batches' outcomes in order. Batches run side by side, each thread with its own copy of the module,
    which may keep state."""
    import torch

    alone = len(starts) == 1 or sum(model.layout.values()) > COPIED
    threads = 1 if alone else min(cores(), len(starts), MOST_THREADS)
    modules = [model.module, *_copies(model.module, threads - 1)]
    threads = len(modules)

    def share(thread: int) -> list[Any]:
        with torch.inference_mode():  # holds for its own thread
            return [outcomes(modules[thread], start) for start in starts[thread::threads]]

    if threads == 1:  # as for each of many clients' few rows
        return share(0)
    with ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(share, range(threads)))
    return [shares[batch_index % threads][batch_index // threads] for batch_index in range(len(starts))]


def _copies(module: Module, count: int) -> list[Module]:
    """Returns `count` copies; an empty list if the module cannot be copied, as one with a lock."""
    try:
        return [copy.deepcopy(module) for _ in range(count)]
    except Exception:  # whatever the module's own parts raise
        return []


def central(
    model: FlatModel, rows: Batch, task: Task, batch_size: int = BATCH, measured: Measured = NOTHING_MORE
) -> dict[str, float]:
    """The cheap metrics of `metrics.quick_score`, and those of `measured`, on the central test rows (x, y)."""
    outcomes = run_model(model, task, *rows, batch_size, keep_scores=bool(measured.extra))
    found = quick_score(outcomes)
    if any(name not in found for name in measured.extra):
        values = score(outcomes, measured.classes, measured.positive).values
        found |= {name: values[name] for name in measured.extra}
    return found


def clients(
    model: FlatModel, partition: PartitionView, task: Task, batch_size: int = BATCH, positive: int = 1
) -> ClientScores:
    """Each client's metrics on its own test rows, one pass over all of them; `fairness.spread` sums them up."""
    x, y, offsets = partition.test_bounds()
    return _client_scores(partition, run_model(model, task, x, y, batch_size, keep_scores=True), offsets, positive)


def evaluate(
    model: FlatModel,
    partition: PartitionView,
    task: Task,
    batch_size: int = BATCH,
    decision: Decision = MORE_PROBABLE,
) -> Evaluation:
    """Every metric, centrally and per client; one pass where the central test set is the clients' own rows."""
    x, y, offsets = partition.test_bounds()
    own = run_model(model, task, x, y, batch_size, keep_scores=True)
    pooled = partition.manifest.central_test == "clients"
    middle = own if pooled else run_model(model, task, *partition.central_test(), batch_size, keep_scores=True)
    own = decided(own, decision)
    return _evaluation(partition, task, own if pooled else decided(middle, decision), (own, offsets), decision)


def evaluate_own_models(
    model: FlatModel,
    models: Iterable[Arrays],
    partition: PartitionView,
    task: Task,
    batch_size: int = BATCH,
    decision: Decision = MORE_PROBABLE,
) -> Evaluation:
    """Every metric of clients' own models, of which `models` has one for each client in order; the central ones are
    over all clients' rows together. `model` is left as the last of them."""
    own, offsets = _run_own(model, models, partition, task, batch_size)
    own = decided(own, decision)
    return _evaluation(partition, task, own, (own, offsets), decision)


def _evaluation(
    partition: PartitionView,
    task: Task,
    middle: ClassificationOutcomes | RegressionOutcomes,
    own: tuple[ClassificationOutcomes | RegressionOutcomes, IntArray],
    decision: Decision,
) -> Evaluation:
    classes = partition.classes
    return Evaluation(
        central=score(middle, classes, decision.positive),
        clients=_client_scores(partition, *own, decision.positive),
        central_outcomes=middle,
        client_outcomes=own[0],
        pooled=middle is own[0],
        headline=headline(task.name, classes, _class_counts(middle, len(classes))),
        decision=decision,
    )


def _class_counts(outcomes: ClassificationOutcomes | RegressionOutcomes, classes: int) -> list[int]:
    if isinstance(outcomes, RegressionOutcomes):
        return []
    counts: list[int] = np.bincount(outcomes.truth[outcomes.truth != PADDING], minlength=classes).tolist()
    return counts


def spread_over_clients(
    model: FlatModel, partition: PartitionView, task: Task, batch_size: int = BATCH, measured: Measured = NOTHING_MORE
) -> dict[str, float]:
    """Metrics over clients: the task's usual one and those of `measured` that clients have, as `accuracy_mean`,
    `accuracy_worst_decile` and `accuracy_best_decile`."""
    return _spread(clients(model, partition, task, batch_size, measured.positive), task, measured)


def spread_of_own_models(
    model: FlatModel,
    models: Iterable[Arrays],
    partition: PartitionView,
    task: Task,
    batch_size: int = BATCH,
    measured: Measured = NOTHING_MORE,
) -> dict[str, float]:
    """As `spread_over_clients`, each client's rows by its own model: `personal_accuracy_mean` and so on."""
    scores = _client_scores(partition, *_run_own(model, models, partition, task, batch_size), measured.positive)
    return {f"personal_{name}": value for name, value in _spread(scores, task, measured).items()}


def _run_own(
    model: FlatModel, models: Iterable[Arrays], partition: PartitionView, task: Task, batch_size: int
) -> tuple[ClassificationOutcomes | RegressionOutcomes, IntArray]:
    """Evaluates each client's own model on its test rows; returns the outcomes and the clients' offsets [K + 1]."""
    x, y, offsets = partition.test_bounds()
    parts: list[Any] = [run_model(model, task, x[:0], y[:0], batch_size, keep_scores=True)]
    for arrays, (start, stop) in zip(models, pairwise(offsets.tolist()), strict=True):
        if stop > start:
            model.load(arrays)
            parts.append(run_model(model, task, x[start:stop], y[start:stop], batch_size, keep_scores=True))
    joined: ClassificationOutcomes | RegressionOutcomes = concatenate(parts)
    return joined, offsets


def _spread(scores: ClientScores, task: Task, measured: Measured) -> dict[str, float]:
    names = dict.fromkeys((headline(task.name).metric, *measured.extra))
    result: dict[str, float] = {}
    for name in (name for name in names if name in scores.values):
        higher = METRICS[name].higher_is_better
        found = spread(scores.values[name], scores.rows.astype(np.float64), higher_is_better=higher)
        result |= {f"{name}_{part}": float(getattr(found, part)) for part in PARTS}
    return result


def _client_scores(
    partition: PartitionView,
    outcomes: ClassificationOutcomes | RegressionOutcomes,
    offsets: IntArray,
    positive: int = 1,
) -> ClientScores:
    return ClientScores(
        client_ids=partition.client_ids,
        sizes=partition.counts.sum(axis=1) + partition.validation_counts,
        rows=np.diff(offsets),
        values=client_scores(outcomes, offsets, positive),
    )


@contextmanager
def evaluating(model: FlatModel) -> Iterator[None]:
    """Evaluation mode, and one thread in each operation, so that sums inside the model have one order."""
    import torch

    training, threads = model.module.training, torch.get_num_threads()
    torch.set_num_threads(1)
    model.module.eval()
    try:
        yield
    finally:
        model.module.train(training)
        torch.set_num_threads(threads)


def tensor_of(rows: Array) -> Tensor:
    """The rows as a tensor, copied only if torch cannot share their memory."""
    import torch

    rows = np.ascontiguousarray(rows)
    return torch.from_numpy(rows if rows.flags.writeable else rows.copy())


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model's evaluation and what it was of: the run's (or file's) name, the round, the partition and its
    classes. Models of equal `rows_digest` were scored on the same central rows in the same order. `personal`: each
    client's rows were scored by its own model. `withheld`: numbers over clients are not shown, because the run's
    aggregator hides clients."""

    name: str
    round: int | None
    data: Path
    partition_digest: str
    rows_digest: str
    classes: Sequence[str]
    evaluation: Evaluation
    notes: tuple[str, ...] = ()
    personal: bool = False
    withheld: bool = False
    threshold: ChosenThreshold | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Metric -> interval, of the central test rows."""
