"""Replaces malicious clients' updates. The attack first sees every update of the round, which only a simulation
allows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateCollector, UpdateIntake
from flctl.algorithms.pipeline import Pipeline
from flctl.partition.client_ids import ClientIds
from flctl.simulation.attacks.adversary import Adversary
from flctl.simulation.attacks.attack import Attack, Known, Matrix
from flctl.types import Aggregate, ClientId, ClientUpdate, Gathered, RoundPlan

__all__ = ["AttackedAccumulator", "forge_updates"]

SPARED = "buffers"
"""Running statistics are not changed: a negative variance would be detected at once."""
LARGEST = float(np.finfo(np.float32).max)


class AttackedAccumulator:
    """Keeps each client's update until the round is complete, and then hands all over to the accumulator. Forged
    updates take the path of every message."""

    def __init__(
        self,
        inner: SumAccumulator | UpdateCollector,
        adversary: Adversary,
        pipeline: Pipeline,
        ids: ClientIds,
        plan: RoundPlan,
    ) -> None:
        self._inner, self._adversary, self._pipeline, self._ids, self._plan = inner, adversary, pipeline, ids, plan
        self._raw: UpdateIntake = dataclasses.replace(inner.intake, arrive=None, arrived=None)
        self._sent: dict[ClientId, ClientUpdate] = {}

    def add(self, client_id: ClientId, message: bytes) -> None:
        """Keeps one client's message."""
        update = self._raw.open(client_id, message)
        if update is not None:
            self._sent[client_id] = update

    def merge(self, gathered: Gathered, ids: Sequence[ClientId]) -> None:
        """Keeps the updates of a chunk; `ids` are the ids of `gathered.numbers`."""
        self._sent |= {update.client_id: update for update in self._raw.rows(gathered, ids)}

    def aggregate(self) -> Aggregate:
        """Returns the aggregate of all updates, the forged ones among them."""
        for update in self._messages():
            arrived = self._inner.intake.take(update)
            if arrived is not None:
                self._inner.take(arrived)
        return self._inner.aggregate()

    def _messages(self) -> Iterator[ClientUpdate]:
        adversary, pipeline, plan = self._adversary, self._pipeline, self._plan
        malicious = adversary.among(plan.round, plan.numbers)
        malicious_ids = frozenset(self._ids.take(malicious).tolist())
        sent = [self._sent[client] for client in plan.cohort if client in self._sent]
        seen = [pipeline.read(update, plan.work) for update in sent]
        forged_updates = {
            update.client_id: update for update in forge_updates(adversary.attack, seen, malicious_ids, plan.round)
        }
        for update in sent:
            forged = forged_updates.get(update.client_id)
            yield update if forged is None else pipeline.encoded(forged, plan.work)


def forge_updates(
    attack: Attack, updates: Sequence[ClientUpdate], malicious: frozenset[ClientId], round_number: int
) -> list[ClientUpdate]:
    """Returns the forged updates of a round's malicious clients. Clients that made no local step are left out."""
    forgers = [update for update in updates if update.client_id in malicious and update.weight > 0]
    honest = [update for update in updates if update.client_id not in malicious and update.weight > 0]
    if not forgers:
        return []
    known = Known(
        round=round_number,
        ids=[update.client_id for update in forgers],
        own=_laid_out(forgers),
        others=_laid_out(honest if attack.config.knows == "honest" and honest else forgers),
        weights=np.array([update.weight for update in forgers]),
        total_weight=sum(update.weight for update in updates),
        count=len(forgers) + len(honest),
    )
    crafted = attack.crafted(known)
    rows = np.broadcast_to(crafted, known.own.shape)
    return [_refilled(update, row) for update, row in zip(forgers, rows, strict=True)]


def _laid_out(updates: Sequence[ClientUpdate]) -> npt.NDArray[np.float32]:
    """Returns rows [n, D]: the vectors of each update laid end to end."""
    length = sum(vector.size for name, vector in updates[0].arrays.items() if name != SPARED)
    rows = np.empty((len(updates), length), np.float32)
    for row, update in zip(rows, updates, strict=True):
        np.concatenate([vector for name, vector in update.arrays.items() if name != SPARED], out=row)
    return rows


def _refilled(update: ClientUpdate, row: Matrix) -> ClientUpdate:
    """Returns the update with the values of a row [D], rounded to float32."""
    filled, offset = dict(update.arrays), 0
    for name, vector in update.arrays.items():
        if name != SPARED:
            values = row[offset : offset + vector.size]
            filled[name] = np.clip(values, -LARGEST, LARGEST).astype(np.float32)
            offset += vector.size
    return dataclasses.replace(update, arrays=filled)
