"""From config to objects. `check` refuses combinations that cannot work, with the reason and a hint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import seeds
from flctl.algorithms.aggregator import Aggregator
from flctl.algorithms.pipeline import Pipeline
from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.algorithms.strategy import Strategy
from flctl.algorithms.transform import Transform
from flctl.component import Catalogue
from flctl.config.config import AUTO, DEFAULT_MODELS, CohortConfig, ComponentConfig, Config
from flctl.errors import ConfigError, IncompatibleError, counted, suggest
from flctl.metrics import SUMMED, Headline, headline, metrics_of, positive_code
from flctl.models.model import DataSpec, Described
from flctl.models.parts import Outline, ParameterSplit
from flctl.partition.selection import for_selection
from flctl.partition.view import PartitionView
from flctl.run import cohort as cohorts
from flctl.run.batch_checks import check_batches
from flctl.run.class_weights import ClassWeights, check_class_weights, class_weights_of
from flctl.run.remote_checks import check_remote
from flctl.simulation.attacks import Adversary
from flctl.simulation.devices import Devices
from flctl.types import QUICK, Layout, SelectionSplit, measured_as

if TYPE_CHECKING:
    from flctl.executors.choice import Execution
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task

__all__ = ["PRIVATE", "Run", "build_model"]

PRIVATE = "private/"
"""Prefix of names in client memory: parts of the model that never leave the client."""


def build_model(config: Config, data: Described, registry: Catalogue) -> FlatModel:
    """The model that `config` names, for this data, with the initial weights that the seed gives."""
    import torch

    from flctl.models.flat_model import FlatModel

    spec = DataSpec(data.task, data.shape, data.outputs)
    name = DEFAULT_MODELS[data.task] if config.model.name == AUTO else config.model.name
    model = registry.build("model", name, config.model.options)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeds.derive(config.seed, "model") % 2**63)
        return FlatModel(model.build(spec))


@dataclass(frozen=True)
class Run:
    """One training, ready to start: read-only, and the same in the server's process and in every worker's.

    `layout` is that of the model as the server has it, without what the strategy keeps private.
    """

    config: Config
    registry: Catalogue
    partition: PartitionView
    memory_directory: Path
    division: ParameterSplit
    strategy: Strategy
    transforms: Mapping[str, Transform]
    aggregator: Aggregator
    server: ServerOptimizer
    replays: bool = False

    @classmethod
    def build(cls, config: Config, registry: Catalogue, partition: PartitionView, memory_directory: Path) -> Run:
        """The run's objects, checked. Raises ConfigError, PluginError or IncompatibleError."""
        outline = build_model(config, partition, registry).outline
        run = cls.outlined(config, registry, partition, memory_directory, outline)
        check(run)
        return run

    @classmethod
    def outlined(
        cls, config: Config, registry: Catalogue, partition: PartitionView, memory_directory: Path, outline: Outline
    ) -> Run:
        """Returns the run's objects, not checked, from the outline of its model: no model is built, so that a process
        that holds keys runs no model code and needs no torch."""
        strategy = _component(registry, "strategy", config.strategy)
        division = ParameterSplit(outline.parts, strategy.private(outline.parts))
        _check_public(strategy, division)
        shapes = {"params": division.shapes(outline.shapes)}
        run = cls(
            config=config,
            registry=registry,
            partition=partition,
            memory_directory=memory_directory,
            division=division,
            strategy=strategy,
            transforms={
                chosen.name: _component(registry, "transform", chosen).shaped(shapes) for chosen in config.transforms
            },
            aggregator=_component(registry, "aggregator", config.aggregator),
            server=ServerOptimizer(**config.server.model_dump()),
        )
        return replace(run, aggregator=run.aggregator.placed(run))

    @property
    def directory(self) -> Path:
        """The run's directory."""
        return self.memory_directory.parent

    def build_model(self) -> FlatModel:
        """A fresh copy of the model, with the initial weights."""
        return build_model(self.config, self.partition, self.registry)

    @property
    def layout(self) -> Layout:
        """Name -> length of the model's vectors, without what is private."""
        return self.division.public

    @cached_property
    def pipeline(self) -> Pipeline:
        """An update's way from the strategy on a client to the sum."""
        sent = self.strategy.sends(self.layout)
        return Pipeline(self.transforms, sent, self.config.seed, keep_individual=not self.sums)

    @cached_property
    def adversary(self) -> Adversary:
        """Malicious clients, if the run simulates any."""
        return Adversary(self.config.attack, self.config.seed, self.partition, self.strategy.trusted)

    @cached_property
    def devices(self) -> Devices:
        """Simulated client devices, if the run simulates them."""
        return Devices(self)

    def task(self) -> Task:
        """The task of the partition's data set."""
        from flctl.models.tasks import task_for

        return task_for(self.partition.task, self.partition.target_scale)

    @cached_property
    def memory_layout(self) -> Layout:
        """Layout of a client's memory: the strategy's vectors, the transforms' and its private parameters."""
        private = {PRIVATE + name: length for name, length in self.division.private.items()}
        return {**self.strategy.remembers(self.layout), **private, **self.pipeline.memory_layout}

    @cached_property
    def execution(self) -> Execution:
        """Executor and chunks of local training. Raises ConfigError if clients cannot be trained as configured."""
        from flctl.executors.choice import choose

        return choose(self, self.build_model(), self.task())

    @property
    def sums(self) -> bool:
        """True if the server needs only the sum: no component reads single updates, and no attack changes them."""
        return not (self.judges or self.attacks_updates)

    @property
    def attacks_updates(self) -> bool:
        """True if the run simulates malicious clients that replace their updates."""
        return self.adversary.on_updates

    @property
    def cohort(self) -> CohortConfig:
        """The `cohort:` section, with over-selection added to `clients`."""
        return self.devices.cohort

    @property
    def judges(self) -> bool:
        """True if the strategy or a transform reads single updates."""
        return self.strategy.reads_each or any(t.judges_each for t in self.transforms.values())

    @property
    def takes_each(self) -> bool:
        """True if the server takes each client's message by itself, to read or to decode it."""
        return not self.sums or self.pipeline.decodes

    @property
    def multiplies(self) -> bool:
        """True if clients premultiply updates by their weight, because the aggregator can only add vectors."""
        return not self.takes_each and (self.aggregator.hides or not self.aggregator.transparent)

    @property
    def secret_cohort(self) -> bool:
        """True if a transform needs cohorts that cannot be predicted from the seed."""
        return any(transform.secret_cohort for transform in self.transforms.values())

    @cached_property
    def bounds_clients(self) -> bool:
        """True if a transform bounds how far each client moves the sum, so that one that diverges counts as zeros; a
        replay shows the error instead."""
        return not self.replays and any(transform.bounds_clients for transform in self.transforms.values())

    @cached_property
    def withholds_metrics(self) -> bool:
        """True if clients send no metrics: the aggregator hides them, or a transform's noise does not cover them."""
        return self.aggregator.hides or any(one.noised_by_clients for one in self.transforms.values())

    @cached_property
    def makes_steps(self) -> str | None:
        """The name of the transform that makes the clients' local steps; None where none does."""
        return next((name for name, transform in self.transforms.items() if transform.makes_steps), None)

    @cached_property
    def scored(self) -> PartitionView:
        """The partition whose test rows are those by which rounds are evaluated: the validation rows if there are
        any."""
        return for_selection(self.partition)

    @property
    def selection_split(self) -> SelectionSplit | None:
        """Split by whose rows the best round is picked and the run stops early; None if it evaluates on no rows."""
        return self.partition.own_selection if self.scores_at_clients else self.partition.selection

    @property
    def scores_at_clients(self) -> bool:
        """True if rounds are evaluated by sums over clients' own rows, because no rows are here or it is asked for."""
        return not self.partition.here or self.config.eval.at == "clients"

    @cached_property
    def class_weights(self) -> ClassWeights | None:
        """Weights of classes in the clients' losses; None if all weigh the same."""
        return class_weights_of(self)

    @cached_property
    def headline(self) -> Headline:
        """The metric of the best round if none is named, by the classes of the rows that rounds are evaluated on."""
        partition = self.partition
        unseen = self.scores_at_clients or self.selection_split is None
        if not partition.classes or partition.task == "next-character" or unseen:
            return headline(partition.task)
        return headline(partition.task, partition.classes, _scored_classes(partition))

    @property
    def metric(self) -> str:
        """The metric by which the best round is chosen."""
        return self.config.metric or self.headline.metric

    @property
    def positive(self) -> int:
        """The code of the positive one of two classes."""
        return positive_code(self.partition.classes, self.config.eval.positive)

    @property
    def extra_metrics(self) -> tuple[str, ...]:
        """Metrics that rounds measure beside the cheap ones: those that the run is best in or stops by."""
        asked = filter(None, (self.metric, self.config.stop.metric))
        return tuple(dict.fromkeys(name for name in asked if name not in self.quick_metrics))

    @property
    def quick_metrics(self) -> tuple[str, ...]:
        """Metrics that every evaluated round has."""
        return tuple(measured_as(name, self.selection_split) for name in QUICK[self.partition.task])

    @property
    def eligible(self) -> int:
        """Number of clients that have training rows."""
        return int((self.partition.counts[:, 0] > 0).sum())

    @property
    def cohort_size(self) -> float:
        """Number of clients that a round asks; the mean if it is random."""
        return cohorts.expected_size(self.config.cohort, self.eligible)

    @cached_property
    def update_layout(self) -> Layout:
        """Layout of an update when it leaves the client."""
        return self.pipeline.sent


