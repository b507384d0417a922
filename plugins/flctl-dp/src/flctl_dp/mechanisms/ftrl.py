"""DP-FTRL: noise that is correlated over rounds, for cohorts in turn, without anything that sampling would hide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from flctl import Aggregate, Arrays, ConfigError, IncompatibleError, Layout, ServerContext, StartContext
from flctl.errors import counted
from pydantic import Field

from flctl_dp.budget.terms import Terms
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.clipping import margin
from flctl_dp.noise.banded_factor import MOST_BANDS, bands_of, column_norm
from flctl_dp.noise.correlated import Past, noised, stretch

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["CorrelatedDP"]


class CorrelatedDP(CentralDP):
    """DP-FTRL: noise that later rounds partly take back, by a banded factor (Choquette-Choo et al. 2023)."""

    name = "dp-ftrl"
    skips_rounds = False  # the separation of a client's releases is counted in rounds that release something

    class Config(CentralDP.Config):
        bands: int | None = Field(
            None,
            ge=1,
            le=MOST_BANDS,
            description="Number of rounds with correlated noise; null: the separation of a client's rounds, at most "
            "32.",
        )

    def check(self, run: RunInfo) -> None:
        super().check(run)
        terms, noise = self.terms(run), self.config.noise_multiplier or 1.0
        coordinates = sum(run.pipeline.layouts[self.name_in(run)].values())
        spread = noise * column_norm(terms.bands)
        self._reach(self.config.clipping_norm, spread, coordinates, terms.bands, self._rounded(run), terms.cohort)

    @property
    def secret_cohort(self) -> bool:
        return False

    def terms(self, run: RunInfo) -> Terms:
        """Cyclic cohorts, whose order may be public."""
        terms = Terms.of(run, self.config)
        separation = _separation(run)
        bands = bands_of(self.config.bands, separation)
        return dataclasses.replace(terms, sampling="cyclic", separation=separation, bands=bands)

    def init(self, layout: Layout) -> Arrays:
        bands = self.config.bands or 1
        return {**super().init(layout), "bands": np.array([bands], np.int64), "steps": np.zeros(1, np.int64)}

    def begin(self, state: Arrays, ctx: StartContext) -> Arrays:
        """The state of a charged round. Bands stay as the first round had them: the noise on hand is of that factor."""
        bands = self.terms(ctx.run).bands
        if int(state["steps"][0]) and int(state["bands"][0]) != bands:
            raise IncompatibleError(
                f"the run started with {counted(int(state['bands'][0]), 'band')} of noise, and this resume would use "
                f"{bands}",
                hint=f"Use transforms.{self.name}.bands={int(state['bands'][0])}, or start a new run.",
            )
        return super().begin({**state, "bands": np.array([bands], np.int64)}, ctx)

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        expected, words, past = self._expected(state, ctx), self._words(ctx.round, ctx.rng), Past.of(state)
        sigma = float(state["spread"][0]) * float(state["clip"][0])
        pairs = {
            name: noised(vector, sigma, past.back(name), past.bands, words)
            for name, vector in sorted(aggregate.arrays.items())
        }
        released = {name: vector for name, (vector, _) in pairs.items()}
        after = past.followed({name: noise for name, (_, noise) in pairs.items()})
        return dataclasses.replace(aggregate, arrays=released, weight=expected), after

    def tells(self, state: Arrays, run: RunInfo, finished: bool) -> Mapping[str, float | str]:  # noqa: FBT001
        terms = self.terms(run)
        return {**super().tells(state, run, finished), "bands": terms.bands, "separation": terms.separation}

    def _begun(self, state: Arrays, noise: float, expected: float) -> Arrays:
        clip, coordinates, bands = float(state["clip"][0]), int(state["coordinates"][0]), int(state["bands"][0])
        spread, rounded = noise * column_norm(bands), float(state["rounded"][0])
        return {
            **state,
            "noise": np.array([noise]),
            "spread": np.array([spread]),
            "bound": np.array([self._reach(clip, spread, coordinates, bands, rounded, expected)]),
            "expected": np.array([expected]),
        }

    def _reach(
        self, clip: float, spread: float, coordinates: int, bands: int, rounded: float = 0.0, expected: float = 0.0
    ) -> float:
        """The norm to clip to, so that neighbours move all rows together by at most `clip` times the norm of a column
        after rounding. At least half of `clip` is left, so that no single row moves by more than `clip` either, which
        is what a repeated round is charged."""
        bound = clip * (1 - margin(expected)) - stretch(spread * clip, coordinates, bands) - rounded
        if bound < clip / 2:
            raise ConfigError(
                f"noise of {spread:g} clipping norms on {counted(coordinates, 'value')} hides an update almost "
                "completely",
                hint="Use a smaller noise multiplier, fewer bands, or a smaller model.",
            )
        return bound


def _separation(run: RunInfo) -> int:
    """The least number of rounds from one participation of a client to its next."""
    cohort = run.cohort
    if cohort.sampling == "all":
        return 1
    if cohort.sampling == "cyclic":
        return max(1, run.eligible // cohort.clients)
    if cohort.sampling == "trace" and cohort.separation:
        return cohort.separation
    raise IncompatibleError(
        f"transform '{CorrelatedDP.name}' needs the separation of a client's rounds, and cohort.sampling is "
        f"'{cohort.sampling}'",
        hint="Use cohort.sampling=cyclic, or trace with a cohort.separation.",
    )
