"""The modules of the residual network; imports torch, so it is imported when one is built."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["residual_network"]


def residual_network(depth: int, outputs: int, width: int, blocks: Sequence[int], groups: int) -> nn.Sequential:
    """Stages of residual blocks, the mean over the image, and a linear layer (He et al. 2016, section 4.2)."""
    layers: list[nn.Module] = [_conv(depth, width), nn.GroupNorm(groups, width), nn.ReLU()]
    before = width
    for stage, count in enumerate(blocks):
        after = width * 2**stage
        for block in range(count):
            layers.append(_Block(before, after, 2 if stage and not block else 1, groups))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs))


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(before, after, stride), nn.GroupNorm(groups, after), nn.ReLU())
        self.second = nn.Sequential(_conv(after, after), nn.GroupNorm(groups, after))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            convolution = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.GroupNorm(groups, after))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
