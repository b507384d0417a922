"""The malicious clients of a run: their selection, the rounds they attack, and their training rows."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import seeds
from flctl.errors import ConfigError, IncompatibleError, counted
from flctl.partition.store import Partition
from flctl.partition.view import PartitionView
from flctl.simulation.attacks.attack import Attack
from flctl.simulation.attacks.on_rows import Backdoor, LabelFlip, Poisoned
from flctl.simulation.attacks.on_updates import Alie, Gaussian, Ipm, MinMax, SignFlip
from flctl.types import ClientId, IntArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.config.sections.attack import AttackConfig

__all__ = ["Adversary"]

_BY_NAME: dict[str, type[Attack]] = {
    "none": Attack,
    "label-flip": LabelFlip,
    "sign-flip": SignFlip,
    "gaussian": Gaussian,
    "alie": Alie,
    "ipm": Ipm,
    "min-max": MinMax,
    "backdoor": Backdoor,
}
SIMULATIONS = ("auto", "inprocess", "pool")
NO_CLIENTS: IntArray = np.zeros(0, np.int64)


class Adversary:
    """The malicious clients of a partition, by the section `attack:`; no client if its name is "none". Clients in
    `trusted` are never malicious."""

    def __init__(
        self, config: AttackConfig, seed: int, partition: PartitionView, trusted: Collection[ClientId] = ()
    ) -> None:
        self.config, self.seed, self._partition, self._trusted = config, seed, partition, trusted
        self.attack = _BY_NAME[config.name](config, seed, len(partition.classes))

    @property
    def attacks(self) -> bool:
        """True if there is an attack."""
        return self.config.name != "none"

    @property
    def on_updates(self) -> bool:
        """True if malicious clients replace their updates."""
        return self.attack.on_updates

    @cached_property
    def malicious(self) -> IntArray:
        """The indices of the malicious clients, ascending: drawn from the seed, among those with training rows. Raises
        ConfigError if no client would be malicious, or none honest."""
        if not self.attacks:
            return NO_CLIENTS
        eligible = np.flatnonzero(self._partition.counts[:, 0])
        count = self.config.clients or round(self.config.fraction * len(eligible))
        drawn = seeds.rng(self.seed, "attack", "clients").permutation(eligible)
        drawn = drawn[~np.isin(drawn, [self._partition.index(client) for client in self._trusted])]
        if count == 0:
            raise ConfigError(
                f"attack.fraction {self.config.fraction:g} selects none of the {counted(len(eligible), 'client')} "
                "with training "
                "rows",
                hint="Raise it, or set attack.clients.",
            )
        if count >= len(drawn):
            raise ConfigError(
                f"the attack needs {counted(count, 'malicious client')}, and {len(drawn)} have training rows and are "
                "eligible",
                hint="Leave at least one honest client: lower attack.clients or attack.fraction.",
            )
        return np.sort(drawn[:count]).astype(np.int64)

    def among(self, round_number: int, cohort: IntArray) -> IntArray:
        """Returns the malicious clients of a round's cohort; empty before the attack starts."""
        if not self.attacks or round_number < self.config.since:
            return NO_CLIENTS
        return np.intersect1d(cohort, self.malicious)

    def rows(self, round_number: int) -> PartitionView:
        """Returns the partition as clients see it in a round."""
        return self._poisoned if self.attack.on_rows and round_number >= self.config.since else self._partition

    @cached_property
    def _poisoned(self) -> PartitionView:
        if not isinstance(self._partition, Partition):  # `check_remote` refuses such runs
            raise IncompatibleError(f"attack '{self.config.name}' changes rows that are not here")
        return Poisoned(self._partition, self.attack, self.malicious)

    def facts(self) -> dict[str, Any]:
        """Returns the entries of the run's record: the attack, and the malicious clients."""
        ids = self._partition.client_ids.take(self.malicious).tolist()
        return {"name": self.config.name, "clients": self._partition.clients, "malicious": ids}

    def check(self, run: RunInfo) -> None:
        """Raises IncompatibleError if clients are not simulated or the server does not see the updates to replace,
        ConfigError for an attack that the data do not allow or that no client would carry out."""
        if not self.attacks:
            return
        engine = run.config.engine.name
        if engine not in SIMULATIONS:
            raise IncompatibleError(
                f"attack '{self.config.name}' is simulated, and clients of engine '{engine}' may be real",
                hint="Use --engine inprocess or --engine pool, or leave out the section `attack:`.",
            )
        if self.on_updates:
            _check_seen(run, self.config.name)
        self.attack.check(run)
        _ = self.malicious  # raises where there are none


def _check_seen(run: RunInfo, name: str) -> None:
    """Raises IncompatibleError unless the server sees single updates, as the strategy made them."""
    instead = "Use label-flip, which changes malicious clients' rows."
    if run.aggregator.hides or not run.aggregator.transparent:
        raise IncompatibleError(
            f"attack '{name}' changes single updates, and aggregator '{run.aggregator.name}' hides them",
            hint=f"Use --aggregator plain, or the attack {instead}",
        )
    for code in run.pipeline.summed_codes:
        raise IncompatibleError(
            f"attack '{name}' changes single updates, and the codes of transform '{code}' are added up before they are "
            "decoded",
            hint=f"Leave the transform out, or use another attack: {instead}",
        )
