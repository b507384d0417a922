"""Local differential privacy: each client adds the noise itself, and the server is not trusted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from flctl import Aggregate, Arrays, ClientContext, ClientUpdate, ConfigError, ProtocolError, ServerContext, Transform

from flctl_dp.budget.terms import Terms
from flctl_dp.mechanisms.central import TOLERANCE, CentralDP
from flctl_dp.mechanisms.clipping import scaled, shrinking

if TYPE_CHECKING:
    from flctl import RunInfo

__all__ = ["LocalDP"]


class LocalDP(CentralDP):
    """Local differential privacy: each client clips its update and adds noise itself (Balle and Wang 2018)."""

    name = "dp-local"
    factors = Transform.factors
    """Noise is more than a factor."""
    noised_by_clients = True

    def check(self, run: RunInfo) -> None:
        super().check(run)
        self._opened = None if run.partition.here else (self.terms(run), run.config.rounds)
        relation = self.config.relation
        if relation not in (None, "replace-one"):
            raise ConfigError(
                f"transforms.dp-local.relation is {relation}: any two updates of a client must be indistinguishable",
                hint="Use replace-one, or leave relation out.",
            )

    @property
    def secret_cohort(self) -> bool:
        return False

    def terms(self, run: RunInfo) -> Terms:
        """The terms without amplification: the server, which is not trusted, knows the cohorts."""
        exposed = self.config.model_copy(update={"relation": None})
        return dataclasses.replace(Terms.of(run, exposed), sampling="unsampled", relation="replace-one", local=True)

    def _rounded(self, run: RunInfo) -> float:
        """The update that an aggregator rounds has its noise already."""
        return 0.0

    def broadcast(self, state: Arrays) -> Arrays:
        return {"bound": state["bound"], "clip": state["clip"], "spread": state["spread"]}

    def on_client(self, update: ClientUpdate, ctx: ClientContext) -> ClientUpdate:
        """The update, clipped, on the lattice, and with noise in every value of every vector."""
        self._require_own(ctx.broadcast)
        bound = float(ctx.broadcast["bound"][0])
        norm = np.sqrt(sum(float(np.square(v.astype(np.float64)).sum()) for v in update.arrays.values()))
        factor = float(shrinking(np.array([norm]), bound)[0])
        weight = float(self.weigh(np.array([update.weight]))[0])
        words = self._words(ctx.round, ctx.rng)
        noised = self._noised(scaled(update.arrays, factor), ctx.broadcast, words)
        return dataclasses.replace(update, arrays=noised, weight=weight)

    def _require_own(self, broadcast: Arrays) -> None:
        """A client's own options stand, whatever the server broadcast: it is the one that is not trusted."""
        noise, clip, bound = (float(broadcast[name][0]) for name in ("spread", "clip", "bound"))
        least, own = self._least_noise(), self.config.clipping_norm
        if not (noise >= least * (1 - TOLERANCE) and clip >= own and bound <= own):
            raise ProtocolError(
                f"the server requests the noise multiplier {noise:g} and the clipping norms {clip:g} and {bound:g}, "
                f"and the run has {least:g} and {own:g}"
            )

    def on_server(self, aggregate: Aggregate, state: Arrays, ctx: ServerContext) -> tuple[Aggregate, Arrays]:
        """Returns the sum unchanged: the realised count, which it is divided by, is known to the server anyway."""
        return aggregate, state
