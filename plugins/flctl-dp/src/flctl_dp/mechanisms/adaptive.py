"""Adaptive clipping: the clipping norm follows a quantile of the norms, found under the same privacy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from flctl import Aggregate, Arrays, ClientContext, ClientUpdate, IncompatibleError, Layout, ServerContext, Transform
from flctl.errors import counted
from pydantic import Field

from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.clipping import ROUNDING, margin, scaled, shrinking
from flctl_dp.noise.entropy import Words
from flctl_dp.noise.lattice import Lattice

__all__ = ["AdaptiveDP"]

_BELOW = "dp.below"
"""The vector [1] that says whether a client's norm was within the clipping norm."""
_SHARE = 20.0
"""The noise on the number of such clients is the expected cohort over this (Andrew et al. 2021, section 3.1)."""
_FARTHEST = 1e12
"""Largest factor between the clipping norm and its initial value."""


class AdaptiveDP(CentralDP):
    """Differential privacy whose clipping norm follows a quantile of the clients' norms (Andrew et al. 2021)."""

    name = "dp-adaptive"
    factors = Transform.factors
    """Votes are sent beside what is multiplied: the norm alone does not do."""

    class Config(CentralDP.Config):
        clipping_norm: float = Field(0.1, ge=1e-20, le=1e20, description="The clipping norm of the first round.")
        target_quantile: float = Field(
            0.5, gt=0, lt=1, description="Target quantile: fraction of clients with unclipped updates."
        )
        clip_lr: float = Field(0.2, gt=0, le=2, description="Learning rate of the clipping norm, of its logarithm.")

    def sends(self, layout: Layout) -> Layout:
        return {**layout, _BELOW: 1}

    def init(self, layout: Layout) -> Arrays:
        return {**super().init(layout), "half": np.array([0.5 * (1 - ROUNDING)])}

    def broadcast(self, state: Arrays) -> Arrays:
        return {"bound": state["bound"], "half": state["half"]}

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """The update, clipped, and half a vote for or against a larger norm: plus where it was within the bound."""
        norm = math.hypot(*(float(np.linalg.norm(v.astype(np.float64))) for v in update.arrays.values()))
        half, bound = float(ctx.broadcast["half"][0]), float(ctx.broadcast["bound"][0])
        factor, within = float(shrinking(np.array([norm]), bound)[0]), norm <= bound
        vote = np.array([half if within else -half], np.float32)
        weight = float(self.weigh(np.array([update.weight]))[0])
        return dataclasses.replace(update, arrays={**scaled(update.arrays, factor), _BELOW: vote}, weight=weight)

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        expected, words = self._expected(state, ctx), self._words(ctx.round, ctx.rng)
        vectors = {name: vector for name, vector in aggregate.arrays.items() if name != _BELOW}
        noised = self._noised(vectors, state, words)
        within = self._share_within(aggregate.arrays[_BELOW], state, expected, words)
        return dataclasses.replace(aggregate, arrays=noised, weight=expected), self._followed(state, within)

    def _share_within(self, votes: npt.NDArray[Any], state: Arrays, expected: float, words: Words) -> float:
        """The noisy share of the expected clients whose norm was within the bound."""
        total = float(Lattice(expected / _SHARE).noised(votes, words)[0])
        return total / (2 * float(state["half"][0]) * expected) + 0.5

    def _followed(self, state: Arrays, within: float) -> Arrays:
        """The state with the next round's clipping norm: C exp(-eta (b - gamma)), Andrew et al. (2021), Algorithm 1."""
        first, coordinates = self.config.clipping_norm, int(state["coordinates"][0])
        clip = float(state["clip"][0]) * math.exp(-self.config.clip_lr * (within - self.config.target_quantile))
        clip = min(max(clip, first / _FARTHEST), first * _FARTHEST)
        spread, rounded, expected = (float(state[name][0]) for name in ("spread", "rounded", "expected"))
        bound = self._bound(clip, spread, coordinates, rounded, expected)
        return {**state, "clip": np.array([clip]), "bound": np.array([bound])}

    def _begun(self, state: Arrays, noise: float, expected: float) -> Arrays:
        half = 0.5 * (1 - margin(expected)) - Lattice(expected / _SHARE).stretch(1)
        return {**super()._begun(state, noise, expected), "half": np.array([half])}

    def _spread(self, noise: float, expected: float) -> float:
        """z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2): vectors and votes together cost what one Gaussian of z costs."""
        votes = 2 * expected / _SHARE
        if noise >= votes:
            raise IncompatibleError(
                f"with {counted(expected, 'client')} per round the noise multiplier of the votes on the clipping norm "
                f"is {votes:.3g}, above the noise multiplier {noise:.3g} of the run",
                hint=f"Use more than {counted(math.ceil(noise * _SHARE / 2), 'client')} per round, less noise, or "
                "'dp'.",
            )
        return float((noise**-2 - votes**-2) ** -0.5)
