"""The floor: the loop that one would write by hand for this one workload, without a framework.

One process, one thread; an ordinary module, `torch.optim.SGD`, `loss.backward()`, weights added up in place. The data
are in memory and each round's cohort and batch order are drawn before it is timed; flctl has to do both within its
time. No checks: a client that diverges would ruin it.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flctl.executors.batches import local_keys, orders
from flctl.performance.workloads import CLASSES, Workload
from flctl.run import cohort as cohorts
from flctl.run.run import Run

__all__ = ["HandWrittenLoop", "module_for"]


def module_for(model: str) -> nn.Module:
    """The plain torch module that flctl's model of this name computes. Raises KeyError for another name."""
    hidden = 200
    dense = (nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    first = (nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    top = (nn.Linear(64 * 7 * 7, 512), nn.ReLU(), nn.Linear(512, CLASSES))
    return {
        "logreg": nn.Sequential(nn.Linear(60, CLASSES)),
        "2nn": nn.Sequential(nn.Flatten(), *dense),
        "cnn": nn.Sequential(*first, *second, nn.Flatten(), *top),
    }[model]


class HandWrittenLoop:
    """Rounds of federated averaging by hand, from the run's initial model, of the clients and batches that the run
    draws."""

    def __init__(self, run: Run, workload: Workload) -> None:
        self._run, self._workload = run, workload
        self._module = module_for(workload.model)
        self._parameters: list[Any] = list(self._module.parameters())
        self._optimizer = torch.optim.SGD(self._parameters, lr=workload.lr)
        shards = [run.partition.train(client) for client in range(run.partition.clients)]
        self._x, self._y = (torch.from_numpy(np.concatenate(column)) for column in zip(*shards, strict=True))
        self._round = 0
        self.restart(run.build_model().read()["params"])

    def play(self) -> float:
        """Seconds that the next round takes."""
        self._round += 1
        plan = self._plan()
        started = time.perf_counter()
        self._average(plan)
        return time.perf_counter() - started

    def params(self) -> npt.NDArray[np.float32]:
        """The global model [D]."""
        return torch.cat([part.reshape(-1) for part in self._model]).numpy()

    def restart(self, model: npt.NDArray[np.float32]) -> None:
        """Goes on from the global model [D]."""
        parts = torch.split(torch.from_numpy(model), [parameter.numel() for parameter in self._parameters])
        self._model = [part.view_as(parameter) for part, parameter in zip(parts, self._parameters, strict=True)]

    def _plan(self) -> list[tuple[Tensor, float]]:
        """Each client's rows in the order of its steps, and its weight."""
        run, config = self._run, self._run.config
        eligible = np.flatnonzero(run.partition.counts[:, 0])
        clients = cohorts.select(config.cohort, eligible, run.partition.client_ids, self._round, config.seed)
        sizes = run.partition.counts[clients, 0]
        keys = local_keys(config.seed, self._round, run.partition.client_ids.take(clients))
        order = orders(keys, sizes, epoch=0) + run.partition.train_starts(clients)[:, None]
        shares = sizes / sizes.sum()
        return [(torch.from_numpy(rows[:n]), w) for rows, n, w in zip(order, sizes, shares.tolist(), strict=True)]

    def _average(self, plan: list[tuple[Tensor, float]]) -> None:
        total = [torch.zeros_like(part) for part in self._model]
        for rows, weight in plan:
            self._train(rows)
            with torch.no_grad():
                torch._foreach_add_(total, self._parameters, alpha=weight)
        self._model = total

    def _train(self, rows: Tensor) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self._model)
        size = self._workload.batch_size
        batches = zip(torch.split(self._x[rows], size), torch.split(self._y[rows], size), strict=True)
        for x, y in batches:
            self._optimizer.zero_grad()
            cross_entropy(self._module(x), y).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
