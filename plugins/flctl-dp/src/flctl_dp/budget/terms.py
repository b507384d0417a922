"""The privacy terms of a run's configuration: the release of each round, and refusals of runs without an epsilon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flctl import ConfigError, IncompatibleError
from flctl.errors import counted

from flctl_dp.accounting.releases import Relation, Release, Sampling

__all__ = [
    "LEDGER",
    "Terms",
    "delta_warning",
    "refuse_delta",
    "refuse_made_up",
    "refuse_meaningless",
    "refuse_visible_aborts",
]

LEDGER = "privacy-ledger.jsonl"
"""Default name of the ledger, in the partition that it is about."""
_NEGLIGIBLE = 2.0**-40
"""Probability, over a whole run, of an event that the accountant does not cover."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Sampling, population, neighbouring relation and ledger of a run.

    `rate` and `max_cohort` (0: no limit) are for `poisson`; `separation` and `bands` are for `cyclic`. `local`: each
    client adds all of the noise to its own update.
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
    local: bool = False

    @classmethod
    def of(cls, run: Any, config: Any) -> Terms:
        """The terms of a run. Raises IncompatibleError for a relation that its sampling has no epsilon for, ConfigError
        for a delta of 1 / clients or more."""
        sampling = _sampling(run)
        population, cohort = run.eligible, run.cohort_size
        refuse_delta("transforms.dp.target_delta", config.target_delta, population)
        ledger = Path(config.ledger) if config.ledger else run.partition.path / LEDGER
        drawn = run.config.cohort
        rate, most = float(drawn.rate or 0), min(drawn.max_cohort or 0, population)
        terms = cls(sampling, population, cohort, "zero-out", ledger, run.partition.digest, rate, most)
        probe = terms.release(1.0)
        relation: Relation = config.relation or probe.default_relation()
        probe.check_relation(relation)
        return replace(terms, relation=relation)

    def release(self, noise_multiplier: float) -> Release:
        """The release of a round with this noise multiplier; that of the first round if rounds differ."""
        if self.sampling == "poisson":
            size = self.population if self.max_cohort else 0
            return Release("poisson", noise_multiplier, self.rate, population=size, max_cohort=self.max_cohort)
        if self.sampling == "cyclic":
            return Release("cyclic", noise_multiplier, bands=self.bands, separation=self.separation, place=1)
        if self.sampling == "fixed":
            return Release("fixed", noise_multiplier, cohort=int(self.cohort), population=self.population)
        return Release(self.sampling, noise_multiplier, local=self.local)


def refuse_delta(name: str, delta: float, units: int, unit: str = "client") -> None:
    """Raises ConfigError for a delta of 1 / units or more, within which a mechanism could publish one unit."""
    if delta * units >= 1:
        raise ConfigError(
            f"{name} is {delta:g}, and there are {units} {unit}s: publishing one {unit} at random would satisfy it",
            hint=f"Use less than {1 / max(units, 1):.2g}; a tenth of that is common.",
        )


def delta_warning(delta: float, units: int, unit: str = "client") -> str | None:
    """A warning if delta is above a tenth of 1 / units; None otherwise."""
    if delta * units <= 0.1:
        return None
    return (
        f"delta {delta:g} is above a tenth of 1 / {units}: delta is the probability that the guarantee fails; at this "
        f"size it is close to publishing a random {unit}"
    )


def _larger_cohorts(options: Any, possible: int) -> str:
    """Returns the hint against visible aborts; it names a minimum only if the aggregator allows that value."""
    field = type(options).model_fields.get("minimum")
    bounds = () if field is None else field.metadata
    if field is None or any(possible < getattr(bound, "ge", possible) for bound in bounds):
        return "Use --sampling fixed, or a larger --sampling-rate."
    return f"Use --sampling fixed, a larger --sampling-rate, or -o aggregator.minimum={possible} if that is enough."


