"""Simulated client devices: availability, how many steps each completes, and which meet the deadline.

Everything is drawn by name from (seed, round, client), so a device is the same on any engine and after any resume. The
server alone decides; clients only receive the number of steps that they make (`types.Allowance`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flctl import seeds
from flctl.errors import ConfigError, counted
from flctl.executors.batches import step_counts
from flctl.seeds import Keys, client_keys
from flctl.simulation.message_sizes import down_bytes, first_work, up_bytes
from flctl.types import Allowance, FloatArray, IntArray

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo
    from flctl.config.config import CohortConfig

__all__ = ["Devices", "Participation"]

Flags = npt.NDArray[np.bool_]
DRAWN = ("fixed", "cyclic", "trace")
"""The samplings of `cohort.sampling` that can select more than `cohort.clients`."""


ROUNDING = 1e-12
"""Relative tolerance of times: 0.7 s are enough for seven steps of 0.1 s."""


@dataclass(frozen=True, slots=True)
class Participation:
    """Outcome of a round for the clients selected.

    `client_indices` [n] are those available. `counted` [m] are the positions among them of those whose work counts, and
    `steps` [m] the largest number of steps of each; None if all complete their work. `outcomes` counts the others, and
    has the simulated `seconds`.
    """

    client_indices: IntArray
    counted: IntArray | None = None
    steps: IntArray | None = None
    outcomes: Mapping[str, float] = field(default_factory=dict)

    @property
    def allowance(self) -> Allowance | None:
        """The limits as they are sent to clients with their work."""
        if self.counted is None or self.steps is None:
            return None
        return Allowance(self.client_indices[self.counted], self.steps)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Progress of devices [n]: `steps` of their `full` number, `arrival` in simulated seconds, and a flag that they
    meet the deadline."""

    full: IntArray
    steps: IntArray
    arrival: FloatArray
    reaches: Flags

    def usable(self, *, partial: bool) -> Flags:
        """True for clients whose work the server accepts."""
        done = self.steps >= self.full
        return self.reaches & (done | (self.steps > 0) if partial else done)


