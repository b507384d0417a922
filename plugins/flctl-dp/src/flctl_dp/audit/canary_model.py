"""The model that canaries train: linear, without a bias, from weights of zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flctl import DataSpec

if TYPE_CHECKING:
    import torch

__all__ = ["canary_model"]


def canary_model(data: DataSpec) -> torch.nn.Module:
    """A linear model whose gradient on a row of zeros is zero: such a row is as good as absent."""
    from torch import nn

    model = nn.Linear(data.shape[0], data.outputs, bias=False)
    nn.init.zeros_(model.weight)
    return model
