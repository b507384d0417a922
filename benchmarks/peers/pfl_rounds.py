"""A workload's rounds through pfl's simulated backend; `torchrun` makes the processes, as its documentation has it."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from peer import Clock, given
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel


class Classifier(torch.nn.Module):
    """The workload's module with the two methods that pfl asks of a model."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What a local step minimises."""
        return torch.nn.functional.cross_entropy(self.module(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """Nothing is evaluated."""
        return {}


class Rounds(TrainingProcessCallback):  # type: ignore[misc]
    """Marks the end of each round."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Metrics]:
        """pfl, after each round."""
        self.clock.mark()
        return False, Metrics()


def main() -> None:
    """Plays the rounds."""
    spec, clock = given(), Clock()
    torch.set_num_threads(1)
    np.random.seed(7)
    x, y, bounds = spec.rows()

    def user(number: int) -> Dataset:
        rows = slice(bounds[number], bounds[number + 1])
        return Dataset(raw_data=[x[rows], y[rows]], user_id=str(number))

    module = Classifier(spec.module())
    central = torch.optim.SGD(module.parameters(), lr=1.0)
    model = PyTorchModel(module, local_optimizer_create=torch.optim.SGD, central_optimizer=central)
    order = np.random.permutation(spec.clients).tolist()
    users = FederatedDataset(user, get_user_sampler("minimize_reuse", order))
    backend = SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()])
    train = NNTrainHyperParams(
        local_batch_size=spec.batch_size, local_num_epochs=1, local_learning_rate=spec.lr, local_max_grad_norm=None
    )
    algorithm = NNAlgorithmParams(
        central_num_iterations=spec.rounds,
        evaluation_frequency=spec.rounds + 1,
        train_cohort_size=spec.cohort,
        val_cohort_size=0,
    )
    FederatedAveraging().run(
        algorithm_params=algorithm,
        backend=backend,
        model=model,
        model_train_params=train,
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Rounds(clock)],
    )
    if os.environ.get("RANK", "0") == "0":
        clock.report(version("pfl"))


if __name__ == "__main__":
    main()
