"""Recurrent networks for text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from flctl.component import Options
from flctl.errors import ConfigError
from flctl.models.model import DataSpec, Model

if TYPE_CHECKING:
    import torch

__all__ = ["CharLstm"]


class CharLstm(Model):
    """The character LSTM of McMahan et al. 2017: an embedding of 8, two LSTM layers of 256 units, softmax.

    Predicts the next character at each position of a window. `dropout` is between the layers. Weights start as
    torch's default: uniform in +-1/sqrt(hidden), the embedding standard normal.
    """

    name = "char-lstm"

    class Config(Options):
        embedding: PositiveInt = 8
        hidden: PositiveInt = 256
        layers: PositiveInt = 2
        dropout: float = Field(0.0, ge=0.0, lt=1.0)

    def build(self, data: DataSpec) -> torch.nn.Module:
        if data.task != "next-character":
            raise ConfigError(
                f"the model char-lstm predicts the next character, and the task is {data.task}",
                hint="Use logreg, mlp or cnn for classes, linear or mlp for regression.",
            )
        from flctl.models.recurrent import CharacterNetwork

        options = self.config
        return CharacterNetwork(data.outputs, options.embedding, options.hidden, options.layers, options.dropout)
