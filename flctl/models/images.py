"""Convolutional networks for images [channels, height, width] of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from flctl.component import Options
from flctl.errors import ConfigError, counted
from flctl.models.model import DataSpec, Model

if TYPE_CHECKING:
    import torch

__all__ = ["Cnn", "ResNet"]


class Cnn(Model):
    """The CNN of McMahan et al. 2017: two 5x5 convolutions, each with 2x2 max pooling, and one hidden layer.

    32 and 64 channels and 512 units, ReLU after each; 1,663,370 parameters on MNIST. Convolutions keep the size of
    the image. Weights start as torch's default, uniform in +-1/sqrt(inputs of the unit).
    """

    name = "cnn"

    class Config(Options):
        channels: tuple[PositiveInt, PositiveInt] = (32, 64)
        hidden: PositiveInt = 512

    def build(self, data: DataSpec) -> torch.nn.Module:
        from torch import nn

        depth, height, width = _image(self.name, data, smallest=4)
        first, second = self.config.channels
        return nn.Sequential(
            nn.Conv2d(depth, first, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (width // 4), self.config.hidden),
            nn.ReLU(),
            nn.Linear(self.config.hidden, data.outputs),
        )


class ResNet(Model):
    """Residual network with group norm: ResNet-18 for small images, without batch statistics to average.

    He et al. 2016 with the 3x3 first layer that suits CIFAR, and group norm in the place of batch norm (Hsieh et
    al. 2020), two groups as in Reddi et al. 2021. `blocks` are the residual blocks of each stage; the first stage
    has `width` channels, each next one twice as many at half the size. `width: 16, blocks: [3, 3, 3]` is ResNet-20,
    with 1/40 of the parameters. Weights start as torch's default.
    """

    name = "resnet"

    class Config(Options):
        width: PositiveInt = 64
        blocks: tuple[PositiveInt, ...] = Field((2, 2, 2, 2), min_length=1)
        groups: PositiveInt = 2

    def build(self, data: DataSpec) -> torch.nn.Module:
        from flctl.models.residual import residual_network

        depth, _, _ = _image(self.name, data, smallest=1)
        if self.config.width % self.config.groups:
            raise ConfigError(
                f"model.groups is {self.config.groups}, which does not divide {counted(self.config.width, 'channel')}",
                hint="Set model.groups to a divisor of model.width.",
            )
        return residual_network(depth, data.outputs, self.config.width, self.config.blocks, self.config.groups)


def _image(model: str, data: DataSpec, smallest: int) -> tuple[int, int, int]:
    if data.task == "next-character" or len(data.shape) != 3:
        raise ConfigError(
            f"the model {model} needs images of shape channels x height x width, "
            f"and an example has the shape {list(data.shape)} (task {data.task})",
            hint="Use mlp or logreg for tables, char-lstm for text.",
        )
    depth, height, width = data.shape
    if min(height, width) < smallest:
        raise ConfigError(
            f"images of {height} x {width} are too small for the model {model}, which needs {smallest} x {smallest}",
            hint="Use mlp, which accepts images of any size.",
        )
    return depth, height, width
