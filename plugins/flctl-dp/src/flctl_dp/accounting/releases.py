"""Releases: noisy sums in the terms that privacy is accounted in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from flctl import ConfigError, IncompatibleError, IntegrityError
from flctl.errors import counted

from flctl_dp.noise.banded_factor import coefficients, column_norm

__all__ = ["ADVERSARIES", "RELATIONS", "SAMPLINGS", "Adversary", "Relation", "Release", "Releases", "Sampling"]

Sampling = Literal["poisson", "fixed", "all", "unsampled", "cyclic"]
Relation = Literal["add-remove", "replace-one", "zero-out"]
Adversary = Literal["release", "observer"]
SAMPLINGS: tuple[str, ...] = get_args(Sampling)
RELATIONS: tuple[str, ...] = get_args(Relation)
ADVERSARIES: tuple[str, ...] = get_args(Adversary)

_RELATIONS: Mapping[str, tuple[Relation, ...]] = {
    "poisson": ("add-remove", "replace-one", "zero-out"),
    "fixed": ("replace-one", "zero-out"),
    "all": ("add-remove", "replace-one", "zero-out"),
    "unsampled": ("zero-out", "replace-one"),
    "cyclic": ("zero-out", "replace-one"),
}
"""The neighbouring relations of each sampling, the usual one first. A client that leaves a cohort of fixed size makes
room for another one, whose update then differs: add-remove is no relation of `fixed`, `unsampled` and `cyclic`."""
_ALWAYS = ("sampling", "noise_multiplier", "rate", "cohort", "population")
"""The fields that every line of a ledger has; the others are written where they are not 0."""

_LOUDEST = 1e9
"""The largest noise multiplier, and one over the smallest: beyond, squares of it leave what accountants reckon with."""


@dataclass(frozen=True, slots=True)
class Release:
    """One noisy sum. `noise_multiplier` is the noise's standard deviation over the clipping norm.

    poisson: each client independently with probability `rate`, by secret random numbers; if more than `max_cohort` of
    `population` clients are drawn, `max_cohort` of them, uniformly. fixed: `cohort` of `population` clients, secretly
    and uniformly, without replacement. all: every client. unsampled: a cohort that others may foresee, such as one
    made by availability. Fields that do not apply are 0.

    cyclic: one round of a run whose noise is correlated over rounds by a factor of `bands` bands, with at least
    `separation` rounds from a client's round to its next. `noise_multiplier` is then relative to the distance by which
    a client of one round moves the sums of all rounds together: the clipping norm times the norm of a column. `place`
    is 1 in a round with the clients of the first one, 2 in the round after it, and so on, and 0 beyond the bands: see
    `over`.

    local: each client added the whole noise to its own update, so that the server sees nothing without noise.
    """

    sampling: Sampling
    noise_multiplier: float
    rate: float = 0.0
    cohort: int = 0
    population: int = 0
    max_cohort: int = 0
    bands: int = 0
    separation: int = 0
    place: int = 0
    local: bool = False

    def __post_init__(self) -> None:
        if not 1 / _LOUDEST <= self.noise_multiplier <= _LOUDEST:
            bounds = f"from {1 / _LOUDEST:g} to {_LOUDEST:g}"
            raise ConfigError(f"the noise multiplier is {self.noise_multiplier}, expected a number above 0, {bounds}")
        if self.sampling == "poisson" and not 0 < self.rate <= 1:
            raise ConfigError(f"the sampling rate is {self.rate}, expected a probability above 0")
        if self.sampling == "fixed" and not 0 < self.cohort <= self.population:
            raise ConfigError(
                f"{self.cohort} of {counted(self.population, 'client')} cannot be drawn without replacement"
            )
        if self.max_cohort and not (self.sampling == "poisson" and 0 < self.max_cohort <= self.population):
            raise ConfigError(
                f"{self.sampling} sampling cannot be cut to {self.max_cohort} of {counted(self.population, 'client')}"
            )
        if self.sampling == "cyclic" and not (0 < self.bands <= self.separation and 0 <= self.place <= self.bands):
            raise ConfigError(
                f"{counted(self.bands, 'band')} are correlated, and a client may take part again after "
                f"{counted(self.separation, 'round')}",
                hint="Use at most {self.separation} bands, or smaller cohorts.",
            )

    @property
    def noised_by_server(self) -> bool:
        """True if the server adds the noise, and so knows the sum without it."""
        return not self.local

    @property
    def ratio(self) -> float:
        """The noise over the largest distance by which a client that takes part moves the sum; infinite for a round
        that reveals nothing new."""
        if self.sampling != "cyclic":
            return self.noise_multiplier
        if not self.place:
            return math.inf
        return self.noise_multiplier * column_norm(self.bands) / float(coefficients(self.bands)[self.place - 1])

    def at(self, round_number: int) -> Release:
        """The release as that of a run's round `round_number`, from 1."""
        if self.sampling != "cyclic":
            return self
        place = (round_number - 1) % self.separation + 1
        return replace(self, place=place if place <= self.bands else 0)

    def again(self) -> Release:
        """The release of a repeated round, with fresh noise beside that of the first time. Its sum may count a client
        with any coefficient of its column, and the first one is the largest."""
        return replace(self, place=1) if self.sampling == "cyclic" else self

    def over(self, rounds: int, first: int = 1) -> Releases:
        """`rounds` such releases, from a run's round `first` on.

        For `cyclic`, a client that comes in the rounds s_i, at least `separation` apart, moves rounds 1 ... t together
        by sqrt(sum_i |c[:t - s_i + 1]|^2). That is largest for s_i = 1 + (i - 1) separation, and then round t adds the
        square of one coefficient, that of its place.
        """
        if self.sampling != "cyclic":
            return {self: rounds} if rounds else {}
        last, found = first + rounds - 1, {}
        for place in range(1, self.bands + 1):
            count = (last - place) // self.separation - (first - 1 - place) // self.separation
            found[replace(self, place=place)] = count
        found[replace(self, place=0)] = rounds - sum(found.values())
        return {release: count for release, count in found.items() if count}

    def default_relation(self) -> Relation:
        """The usual neighbouring relation for this way of sampling."""
        return _RELATIONS[self.sampling][0]

    def check_relation(self, relation: str) -> None:
        """Raises IncompatibleError for a relation under which this sampling has no epsilon."""
        if relation not in _RELATIONS[self.sampling]:
            raise IncompatibleError(
                f"{self.sampling} sampling has no epsilon for the relation {relation}: removing a client changes the "
                "selection of others",
                hint=f"Use the relation {' or '.join(_RELATIONS[self.sampling])}, or Poisson sampling "
                "(--sampling-rate).",
            )

    def fields(self) -> dict[str, Any]:
        """The release as plain values."""
        return {name: value for name, value in asdict(self).items() if value or name in _ALWAYS}

    @classmethod
    def of(cls, fields: Any, where: str) -> Release:
        """Reads the release that `fields` describe. Raises IntegrityError for anything else."""
        found = {key: type(value) for key, value in fields.items()} if isinstance(fields, dict) else {}
        if not set(_ALWAYS) <= found.keys() or any(_KINDS.get(key) is not kind for key, kind in found.items()):
            raise IntegrityError(f"{where} is not a release: {str(fields)[:100]}")
        if fields["sampling"] not in SAMPLINGS:
            raise IntegrityError(f"{where} has the sampling {fields['sampling'][:30]!r}, which is unknown")
        try:
            return cls(**fields)
        except ConfigError as error:
            raise IntegrityError(f"{where}: {error.message}") from error

    def __str__(self) -> str:
        if self.sampling == "poisson":
            cut = f" cut to {self.max_cohort} of {self.population}" if self.max_cohort else ""
            return f"Poisson q={self.rate:.4g}{cut}"
        if self.sampling == "cyclic":
            return f"DP-FTRL of {counted(self.bands, 'band')}, separation {self.separation}"
        if self.local:
            return "noise of each client"
        return f"fixed {self.cohort} of {self.population}" if self.sampling == "fixed" else self.sampling


_KINDS: Mapping[str, type] = {
    "sampling": str,
    "noise_multiplier": float,
    "rate": float,
    "local": bool,
    **dict.fromkeys(("cohort", "population", "max_cohort", "bands", "separation", "place"), int),
}

Releases = Mapping[Release, int]
"""Release -> how many of it."""