def check(run: Run) -> None:
    """Raises IncompatibleError or ConfigError for a combination that cannot do what it says."""
    if run.aggregator.hides:
        _check_hidden(run)
    check_remote(run)
    run.pipeline.check()
    _check_steps(run)
    for transform in run.transforms.values():
        transform.check(run)
    run.aggregator.check(run)
    if not run.partition.counts[:, 0].any():
        raise ConfigError("the partition has no training rows", hint="Partition again with a smaller --test-fraction.")
    cohorts.expected_size(run.config.cohort, run.eligible)
    cohorts.check_trace(run.config.cohort, run.partition.client_ids)
    _check_stages(run)
    run.strategy.check(run)
    run.adversary.check(run)
    run.devices.check()
    check_batches(run, run.build_model)
    check_class_weights(run)
    _ = run.execution  # raises where the clients cannot be trained as the config asks
    _check_stop(run)


def _check_public(strategy: Strategy, division: ParameterSplit) -> None:
    if "params" not in division.public:
        raise IncompatibleError(
            f"strategy '{strategy.name}' keeps all of the model's parameters private, so no parameter is trained "
            "jointly",
            hint="Use fewer private parameters (strategy.private), or a model with more layers.",
        )


def _check_steps(run: Run) -> None:
    makers = [name for name, transform in run.transforms.items() if transform.makes_steps]
    if len(makers) > 1:
        raise IncompatibleError(
            f"transforms {' and '.join(repr(name) for name in makers)} each make the clients' local steps",
            hint="Use one of them.",
        )


