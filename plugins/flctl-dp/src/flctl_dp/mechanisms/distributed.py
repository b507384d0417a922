"""Distributed differential privacy: clients add noise to whole numbers, and the server sees nothing but their sum."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flctl import (
    RING,
    Aggregate,
    Arrays,
    ClientContext,
    ClientUpdate,
    IncompatibleError,
    Layout,
    ProtocolError,
    ServerContext,
    SharedContext,
    StartContext,
    Transform,
)
from flctl.errors import counted
from pydantic import Field

from flctl_dp.accounting.calibration import LOWEST
from flctl_dp.accounting.releases import Release
from flctl_dp.accounting.summed_release import SummedRelease, largest_cohort
from flctl_dp.budget.terms import Terms, refuse_meaningless
from flctl_dp.mechanisms.central import TOLERANCE, CentralDP
from flctl_dp.mechanisms.clipping import shrinking
from flctl_dp.noise.rotation import padded, rotated, signs_of, unrotated
from flctl_dp.noise.shares import Mechanism, drawn_share
from flctl_dp.noise.stochastic_rounding import rounded

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["DistributedDP", "SummedTerms"]

_VECTOR = "turned" + RING
"""The one vector that clients send: all others end to end, turned, on the lattice, and with noise."""
Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SummedTerms(Terms):
    """The terms of a run whose clients add the noise: at most `largest` of them in a round, each with a share of it
    that is enough for `survivors`, less `colluding`."""

    mechanism: Mechanism = "discrete-gaussian"
    survivors: int = 0
    colluding: int = 0
    dimension: int = 0
    bits: int = 0
    largest: int = 0

    def release(self, noise_multiplier: float) -> SummedRelease:
        return SummedRelease(
            noise_multiplier=noise_multiplier,
            cohort=self.largest,
            mechanism=self.mechanism,
            survivors=self.survivors,
            colluding=self.colluding,
            dimension=self.dimension,
            bits=self.bits,
        )


class DistributedDP(CentralDP):
    """Distributed differential privacy in secure aggregation: each client adds a share of the noise (Kairouz 2021)."""

    name = "dp-distributed"
    linear = True
    factors = Transform.factors
    """Noise is more than a factor."""

    class Config(CentralDP.Config):
        mechanism: Mechanism = Field(
            "discrete-gaussian", description="Noise distribution: discrete-gaussian or skellam."
        )
        bits: int = Field(20, ge=8, le=32, description="Bits of a sum; equal to the aggregator's word size.")
        survivors: int | None = Field(
            None, ge=1, description="Number of survivors with enough noise together; null: the aggregator's minimum."
        )
        colluding: int = Field(
            0,
            ge=0,
            description="Number of survivors that may reveal their noise to the server; their noise is not counted.",
        )

    def check(self, run: RunInfo) -> None:
        refuse_meaningless(self, run)
        if self.config.insecure_seed is None:
            self._refuse_trust(run)
        ring = run.aggregator.ring
        if ring is not None and ring < self.config.bits:
            raise IncompatibleError(
                f"aggregator '{run.aggregator.name}' sums words of {ring} bits, and transform '{self.name}' needs "
                f"{self.config.bits}",
                hint=f"Use -o transforms.{self.name}.bits={ring}, or wider words (aggregator.bits).",
            )
        self._opened = None if run.partition.here else (self.terms(run), run.config.rounds)
        release = self.terms(run).release(self.config.noise_multiplier or LOWEST)
        if self.config.noise_multiplier is not None:
            self._refuse_coarse_lattice(release, self.config.noise_multiplier)

    def _refuse_coarse_lattice(self, release: Release, noise: float) -> None:
        if release.ratio < noise / 2:
            raise IncompatibleError(
                f"in words of {self.config.bits} bits the lattice is so coarse that rounding more than doubles the "
                "norm of updates",
                hint=f"Use more bits (-o transforms.{self.name}.bits, and aggregator.bits), or a smaller model.",
            )

    def _refuse_trust(self, run: RunInfo) -> None:
        aggregator, least = run.aggregator, self.config.survivors
        if not (aggregator.hides and aggregator.survivors):
            raise IncompatibleError(
                f"under transform '{self.name}' the noise of a single client is not sufficient, and aggregator "
                f"'{aggregator.name}' reveals single updates",
                hint="Use --aggregator secagg; or 'dp-local', with the full noise on each client.",
            )
        if least is not None and least > aggregator.survivors:
            raise IncompatibleError(
                f"survivors is {least}, and aggregator '{aggregator.name}' publishes sums of "
                f"{counted(aggregator.survivors, 'client')}",
                hint=f"Use -o aggregator.minimum={least}, or fewer survivors.",
            )

    @property
    def secret_cohort(self) -> bool:
        return False

    def terms(self, run: RunInfo) -> SummedTerms:
        """The terms without amplification: the server knows the cohorts."""
        if self.config.relation == "add-remove":
            raise IncompatibleError(
                f"under transform '{self.name}' removing a client removes its noise, for which add-remove has no "
                "epsilon",
                hint="Use zero-out, or replace-one.",
            )
        base = Terms.of(run, self.config.model_copy(update={"relation": None}))
        known = {one.name: getattr(base, one.name) for one in dataclasses.fields(Terms)}
        largest = largest_cohort(
            base.sampling, base.population, base.cohort, float(run.config.cohort.rate or 0), base.max_cohort
        )
        survivors = self.config.survivors or run.aggregator.survivors or largest
        layout = run.pipeline.layouts[self.name_in(run)]
        return SummedTerms(
            **{**known, "sampling": "unsampled", "relation": self.config.relation or "zero-out"},
            mechanism=self.config.mechanism,
            survivors=survivors,
            colluding=self.config.colluding,
            dimension=padded(sum(layout.values())),
            bits=self.config.bits,
            largest=max(largest, survivors),
        )

    def sends(self, layout: Layout) -> Layout:
        return {_VECTOR: padded(sum(layout.values()))}

    def init(self, layout: Layout) -> Arrays:
        survivors = self.config.survivors or self.config.colluding + 1
        counts = {"survivors": survivors, "largest": survivors}
        return {
            **super().init(layout),
            **{name: np.array([count], np.int64) for name, count in counts.items()},
        }

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        terms = self.terms(ctx.run)
        counts = {"survivors": terms.survivors, "largest": terms.largest}
        begun = super().begin(state, ctx)
        return {**begun, **{name: np.array([count], np.int64) for name, count in counts.items()}}

    def broadcast(self, state: Arrays) -> Arrays:
        return {name: state[name] for name in ("noise", "survivors", "largest")}

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """The update, clipped, turned, rounded on the lattice, and with the client's share of the noise."""
        release = self._release(ctx.broadcast, sum(vector.size for vector in update.arrays.values()))
        self._require_own(release)
        words = self._words(ctx.round, ctx.rng)
        flat = np.concatenate([update.arrays[name].astype(np.float64) for name in sorted(update.arrays)])
        signs = signs_of(ctx.shared.rng("signs"), release.dimension)
        turned = rotated(_clipped(flat, self.config.clipping_norm) * (release.clip / self.config.clipping_norm), signs)
        whole = rounded(turned, release.reach, words)
        whole += drawn_share(release.mechanism, release.variance, words, release.dimension)
        weight = float(self.weigh(np.array([update.weight]))[0])
        return dataclasses.replace(update, arrays={_VECTOR: whole}, weight=weight)

    def decode(self, vectors: Arrays, ctx: SharedContext) -> Arrays:
        """The vectors that a sum of whole numbers stands for, float32."""
        release = self._release(ctx.broadcast, sum(ctx.layout.values()))
        signs = signs_of(ctx.rng("signs"), release.dimension)
        cell = self.config.clipping_norm / release.clip
        flat = unrotated(vectors[_VECTOR].astype(np.float64) * cell, signs, sum(ctx.layout.values()))
        ends = np.cumsum([ctx.layout[name] for name in sorted(ctx.layout)])[:-1]
        parts = dict(zip(sorted(ctx.layout), np.split(flat, ends), strict=True))
        return {name: parts[name].astype(np.float32) for name in ctx.layout}

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """The noisy sum, to be divided by the expected cohort."""
        return dataclasses.replace(aggregate, weight=self._expected(state, ctx)), state

    def _release(self, broadcast: Arrays, size: int) -> SummedRelease:
        """The round's release, as both sides find it: options are their own, and the rest was broadcast."""
        return SummedRelease(
            noise_multiplier=float(broadcast["noise"][0]),
            cohort=int(broadcast["largest"][0]),
            mechanism=self.config.mechanism,
            survivors=int(broadcast["survivors"][0]),
            colluding=self.config.colluding,
            dimension=padded(size),
            bits=self.config.bits,
        )

    def _require_own(self, release: SummedRelease) -> None:
        """A client's own options stand, whatever the server broadcast."""
        noise, survivors = self._least_noise(), self.config.survivors
        if not release.noise_multiplier >= noise * (1 - TOLERANCE):
            raise ProtocolError(
                f"the server requests the noise multiplier {release.noise_multiplier:g}, and the run has {noise:g}"
            )
        if survivors is not None and release.survivors > survivors:
            raise ProtocolError(
                f"the server expects the noise of {counted(release.survivors, 'survivor')}, and the run of {survivors}"
            )

    def _check_noise(self, state: Arrays, noise: float, terms: Terms) -> None:
        self._refuse_coarse_lattice(terms.release(noise), noise)

    def _begun(self, state: Arrays, noise: float, expected: float) -> Arrays:
        return {**state, "noise": np.array([noise]), "expected": np.array([expected])}

    def _rounded(self, run: RunInfo) -> float:
        """Whole numbers are not rounded."""
        return 0.0

    def _bound(self, clip: float, noise: float, coordinates: int, rounded: float = 0.0, expected: float = 0.0) -> float:
        """Nothing is kept free for rounding: what is on the lattice is measured there, in whole numbers."""
        return clip


def _clipped(flat: Float, bound: float) -> Float:
    """The vector within the bound in L2; zeros for one that is not finite, or longer than float64 can tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(float(np.einsum("i,i", flat, flat)))
    if not math.isfinite(norm):
        return np.zeros_like(flat)
    return flat * float(shrinking(np.array([norm]), bound)[0])
