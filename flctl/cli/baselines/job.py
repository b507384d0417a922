"""Work of `flctl baselines`: checks, training of what is missing, comparison, files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flctl import atomic
from flctl.baselines.outcome_files import Rows, rows_of
from flctl.baselines.plan import Baseline, Budget, budget_of, is_private, plan
from flctl.baselines.training import ScoredRows, Store, partition_of, scored_rows, train_baselines
from flctl.cli import output
from flctl.cli.failures import InterruptionError, TerminationError
from flctl.cli.session import current_registry
from flctl.cli.signals import StopSignals, receiving
from flctl.config.load import load
from flctl.errors import ConfigError, DataError, IncompatibleError, command_line, counted, suggest
from flctl.evaluation.evaluate import evaluate_own_models, run_model
from flctl.metrics import higher_is_better
from flctl.partition.reassigned import Kind
from flctl.partition.store import Partition
from flctl.report.baselines import ComparedClient, ComparedClients, compare_clients, write_client_table
from flctl.report.baselines_picture import draw_baselines
from flctl.report.figure import format_of
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.stored.load import LoadedModel, from_run, own_partition

__all__ = ["BaselineComparison", "BaselinesRequest", "kinds_of", "run"]

KINDS: dict[str, Kind] = {"alone": "alone", "pooled": "pooled", "leave-one-out": "left-out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselinesRequest:
    """The arguments of `flctl baselines`."""

    run: Path
    data: Path | None
    kinds: tuple[Kind, ...]
    clients: str | None
    limit: int
    rounds: int | None
    checkpoint: str
    metric: str | None
    csv: Path | None
    picture: Path | None
    yes: bool


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A run beside its baselines; `own_rows` is True if each client was scored on its own test rows."""

    run: Path
    round: int
    partition_digest: str
    budget: Budget
    own_rows: bool
    compared: ComparedClients
    notes: tuple[str, ...]
    written: tuple[Path, ...]

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope and of baselines.json."""
        return {
            "run": str(self.run),
            "round": self.round,
            "partition_digest": self.partition_digest,
            "budget": asdict(self.budget),
            "test_rows": "clients" if self.own_rows else "central",
            **self.compared.data(),
            "notes": list(self.notes),
            "written": [str(path) for path in self.written],
        }


def kinds_of(text: str) -> tuple[Kind, ...]:
    """The kinds that `--only` names. Raises ConfigError for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KINDS:
            hint = suggest(name, KINDS) or f"There are {', '.join(KINDS)}."
            raise ConfigError(f"--only {name} is no kind of baseline", hint=hint)
    if not names:
        raise ConfigError("--only names no kind of baseline", hint=f"There are {', '.join(KINDS)}.")
    return tuple(KINDS[name] for name in dict.fromkeys(names))


def run(request: BaselinesRequest) -> BaselineComparison:
    """Trains the baselines that are missing and compares. Raises FlctlError."""
    _refuse_early(request)
    run, loaded = _opened(request)
    notes = _privacy(run, request)
    partition = partition_of(run)
    scored = scored_rows(partition)
    if not len(scored.rows[1]):
        hint = "Partition with --test-fraction above 0, and train again."
        raise DataError(f"{partition.path} has no test rows to compare on", hint=hint)
    clients, chosen = _clients(partition, scored, request)
    budget = budget_of(run, int(loaded.round or 0), request.rounds)
    baselines = plan(run, budget, request.kinds, clients)
    store = Store(request.run)
    found = _trained(run, baselines, store, request)
    federated = _federated(loaded, scored)
    subjects = [_subject(partition, index, scored, found, federated) for index in clients]
    compared = compare_clients(subjects, request.metric or run.metric, len(partition.classes), run.positive)
    written = tuple(path for path in (request.csv, request.picture) if path is not None)
    facts = (request.run, budget.run_rounds, partition.digest, budget, scored.offsets is not None)
    result = BaselineComparison(*facts, compared, (*notes, *chosen), written)
    _write(request, compared)
    store.conclude(result.data())
    return result


def _refuse_early(request: BaselinesRequest) -> None:
    if request.metric is not None:
        higher_is_better(request.metric)
    if request.picture is not None:
        format_of(request.picture)
    for path in filter(None, (request.csv, request.picture)):
        atomic.refuse_existing(path)


def _opened(request: BaselinesRequest) -> tuple[Run, LoadedModel]:
    """The run's objects and its model. Raises IncompatibleError for a partition that is not the run's."""
    directory, registry = RunDirectory(request.run), current_registry()
    config = load(registry, file=directory.config_file).config
    given = None if request.data is None else Partition.open(request.data)
    if given is not None and given.digest != directory.facts["partition_digest"]:
        raise IncompatibleError(
            f"{request.data} is not the partition that {request.run} was trained on: the digest differs",
            hint="Use the run's own partition, or train a run on this one.",
        )
    if given is not None:
        given.verify_digests()
    partition = given or own_partition(config, directory)
    if partition is None:
        hint = command_line("flctl", "baselines", "PART", "--like", request.run)
        raise IncompatibleError(f"the partition of {request.run} is not at {config.data}", hint=f"Name it: {hint}")
    loaded = from_run(request.run, request.checkpoint, request.data, registry)
    if not loaded.round:
        raise ConfigError(f"{request.run} has not finished a round yet", hint="Let it train first.")
    return Run.build(config, registry, partition, directory.memory), loaded