def _check_stages(run: Run) -> None:
    """Raises IncompatibleError if weight decay would change a part that a stage freezes."""
    name, decay = run.strategy.name, run.config.local.weight_decay
    if decay and any(stage.moves != "all" for stage in run.strategy.stages(run.config.local.amount())):
        raise IncompatibleError(
            f"strategy '{name}' freezes a part of the model in each phase, and local.weight_decay {decay:g} would "
            "change it",
            hint="Leave local.weight_decay out.",
        )


def _check_stop(run: Run) -> None:
    stop = run.config.stop
    named = metrics_of(run.partition.task, len(run.partition.classes))
    measured = dict.fromkeys((*run.quick_metrics, *(name for name in named if name != "test_loss")))
    ranks = {"auroc"} if len(run.partition.classes) != 2 else set()
    summed = SUMMED - ranks if run.scores_at_clients else measured.keys()
    for name in filter(None, (run.config.metric, stop.metric)):
        if name in measured and name not in summed:
            raise ConfigError(
                f"'{name}' does not follow from sums over clients' rows", hint=f"Known: {', '.join(sorted(summed))}."
            )
        if name not in measured:
            hint = suggest(name, measured) or f"Known: {', '.join(measured)}."
            classes = f" of {counted(len(run.partition.classes), 'class', 'classes')}" if run.partition.classes else ""
            rows = " over validation rows" if run.selection_split == "validation" else ""
            raise ConfigError(f"'{name}' is not a metric of {run.partition.task} models{classes}{rows}", hint=hint)
    _ = run.positive  # raises if eval.positive is not a class
    if run.selection_split is None and (stop.target is not None or stop.patience is not None):
        raise ConfigError(
            "stop.target and stop.patience need evaluations, and the partition has neither validation nor test rows",
            hint="Partition with --validation-fraction above 0.",
        )
    if run.config.eval.every == 0 and (stop.target is not None or stop.patience is not None):
        raise ConfigError(
            "stop.target and stop.patience need evaluations, and eval.every is 0",
            hint="Set eval.every to 1 or more.",
        )


def _check_hidden(run: Run) -> None:
    if run.config.eval.per_client and not run.config.eval.disclose_clients:
        raise IncompatibleError(
            f"eval.per_client evaluates single clients, and aggregator '{run.aggregator.name}' hides them",
            hint="Leave eval.per_client out, or set eval.disclose_clients=true, which the run's notes then record.",
        )
    parts = [("strategy", run.strategy.name, run.strategy.reads_each)]
    parts += [("transform", name, transform.reads_each) for name, transform in run.transforms.items()]
    instead = {
        "strategy": "Use a strategy that needs only the sum (fedavg, fedprox, fedadam ...), or --aggregator plain.",
        "transform": "Leave this transform out, or use --aggregator plain.",
    }
    for kind, name, reads_each in parts:
        if reads_each:
            raise IncompatibleError(
                f"{kind} '{name}' reads each client's update, and aggregator '{run.aggregator.name}' hides them",
                hint=instead[kind],
            )


def _scored_classes(partition: PartitionView) -> list[int]:
    """Returns the rows of each class among the central rows that rounds are evaluated on."""
    if partition.selection == "validation":
        own = partition.manifest.own_validation
        codes = partition.column("validation_y")[partition.manifest.rows.validation if own else 0 :]
    elif partition.manifest.central_test == "own":
        codes = partition.column("test_y")
    else:
        y, bounds = partition.column("y"), partition.bounds
        tested = np.zeros(len(y) + 1, np.int64)
        np.add.at(tested, bounds[:, 1], 1)
        np.add.at(tested, bounds[:, 2], -1)
        codes = y[np.cumsum(tested)[:-1] > 0]
    counts: list[int] = np.bincount(codes, minlength=len(partition.classes)).tolist()
    return counts


def _component(registry: Catalogue, kind: str, chosen: ComponentConfig) -> Any:
    return registry.build(kind, chosen.name, chosen.options)