class Devices:
    """The devices of a run's clients; without a `devices:` section, all are available and complete their work."""

    def __init__(self, run: RunInfo) -> None:
        self._run, self.config, self._seed = run, run.config.devices, run.config.seed

    @property
    def cohort(self) -> CohortConfig:
        """The `cohort:` section, with over-selection added to `clients`."""
        cohort, extra = self._run.config.cohort, self.config.over_selection
        if not extra:
            return cohort
        selected = math.ceil(cohort.clients * (1 + extra) * (1 - ROUNDING))
        return cohort.model_copy(update={"clients": selected})

    def participation(self, round_number: int, selected: IntArray) -> Participation:
        """Returns the participation of the clients `selected` in a round."""
        if not self.config.simulated:
            return Participation(selected)
        available = selected[self._available(round_number, selected)]
        progress = self._progress(round_number, available)
        usable = progress.usable(partial=self._run.strategy.takes_partial)
        counted = self._counted(usable, progress.arrival)
        steps = progress.steps[counted]
        outcomes: dict[str, float] = {
            "absent": len(selected) - len(available),
            "late": int((~usable).sum()),
            "partial": int((steps < progress.full[counted]).sum()),
            "surplus": int(usable.sum()) - len(counted),
        }
        if self.config.clocked:
            outcomes["seconds"] = self._seconds(progress.arrival[counted], len(selected), late=bool((~usable).any()))
        return Participation(available, counted, steps, outcomes)

    def check(self) -> None:
        """Raises ConfigError if no client's work could ever count, or more clients are selected than exist."""
        if not self.config.simulated:
            return
        self._check_cohort()
        if self.config.stragglers is not None:
            self._check_share(self.config.stragglers)
        if self.config.deadline is not None:
            self._check_deadline(self.config.deadline)

    def _available(self, round_number: int, selected: IntArray) -> Flags:
        if self.config.availability == 1:
            return np.ones(len(selected), np.bool_)
        drawn = seeds.uniform(self._seed, ("round", round_number, "device", "there"), self._keys[selected])
        return np.asarray(drawn < self.config.availability)

    def _progress(self, round_number: int, available: IntArray) -> _Progress:
        full = self._full(available)
        if self.config.clocked:
            return self._clocked(available, full, self._jitter(round_number, available))
        steps = full if self.config.stragglers is None else self._straggling_steps(round_number, available, full)
        return _Progress(full, steps, np.zeros(len(full)), np.ones(len(full), np.bool_))

    def _jitter(self, round_number: int, available: IntArray) -> FloatArray | float:
        """Returns the factors [n] on devices' speeds in a round."""
        spread = self.config.speed_jitter
        if not spread:
            return 1.0
        return np.exp(
            spread * seeds.normal(self._seed, ("round", round_number, "device", "speed"), self._keys[available])
        )

    def _full(self, available: IntArray) -> IntArray:
        """Returns the steps [n] of clients that complete their work."""
        sizes = self._run.partition.train_sizes(available)
        stages = self._run.strategy.stages(self._run.config.local.amount())
        return sum((step_counts(sizes, s.local)[0] for s in stages), np.zeros(len(available), np.int64))

    def _straggling_steps(self, round_number: int, available: IntArray, full: IntArray) -> IntArray:
        """Returns the steps of a cohort with stragglers. A straggler stops after a whole number of epochs, drawn
        uniformly from those below the number asked (Li et al. 2020, section 5.2); after a number of steps if one epoch,
        or steps, are asked."""
        names, local = ("round", round_number, "device"), self._run.config.local
        order = np.argsort(seeds.uniform(self._seed, (*names, "straggler"), self._keys[available]), kind="stable")
        slow = order[: self._stragglers(len(available))]
        parts = np.full(len(slow), local.epochs) if local.steps is None and local.epochs > 1 else full[slow]
        drawn = seeds.uniform(self._seed, (*names, "stops"), self._keys[available[slow]])
        done = np.where(parts > 1, 1 + np.floor(drawn * (parts - 1)), 0).astype(np.int64)
        steps = full.copy()
        steps[slow] = full[slow] * done // np.maximum(parts, 1)
        return steps

    def _stragglers(self, clients: int) -> int:
        """Returns the number of stragglers in a cohort; the number of the others is rounded, as in the authors'
        code."""
        return clients - round(clients * (1 - float(self.config.stragglers or 0.0)))

    def _clocked(self, available: IntArray, full: IntArray, jitter: FloatArray | float = 1.0) -> _Progress:
        config = self.config
        link, pace = self._sending[available], self._step_seconds[available] / jitter
        left = np.full(len(full), np.inf) if config.deadline is None else config.deadline - link
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            able = np.where(pace > 0, np.floor(left / pace * (1 + ROUNDING)), np.inf)
        steps = np.clip(np.minimum(full, able), 0, None).astype(np.int64)
        return _Progress(full, steps, link + steps * pace, np.asarray(left >= 0))

    def _counted(self, usable: Flags, arrival: FloatArray) -> IntArray:
        """Returns the positions of the clients whose work counts: all that finish in time, or the first
        `cohort.clients` of them."""
        positions = np.flatnonzero(usable)
        if not self.config.over_selection:
            return positions
        first = np.argsort(arrival[positions], kind="stable")[: self._run.config.cohort.clients]
        return np.sort(positions[first])

    def _seconds(self, arrivals: FloatArray, selected: int, *, late: bool) -> float:
        """Returns the simulated time at which the server stops waiting: the last arrival it needs, or the deadline if a
        client is late."""
        wanted = self._run.config.cohort.clients if self.config.over_selection else selected
        if late and len(arrivals) < wanted:
            return float(self.config.deadline or 0.0)
        return float(arrivals.max(initial=0.0))

    @cached_property
    def _keys(self) -> Keys:
        return client_keys(self._run.partition.client_ids.take(np.arange(self._run.partition.clients)))

    @cached_property
    def _step_seconds(self) -> FloatArray:
        """Returns the seconds of a step on each client's device [K]."""
        speed = self.config.speed
        if speed is None:
            return np.zeros(len(self._keys))
        return np.exp(-self.config.speed_spread * seeds.normal(self._seed, ("device", "speed"), self._keys)) / speed

    @cached_property
    def _sending(self) -> FloatArray:
        """Returns the seconds [K] of the download to a device and the upload from it."""
        config, seconds = self.config, 0.0
        if config.download is not None:
            seconds += down_bytes(self._run) / config.download
        if config.upload is not None:
            seconds += up_bytes(self._run, first_work(self._run)) / config.upload
        drawn = seeds.normal(self._seed, ("device", "network"), self._keys)
        return seconds * np.exp(-config.network_spread * drawn)

    def _check_cohort(self) -> None:
        if not self.config.over_selection:
            return
        sampling, selected = self._run.config.cohort.sampling, self.cohort.clients
        if sampling not in DRAWN:
            raise ConfigError(
                f"devices.over_selection selects more than cohort.clients, and cohort.sampling is {sampling}",
                hint=f"Leave it out, or set cohort.sampling to {', '.join(DRAWN[:-1])} or {DRAWN[-1]}.",
            )
        if sampling != "trace" and selected > self._run.eligible:
            raise ConfigError(
                f"devices.over_selection {self.config.over_selection:g} selects {counted(selected, 'client')} per "
                f"round, and the partition has {counted(self._run.eligible, 'client')} with training rows",
                hint="Lower it, or cohort.clients.",
            )

    def _check_share(self, share: float) -> None:
        strategy, clients = self._run.strategy, self._most_clients
        if strategy.takes_partial or self._stragglers(clients) < clients:
            return
        raise ConfigError(
            f"devices.stragglers {share:g} makes all clients of a round stragglers ({clients}), and strategy "
            f"'{strategy.name}' drops them",
            hint="Lower it, raise cohort.clients, or use a strategy that uses partial work (fedprox, fednova).",
        )

    @property
    def _most_clients(self) -> int:
        """Returns the largest number of clients that a round can have."""
        cohort = self._run.config.cohort
        if cohort.sampling == "poisson":
            return min(self._run.eligible, cohort.max_cohort or self._run.eligible)
        return int(self._run.cohort_size)

    def _check_deadline(self, deadline: float) -> None:
        eligible = np.flatnonzero(self._run.partition.counts[:, 0])
        full, partial = self._full(eligible), self._run.strategy.takes_partial
        jitter = math.inf if self.config.speed_jitter else 1.0  # no bound to how fast a device can be in some round
        if self._clocked(eligible, full, jitter).usable(partial=partial).any():
            return
        steps = np.minimum(full, 1) if partial else full
        fastest = float((self._sending[eligible] + steps * self._step_seconds[eligible] / jitter).min())
        progress = (
            "with one step"
            if partial
            else f"with all its steps, and strategy '{self._run.strategy.name}' discards partial work"
        )
        raise ConfigError(
            f"devices.deadline is {deadline:g} s, and no client finishes by then: the fastest needs {fastest:.3g} s "
            f"{progress}",
            hint="Raise it, reduce the work in `local:`, or raise devices.speed, upload and download.",
        )