def _privacy(run: Run, request: BaselinesRequest) -> tuple[str, ...]:
    """A note for the baselines of a private run. Raises IncompatibleError without `--yes`."""
    if not is_private(run):
        return ()
    protection = list(run.transforms) + ([run.aggregator.name] if run.aggregator.hides else [])
    sentence = f"baselines are not private: they train and show single clients without {', '.join(protection)}"
    if not request.yes:
        raise IncompatibleError(
            f"{request.run}: {sentence}",
            hint="Add --yes if you may see that, as in a simulation on your own data.",
        )
    if run.transforms and "left-out" in request.kinds:
        raise IncompatibleError(
            f"leave-one-out would train {request.run} again for each client, and each is charged to its privacy",
            hint="Use --only alone,pooled.",
        )
    output.warn(sentence)
    return (sentence,)


def _clients(partition: Partition, scored: ScoredRows, request: BaselinesRequest) -> tuple[list[int], tuple[str, ...]]:
    """The clients to compare, by index, and a note if they are not all."""
    tested = np.ones(partition.clients, bool) if scored.offsets is None else np.diff(scored.offsets) > 0
    if request.clients is not None:
        named = [partition.index(name.strip()) for name in request.clients.split(",") if name.strip()]
        without = [partition.client_ids[index] for index in named if not tested[index]]
        if without or not named:
            raise DataError(f"--clients: {', '.join(without) or 'none'} without test rows", hint="Name other clients.")
        return sorted(set(named)), ()
    eligible = np.flatnonzero(tested & (partition.counts[:, 0] > 0))
    left_out = partition.clients - len(eligible)
    notes = (f"{counted(left_out, 'client')} without training or test rows left out",) if left_out else ()
    if not len(eligible):
        raise DataError("no client has training and test rows", hint="Partition with --test-fraction above 0.")
    if len(eligible) <= request.limit:
        return eligible.tolist(), notes
    by_size = eligible[np.argsort(partition.counts[eligible, 0], kind="stable")]
    picked = by_size[np.unique(np.linspace(0, len(by_size) - 1, request.limit).round().astype(int))]
    note = f"{len(picked):,} of {counted(len(eligible), 'client')}, evenly by size (see --clients, --limit)"
    output.note(note)
    return sorted(picked.tolist()), (*notes, note)


def _trained(run: Run, baselines: Sequence[Baseline], store: Store, request: BaselinesRequest) -> Mapping[str, Rows]:
    total, order = len(baselines), {one.reassignment.name: position for position, one in enumerate(baselines, 1)}

    def report(name: str) -> None:
        kind, _, index = name.rpartition("-")
        label = f"{kind} {run.partition.client_ids[int(index)]}" if kind else name
        output.note(f"baseline {order[name]}/{total}  {label}")

    signals = StopSignals()
    with receiving(signals):
        found = train_baselines(run, baselines, store, lambda: bool(signals.seen), report)
    if found is None:
        kind = InterruptionError if signals.seen[0] == signal.SIGINT else TerminationError
        raise kind(
            f"stopped before all of {counted(total, 'baseline')} were trained; finished ones are kept",
            hint=f"Go on with: {command_line('flctl', *sys.argv[1:])}",
        )
    return found


def _federated(loaded: LoadedModel, scored: ScoredRows) -> Mapping[str, Rows]:
    """Outcomes of the run's model, and of the clients' own models if the strategy leaves them any, on all rows."""
    from flctl.models.tasks import task_for

    partition = loaded.partition
    task = task_for(partition.task, partition.target_scale)
    found: dict[str, Rows] = {
        "federated": run_model(loaded.model, task, *scored.rows, loaded.batch_size, keep_scores=True)
    }
    own = loaded.own_models
    if own is not None and own.gone is None and scored.offsets is not None:
        evaluation = evaluate_own_models(loaded.model, own.models(), partition, task, loaded.batch_size)
        found["personal"] = evaluation.client_outcomes
    return found


def _subject(
    partition: Partition,
    index: int,
    scored: ScoredRows,
    baselines: Mapping[str, Rows],
    federated: Mapping[str, Rows],
) -> ComparedClient:
    rows = scored.of(index)
    outcomes = dict(_of_client(index, baselines))
    whole = {**federated, **({"pooled": baselines["pooled"]} if "pooled" in baselines else {})}
    outcomes |= {name: rows_of(one, rows.start, rows.stop) for name, one in whole.items()}
    return ComparedClient(partition.client_ids[index], int(partition.counts[index, 0]), outcomes)


def _of_client(index: int, baselines: Mapping[str, Rows]) -> Iterator[tuple[str, Rows]]:
    for kind in ("alone", "left-out"):
        if f"{kind}-{index}" in baselines:
            yield kind, baselines[f"{kind}-{index}"]


def _write(request: BaselinesRequest, compared: ComparedClients) -> None:
    if request.csv is not None:
        write_client_table(request.csv, compared)
    if request.picture is not None:
        draw_baselines(compared, request.picture)
