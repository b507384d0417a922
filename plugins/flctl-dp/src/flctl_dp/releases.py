"""What a round releases, in the terms that privacy is accounted in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from flctl import ConfigError, IncompatibleError, IntegrityError

__all__ = ["ADVERSARIES", "RELATIONS", "SAMPLINGS", "Adversary", "Relation", "Release", "Releases", "Sampling"]

Sampling = Literal["poisson", "fixed", "all", "unsampled"]
Relation = Literal["add-remove", "replace-one", "zero-out"]
Adversary = Literal["release", "server"]
SAMPLINGS: tuple[str, ...] = get_args(Sampling)
RELATIONS: tuple[str, ...] = get_args(Relation)
ADVERSARIES: tuple[str, ...] = get_args(Adversary)

_RELATIONS: Mapping[str, tuple[Relation, ...]] = {
    "poisson": ("add-remove", "replace-one", "zero-out"),
    "fixed": ("replace-one", "zero-out"),
    "all": ("add-remove", "replace-one", "zero-out"),
    "unsampled": ("zero-out", "replace-one"),
}
"""What two neighbouring populations may differ in, the usual relation first. Who leaves a cohort of fixed size makes
room for another client, whose update then differs: add-remove is no relation of `fixed` and `unsampled`."""


@dataclass(frozen=True, slots=True)
class Release:
    """One noisy sum. `noise_multiplier` is the noise's standard deviation over the clipping norm.

    poisson: each client by itself with probability `rate`, by secret coins. fixed: `cohort` of `population` clients,
    secretly and uniformly, without replacement. all: everybody. unsampled: a cohort that others may foresee, such as
    one made by availability. What does not apply is 0.
    """

    sampling: Sampling
    noise_multiplier: float
    rate: float = 0.0
    cohort: int = 0
    population: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ConfigError(f"the noise multiplier is {self.noise_multiplier}, expected a number above 0")
        if self.sampling == "poisson" and not 0 < self.rate <= 1:
            raise ConfigError(f"the sampling rate is {self.rate}, expected a probability above 0")
        if self.sampling == "fixed" and not 0 < self.cohort <= self.population:
            raise ConfigError(f"{self.cohort} of {self.population} clients cannot be drawn without replacement")

    def default_relation(self) -> Relation:
        """The usual neighbouring relation for this way of sampling."""
        return _RELATIONS[self.sampling][0]

    def check_relation(self, relation: str) -> None:
        """Raises IncompatibleError for a relation under which this sampling has no epsilon."""
        if relation not in _RELATIONS[self.sampling]:
            raise IncompatibleError(
                f"{self.sampling} sampling has no epsilon for the relation {relation}: who is left out makes room for "
                "another client",
                hint=f"Take {' or '.join(_RELATIONS[self.sampling])}, or Poisson sampling.",
            )

    def fields(self) -> dict[str, Any]:
        """The release as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, fields: Any, where: str) -> Release:
        """The release that `fields` describe. Raises IntegrityError for anything else."""
        kinds = {"sampling": str, "noise_multiplier": float, "rate": float, "cohort": int, "population": int}
        if not isinstance(fields, dict) or {key: type(value) for key, value in fields.items()} != kinds:
            raise IntegrityError(f"{where} describes no release: {str(fields)[:100]}")
        if fields["sampling"] not in SAMPLINGS:
            raise IntegrityError(f"{where} has the sampling {fields['sampling'][:30]!r}, which is unknown")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise IntegrityError(f"{where}: {error.message}") from error

    def __str__(self) -> str:
        if self.sampling == "poisson":
            return f"Poisson q={self.rate:.4g}"
        return f"fixed {self.cohort} of {self.population}" if self.sampling == "fixed" else self.sampling


Releases = Mapping[Release, int]
"""Release -> how many of it."""
