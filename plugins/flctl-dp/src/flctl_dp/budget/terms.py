"""What a run's configuration means for privacy: what each round releases, and which runs have no epsilon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flctl import ConfigError, IncompatibleError

from flctl_dp.accounting.releases import Relation, Release, Sampling

__all__ = ["LEDGER", "Terms", "refuse_made_up", "refuse_meaningless"]

LEDGER = "privacy-ledger.jsonl"
"""The ledger's name beside the rows that it is about, where no other is given."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run samples, over how many clients, under which relation, and where that is written down.

    `rate` and `max_cohort`, 0 for none, are for `poisson`; `separation` and `bands` are for `cyclic`.
    """

    sampling: Sampling
    population: int
    cohort: float
    relation: Relation
    ledger: Path
    name: str
    rate: float = 0.0
    max_cohort: int = 0
    separation: int = 0
    bands: int = 0

    @classmethod
    def of(cls, run: Any, config: Any) -> Terms:
        """The terms of a run. Raises IncompatibleError for a relation that its sampling has no epsilon for, ConfigError
        for a delta that would allow to publish a client."""
        sampling = _sampling(run)
        population, cohort = run.eligible, run.cohort_size
        if config.target_delta * population >= 1:
            raise ConfigError(
                f"transforms.dp.target_delta is {config.target_delta:g}, and there are {population} clients: "
                "publishing one of them at random would be within it",
                hint=f"Take less than {1 / max(population, 1):.2g}.",
            )
        ledger = Path(config.ledger) if config.ledger else run.partition.path / LEDGER
        drawn = run.config.cohort
        rate, most = float(drawn.rate or 0), min(drawn.max_cohort or 0, population)
        terms = cls(sampling, population, cohort, "zero-out", ledger, run.partition.digest, rate, most)
        probe = terms.release(1.0)
        relation: Relation = config.relation or probe.default_relation()
        probe.check_relation(relation)
        return replace(terms, relation=relation)

    def release(self, noise_multiplier: float) -> Release:
        """What a round with this noise releases; a run's first one, where rounds differ."""
        if self.sampling == "poisson":
            size = self.population if self.max_cohort else 0
            return Release("poisson", noise_multiplier, self.rate, population=size, max_cohort=self.max_cohort)
        if self.sampling == "cyclic":
            return Release("cyclic", noise_multiplier, bands=self.bands, separation=self.separation, place=1)
        if self.sampling == "fixed":
            return Release("fixed", noise_multiplier, cohort=int(self.cohort), population=self.population)
        return Release(self.sampling, noise_multiplier)


def _sampling(run: Any) -> Sampling:
    """How others may think of the cohort: one that devices make by being there or in time is no secret sample."""
    chosen = run.config.cohort.sampling
    devices = run.config.devices
    secret = chosen in ("poisson", "fixed", "all") and not (devices.simulated or devices.over_selection)
    return chosen if secret else "unsampled"


def refuse_meaningless(transform: Any, run: Any) -> None:
    """Raises IncompatibleError for a run in which noise on the sum would not bound what is said of a client."""
    mine, strategy = transform.name, run.strategy
    if strategy.reads_each:
        raise IncompatibleError(
            f"transform '{mine}' bounds what a sum says of a client, and strategy '{strategy.name}' combines updates "
            "otherwise",
            hint="Take a strategy that needs only the sum (fedavg, fedprox, fedadam ...).",
        )
    if strategy.trusted:
        raise IncompatibleError(
            f"strategy '{strategy.name}' asks the same clients in every round, and '{mine}' counts on how all are "
            "sampled",
            hint="Take a strategy that trusts no clients in particular.",
        )
    if getattr(strategy.config, "weighted", False):
        raise IncompatibleError(
            f"strategy '{strategy.name}' weighs clients by their rows, and under '{mine}' each counts once",
            hint="Take -o strategy.weighted=false.",
        )
    names = list(run.transforms)
    place = next(number for number, one in enumerate(run.transforms.values()) if one is transform)
    if place != len(names) - 1:
        raise IncompatibleError(
            f"transform '{names[place + 1]}' follows '{mine}', and could undo its clipping",
            hint=f"Put '{mine}' last.",
        )
    if "buffers" in run.layout:
        raise IncompatibleError(
            f"the model keeps statistics of its inputs (BatchNorm), and '{mine}' adds noise to all that clients send: "
            "variances would fall below zero",
            hint="Take a model with GroupNorm or LayerNorm, or strategy fedbn, which sends no such statistics.",
        )
    for name, other in list(run.transforms.items())[:-1]:
        if other.encodes or other.judges_each:
            raise IncompatibleError(
                f"transform '{mine}' clips what clients send, and '{name}' sends "
                + ("a code" if other.encodes else "updates that the server looks at one by one"),
                hint=f"Leave '{name}' out.",
            )


def refuse_made_up(mine: str, run: Any) -> None:
    """Raises IncompatibleError for a run that changes updates once they are clipped: what is made of those of others
    may move the sum by any length, and so may what is not clipped."""
    if run.attacks_updates:
        raise IncompatibleError(
            f"attack '{run.config.attack.name}' makes updates up once they are clipped, and no noise of '{mine}' covers"
            " how far those move the sum",
            hint=f"Take label-flip or backdoor; or transforms.{mine}.insecure_seed, which promises nothing.",
        )
