"""Baselines of a run, and the configuration of each: the same local work on another assignment of rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from flctl.config.config import CohortConfig, Config, digest
from flctl.config.sections.training import (
    AttackConfig,
    CheckpointConfig,
    ComponentConfig,
    DevicesConfig,
    EngineConfig,
    EvalConfig,
    LocalConfig,
    ServerConfig,
    StopConfig,
)
from flctl.partition.reassigned import Kind, Reassignment
from flctl.run.directory import versions
from flctl.run.run import Run

__all__ = ["Baseline", "Budget", "budget_of", "is_private", "key_of", "plan"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Work of a baseline. In the mean, a client takes part in `share` of the run's `run_rounds` rounds; pooled rows and
    clients alone train `rounds` rounds of the same local work, so that each row is visited as often as in the run.
    `clients` is the number of clients with training rows."""

    run_rounds: int
    share: float
    rounds: int
    clients: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """One training: its rows and its configuration."""

    reassignment: Reassignment
    config: Config


def budget_of(run: Run, round_number: int, rounds: int | None = None) -> Budget:
    """The budget of a run's baselines after `round_number` rounds; `rounds` replaces the number that follows from
    it."""
    share = min(1.0, run.cohort_size / run.eligible)
    return Budget(round_number, share, rounds or max(1, round(round_number * share)), run.eligible)


def is_private(run: Run) -> bool:
    """True if the run has protection that a baseline lacks: an aggregator that hides, or differential privacy."""
    return run.aggregator.hides or _has_noise(run)


def _has_noise(run: Run) -> bool:
    return any(
        one.bounds_clients or one.noised_by_clients or one.secret_cohort or one.makes_steps
        for one in run.transforms.values()
    )


def plan(run: Run, budget: Budget, kinds: Sequence[Kind], clients: Sequence[int]) -> list[Baseline]:
    """Returns the baselines in the order of training. Clients without training rows are skipped, and an only client is
    not left out."""
    trained = [index for index in clients if run.partition.counts[index, 0]]
    made: list[Baseline] = []
    if "pooled" in kinds:
        made.append(Baseline(Reassignment("pooled"), _solitary(run, budget, budget.clients)))
    if "alone" in kinds:
        made += [Baseline(Reassignment("alone", index), _solitary(run, budget, 1)) for index in trained]
    if "left-out" in kinds and run.eligible > 1:
        made += [Baseline(Reassignment("left-out", index), _without_one(run, budget)) for index in trained]
    return made


def _solitary(run: Run, budget: Budget, clients: int) -> Config:
    """Plain local training of one client in every round; with the steps of `clients` clients if steps are counted."""
    scheduled = _scheduled(run.config.local, budget.rounds / max(1, budget.run_rounds))
    steps = None if scheduled.steps is None else scheduled.steps * clients
    update = {
        "strategy": ComponentConfig(name="fedavg"),
        "aggregator": ComponentConfig(name="plain"),
        "transforms": (),
        "cohort": CohortConfig(sampling="all"),
        "server": ServerConfig(),
        "local": scheduled.model_copy(update={"steps": steps}),
        "attack": AttackConfig(),
        "devices": DevicesConfig(),
    }
    return _unattended(run.config, budget.rounds).model_copy(update=update)


def _scheduled(local: LocalConfig, share: float) -> LocalConfig:
    """The schedule of the learning rate, as far along after a share of the rounds as the run's after all."""
    warmup, decay = round(local.warmup_rounds * share), max(1, round(local.decay_rounds * share))
    return local.model_copy(update={"warmup_rounds": warmup, "decay_rounds": decay})


def _without_one(run: Run, budget: Budget) -> Config:
    """The run itself, with one client fewer."""
    config, cohort = _unattended(run.config, budget.run_rounds), run.config.cohort
    fewer = cohort.model_copy(update={"clients": min(cohort.clients, run.eligible - 1)})
    update = {"cohort": fewer} | ({"aggregator": ComponentConfig(name="plain")} if run.aggregator.hides else {})
    return config.model_copy(update=update)


def _unattended(config: Config, rounds: int) -> Config:
    """The configuration with `rounds` rounds, without early stopping and evaluation."""
    engine = EngineConfig(name="inprocess", executor=config.engine.executor, memory=config.engine.memory)
    update = {
        "rounds": rounds,
        "eval": EvalConfig(every=0, batch_size=config.eval.batch_size, positive=config.eval.positive),
        "stop": StopConfig(),
        "checkpoint": CheckpointConfig(every=0, keep=1),
        "engine": engine,
        "metric": None,
    }
    return config.model_copy(update=update)


def key_of(baseline: Baseline, partition_digest: str) -> str:
    """Digest of all that a baseline's outcomes depend on."""
    parts = [digest(baseline.config), baseline.config.rounds, partition_digest, baseline.reassignment.name, versions()]
    return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
