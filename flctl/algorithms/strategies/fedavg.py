"""FedAvg, and the presets of its `server:` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flctl.algorithms.strategy import Strategy


class FedAvg(Strategy):
    """Weighted mean of the clients' model changes (McMahan et al. 2017, Algorithm 1)."""

    name = "fedavg"


class FedAvgM(Strategy):
    """FedAvg with server momentum (Hsu et al. 2019, section 4.3)."""

    name = "fedavgm"
    server: ClassVar[Mapping[str, Any]] = {"optimizer": "momentum", "momentum": 0.9}


class FedAdagrad(Strategy):
    """FedAvg with Adagrad on the server (Reddi et al. 2021, Algorithm 2)."""

    name = "fedadagrad"
    server: ClassVar[Mapping[str, Any]] = {"optimizer": "adagrad", "lr": 0.1}


class FedAdam(Strategy):
    """FedAvg with Adam on the server (Reddi et al. 2021, Algorithm 2)."""

    name = "fedadam"
    server: ClassVar[Mapping[str, Any]] = {"optimizer": "adam", "lr": 0.01}


class FedYogi(Strategy):
    """FedAvg with Yogi on the server (Reddi et al. 2021, Algorithm 2)."""

    name = "fedyogi"
    server: ClassVar[Mapping[str, Any]] = {"optimizer": "yogi", "lr": 0.01}
