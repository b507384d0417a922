"""The built-in strategies."""

from flctl.strategies.fedavg import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from flctl.strategies.fedmedian import FedMedian
from flctl.strategies.fedprox import FedProx

__all__ = ["STRATEGIES"]

STRATEGIES = [FedAvg, FedProx, FedMedian, FedAvgM, FedAdagrad, FedAdam, FedYogi]
