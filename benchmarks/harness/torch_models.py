"""The models of the workloads as plain torch modules, for whoever must not need flctl: the floor and the peers.

Parameters come in the order of flctl's own models, so that flat vectors can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["build", "flatten", "unflatten"]


def build(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The module `cnn` or `2nn` (McMahan et al. 2017) for 1 x 28 x 28 images, or `logreg` for 60 features.

    `options`: `hidden` of the 2nn (one width for both layers). Raises KeyError for another name.
    """
    return {"cnn": _cnn, "2nn": _two_nn, "logreg": _softmax}[name](**(options or {}))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def _two_nn(hidden: int = 200) -> nn.Module:
    layers = (nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    return nn.Sequential(nn.Flatten(), *layers)


def _softmax() -> nn.Module:
    return nn.Linear(60, 10)


def flatten(module: nn.Module) -> Tensor:
    """All parameters as one vector [D], a copy."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def unflatten(flat: Tensor, module: nn.Module) -> list[Tensor]:
    """Views of `flat` [D] with the shapes of the module's parameters."""
    parameters = list(module.parameters())
    parts = torch.split(flat, [parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]
