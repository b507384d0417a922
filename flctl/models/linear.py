"""Linear models: softmax or logistic regression, and least squares."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from flctl.errors import ConfigError
from flctl.models.model import DataSpec, Model

if TYPE_CHECKING:
    import torch

__all__ = ["Linear", "LogisticRegression"]


class LogisticRegression(Model):
    """Softmax regression, or logistic regression for two classes with one logit."""

    name = "logreg"

    def build(self, data: DataSpec) -> torch.nn.Module:
        if data.task not in ("classification", "binary"):
            raise ConfigError(
                f"the model logreg predicts classes, and the task is {data.task}",
                hint="Use linear for regression, char-lstm for next character.",
            )
        return _affine(data)


class Linear(Model):
    """Linear regression."""

    name = "linear"

    def build(self, data: DataSpec) -> torch.nn.Module:
        if data.task != "regression":
            raise ConfigError(
                f"the model linear predicts a number, and the task is {data.task}",
                hint="Use logreg for classes, char-lstm for next character.",
            )
        return _affine(data)


def _affine(data: DataSpec) -> torch.nn.Module:
    from torch import nn

    layer = nn.Linear(math.prod(data.shape), data.outputs)
    return layer if len(data.shape) == 1 else nn.Sequential(nn.Flatten(), layer)
