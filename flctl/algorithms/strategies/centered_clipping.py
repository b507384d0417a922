"""Centered clipping."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl import seeds
from flctl.algorithms.strategies.geometric_median import to_mixture
from flctl.algorithms.strategies.update_matrix import Weighing, products
from flctl.algorithms.strategy import StepContext
from flctl.types import Aggregate, Arrays, ClientUpdate, FloatArray, Layout, Work

if TYPE_CHECKING:
    from flctl.types import Trained

_CENTER, _MOMENTUM, _STARTED = "center.", "momentum.", "started"


class CenteredClipping(Weighing):
    """Clients' momenta clipped around the last round's result (Karimireddy et al. 2021, Algorithm 2).

    v <- v + (1/n) sum_k (m_k - v) min(1, tau / ||m_k - v||), `iterations` times, from the last round's v; the model
    moves by v. Unweighted. m_k is the client's momentum, m_k <- beta m_k + (1 - beta) delta_k and at first delta_k,
    kept in client memory. The paper has all clients take part in each round; in small cohorts a momentum is stale.
    `bucket_size` s > 1 clips means of s updates, grouped at random (Karimireddy et al. 2022, Algorithm 1). This helps
    if clients' data differ, and divides the number of malicious clients that are tolerated by s.

    The server broadcasts v, and clients send m_k - v, which is the difference to clip.
    """

    name = "centered-clipping"

    class Config(Weighing.Config):
        tau: float = Field(1.0, gt=0, description="Clipping radius: largest L2 norm of m_k - v.")
        iterations: int = Field(1, ge=1, description="Clipping iterations per round.")
        momentum: float = Field(0.9, ge=0, lt=1, description="Client momentum beta; 0: clients send their delta.")
        bucket_size: int = Field(1, ge=1, description="Updates per bucket, averaged before they are clipped.")

    def init(self, params: Arrays) -> Arrays:
        zeros = {"delta": params["params"], **{name: params[name] for name in params if name != "params"}}
        return {_CENTER + name: np.zeros_like(vector) for name, vector in zeros.items()}

    def broadcast(self, state: Arrays) -> Arrays:
        return {name: vector for name, vector in state.items() if name.startswith(_CENTER)}

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: the momentum of each vector of an update, and a flag that it has been started."""
        kept = {_MOMENTUM + name: length for name, length in self.sends(layout).items()}
        return {**kept, _STARTED: 1} if self.config.momentum else {}

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        momenta, weight, _ = super().report(local, work, memory)
        kept: dict[str, npt.NDArray[Any]] = {}
        if self.config.momentum:
            # A client's first momentum is its delta: starting from zeros would shrink it by 1 - beta.
            beta = np.float32(self.config.momentum if memory.get(_STARTED, [0])[0] else 0)
            past = {name: memory.get(_MOMENTUM + name, change) for name, change in momenta.items()}
            momenta = {name: beta * past[name] + (1 - beta) * change for name, change in momenta.items()}
            kept = {**{_MOMENTUM + name: m for name, m in momenta.items()}, _STARTED: np.ones(1, np.float32)}
        return {name: momentum - work.extra[_CENTER + name] for name, momentum in momenta.items()}, weight, kept

    def weigh(self, rows: Sequence[ClientUpdate]) -> FloatArray:
        gram = products(rows)
        groups = buckets(rows, gram, self.config.bucket_size)
        return clipped(groups @ gram @ groups.T, self.config.tau, self.config.iterations) @ groups

    def step(self, params: Arrays, aggregate: Aggregate, state: Arrays, ctx: StepContext) -> tuple[Arrays, Arrays]:
        if aggregate.weight == 0:
            return params, state
        centers = {name: state[_CENTER + name] + aggregate.mean(name) for name in aggregate.arrays}
        params, state = super().step(params, dataclasses.replace(aggregate, arrays=centers, weight=1.0), state, ctx)
        return params, {**state, **{_CENTER + name: center for name, center in centers.items()}}


def clipped(gram: FloatArray, tau: float, iterations: int) -> FloatArray:
    """Returns the coefficients [n] of v, from v = 0 and the inner products [n, n] of the differences to clip."""
    coefficients = np.zeros(len(gram))
    for _ in range(iterations):
        # tau / max(d, tau) rather than min(1, tau / d): d is 0 for an update that equals v.
        factors = tau / np.maximum(to_mixture(gram, coefficients), tau)
        coefficients = coefficients * (1 - factors.mean()) + factors / len(gram)
    return coefficients


def buckets(rows: Sequence[ClientUpdate], gram: FloatArray, size: int) -> FloatArray:
    """Returns the averaging matrix [buckets, n]; each row sums to 1, and the last bucket may be smaller.

    The order is drawn from a hash of the updates themselves: a client would have to know all of them to choose its
    bucket.
    """
    ids = [row.client_id for row in rows]
    # Seeded by the updates' norms: a grouping known in advance would let colluding clients share a bucket.
    generator = seeds.rng(0, "buckets", *ids, np.diagonal(gram).tobytes().hex())
    buckets = generator.permutation(len(rows)) // size
    members = np.arange(buckets.max() + 1)[:, None] == buckets[None, :]
    return np.asarray(members / members.sum(axis=1, keepdims=True))