def refuse_visible_aborts(mine: str, run: Any, terms: Terms) -> None:
    """Raises IncompatibleError if the aggregator may refuse a Poisson cohort for being too small.

    The accountant assumes that a cohort of any size is released. If small ones are not, a release says that the cohort
    was large, in which a client is more likely than the sampling rate, and an abort says the contrary.
    """
    least = int(run.aggregator.survivors)
    if terms.sampling != "poisson" or least <= 1:
        return
    from scipy.stats import binom

    others = max(terms.population - 1, 0)
    abort = float(binom.cdf(least - 1, others, terms.rate))
    if abort * run.config.rounds <= _NEGLIGIBLE:
        return
    enough = binom.isf(_NEGLIGIBLE / run.config.rounds, others, 1 - terms.rate)
    possible = max(0, others - int(enough))
    raise IncompatibleError(
        f"aggregator '{run.aggregator.name}' aborts rounds of fewer than {counted(least, 'client')}, and '{mine}' "
        "accounts for "
        f"Poisson cohorts of any size: with cohort.rate {terms.rate:g} and {counted(terms.population, 'client')}, a "
        "round aborts "
        f"with probability {abort:.2g}, which reveals the number of sampled clients",
        hint=_larger_cohorts(run.aggregator.config, possible),
    )


def _sampling(run: Any) -> Sampling:
    """The sampling as an adversary sees it: a cohort that availability or speed of devices decides is no secret
    sample."""
    chosen = run.config.cohort.sampling
    devices = run.config.devices
    secret = chosen in ("poisson", "fixed", "all") and not (devices.simulated or devices.over_selection)
    return chosen if secret else "unsampled"


def refuse_meaningless(transform: Any, run: Any) -> None:
    """Raises IncompatibleError for a run in which noise on the sum would not bound what is revealed of a client."""
    mine, strategy = transform.name, run.strategy
    if strategy.reads_each:
        raise IncompatibleError(
            f"transform '{mine}' bounds the information in a sum, and strategy '{strategy.name}' reads single updates",
            hint="Use a strategy that needs only the sum: --strategy fedavg, fedprox or fedadam.",
        )
    if strategy.trusted:
        raise IncompatibleError(
            f"strategy '{strategy.name}' selects the same clients in every round, and '{mine}' accounts for sampling",
            hint="Use a strategy without trusted clients: --strategy fedavg.",
        )
    if strategy.scale_vector:
        raise IncompatibleError(
            f"strategy '{strategy.name}' scales its step by the sum '{strategy.scale_vector}', which the noise of "
            f"'{mine}' may make zero or negative",
            hint="Use --strategy fedavg, fedprox or fedadam.",
        )
    if getattr(strategy.config, "weighted", False):
        raise IncompatibleError(
            f"strategy '{strategy.name}' weights clients by their rows, and '{mine}' needs weight 1 for each client",
            hint="Set -o strategy.weighted=false.",
        )
    names = list(run.transforms)
    position = next(index for index, one in enumerate(run.transforms.values()) if one is transform)
    if position != len(names) - 1:
        raise IncompatibleError(
            f"transform '{names[position + 1]}' comes after '{mine}', and could undo its clipping",
            hint=f"Put '{mine}' last.",
        )
    if "buffers" in run.layout:
        raise IncompatibleError(
            f"the model keeps statistics of its inputs (BatchNorm), and '{mine}' adds noise to all vectors: variances "
            "could become negative",
            hint="Use a model with GroupNorm or LayerNorm, or --strategy fedbn, which sends no such statistics.",
        )
    for name, other in list(run.transforms.items())[:-1]:
        if other.encodes or other.judges_each:
            raise IncompatibleError(
                f"transform '{mine}' clips what clients send, and '{name}' sends "
                + ("a code" if other.encodes else "updates that the server reads individually"),
                hint=f"Leave '{name}' out.",
            )


def refuse_made_up(mine: str, run: Any) -> None:
    """Raises IncompatibleError for a run that changes updates after clipping: they may move the sum by any length."""
    if run.attacks_updates:
        raise IncompatibleError(
            f"attack '{run.config.attack.name}' forges updates after clipping, and the noise of '{mine}' does not "
            "cover their effect on the sum",
            hint=f"Use label-flip or backdoor; or -o transforms.{mine}.insecure_seed=1, which gives no guarantee.",
        )
