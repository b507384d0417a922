"""A workload's rounds through fluke, which trains clients one after the other in one process."""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from peer import Clock, Spec, given

# fluke imports torchvision, whose operators a build for CUDA does not load beside a torch for CPUs; its import then
# fails for want of these declarations. No workload here uses an operator of it.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from fluke import DDict, FlukeENV  # noqa: E402
from fluke.algorithms.fedavg import FedAVG  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.utils import FederationObserver  # noqa: E402


class Given:
    """Deals the prepared rows, in the place of fluke's own splitter."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def assign(self, n_clients: int, batch_size: int) -> tuple[tuple[list[Any], list[None]], None]:
        """((training loaders, test loaders), server's test loader)."""
        x, y, bounds = self.spec.rows()
        loaders = [
            FastDataLoader(x[start:end], y[start:end], num_labels=10, batch_size=batch_size, shuffle=True)
            for start, end in pairwise(bounds)
        ]
        return (loaders, [None] * n_clients), None


class Rounds(FederationObserver):
    """Marks the end of each round."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def end_round(self, round: int) -> None:  # noqa: A002
        """fluke, after each round."""
        self.clock.mark()


def main() -> None:
    """Plays the rounds."""
    spec, clock = given(), Clock()
    torch.set_num_threads(spec.workers)
    FlukeENV().set_seed(7)
    FlukeENV().set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False, task="classification")
    client = {
        "batch_size": spec.batch_size,
        "local_epochs": 1,
        "loss": "CrossEntropyLoss",
        "optimizer": {"name": "SGD", "lr": spec.lr},
        "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1.0},
    }
    settings = DDict(client=client, server={"weighted": True}, model=spec.module())
    algorithm = FedAVG(n_clients=spec.clients, data_splitter=Given(spec), hyper_params=settings)
    algorithm.set_callbacks([Rounds(clock)])
    algorithm.run(n_rounds=spec.rounds, eligible_perc=(spec.cohort + 0.5) / spec.clients)
    clock.report(version("fluke-fl"))


if __name__ == "__main__":
    main()
