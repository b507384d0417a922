"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from flctl.component import Options
from flctl.errors import ConfigError
from flctl.models.model import DataSpec, Model

if TYPE_CHECKING:
    import torch

__all__ = ["Mlp", "TwoNN"]


class Mlp(Model):
    """Multi-layer perceptron: `hidden` widths, `activation` and `dropout` after each hidden layer.

    Inputs of any shape are flattened. Weights start as torch's default, uniform in +-1/sqrt(inputs of the layer).
    """

    name = "mlp"

    class Config(Options):
        hidden: tuple[PositiveInt, ...] = (64, 64)
        activation: Literal["relu", "tanh", "gelu"] = "relu"
        dropout: float = Field(0.0, ge=0.0, lt=1.0)

    def build(self, data: DataSpec) -> torch.nn.Module:
        if data.task == "next-character":
            raise ConfigError(f"the model {self.name} cannot predict the next character", hint="Use char-lstm.")
        return _perceptron(data, self.config)


class TwoNN(Mlp):
    """The 2NN of McMahan et al. 2017: two hidden layers of 200 units, ReLU; 199,210 parameters on MNIST."""

    name = "2nn"

    class Config(Mlp.Config):
        hidden: tuple[PositiveInt, ...] = (200, 200)


def _perceptron(data: DataSpec, config: Mlp.Config) -> torch.nn.Module:
    from torch import nn

    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}[config.activation]
    layers: list[nn.Module] = [nn.Flatten()] if len(data.shape) != 1 else []
    width = math.prod(data.shape)
    for units in config.hidden:
        layers += [nn.Linear(width, units), activation()]
        layers += [nn.Dropout(config.dropout)] if config.dropout else []
        width = units
    return nn.Sequential(*layers, nn.Linear(width, data.outputs))
