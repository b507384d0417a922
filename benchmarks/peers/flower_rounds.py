"""A workload's rounds through Flower's simulation runtime, with Ray and one CPU a client."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)  # for Ray's actors

from flower_client import train_with
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peer import Clock, given


def main() -> None:
    """Plays the rounds."""
    spec, clock = given(), Clock()
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(partial(train_with, sys.argv[1]))

    def after(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Flower, before the first round and after each."""
        if number:
            clock.mark()
        return None

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        share = spec.cohort / spec.clients
        strategy = FedAvg(fraction_train=share, fraction_evaluate=0.0, min_train_nodes=spec.cohort)
        start = ArrayRecord(spec.module().state_dict())
        strategy.start(grid=grid, initial_arrays=start, num_rounds=spec.rounds, evaluate_fn=after)

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": spec.workers}}
    run_simulation(server_app, client_app, num_supernodes=spec.clients, backend_config=resources)
    clock.report(version("flwr"))


if __name__ == "__main__":
    main()
