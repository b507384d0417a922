"""Multiplications of a module's forward pass, counted by running it on one row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["multiplications"]


def multiplications(module: nn.Module, row: Tensor) -> int:
    """Returns the multiplications of linear, convolution and recurrent layers for one row [1, ...].

    Puts the module into evaluation mode. Raises what its forward pass raises.
    """
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        weights = sum(parameter.numel() for parameter in layer.parameters() if parameter.dim() > 1)
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(layer, nn.Linear):
            counts.append(weights * first.numel() // layer.out_features)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            counts.append(weights * first.numel() // layer.out_channels)
        elif isinstance(layer, nn.RNNBase):
            # A row of shape [1, steps, features], or [steps, 1, features].
            counts.append(weights * inputs[0].shape[0] * inputs[0].shape[1])

    hooks = [layer.register_forward_hook(count) for layer in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(row)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
