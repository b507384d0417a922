"""The built-in models. Torch is imported when a model is built, not when one is looked up."""

from __future__ import annotations

from flctl.models.images import Cnn, ResNet
from flctl.models.linear import Linear, LogisticRegression
from flctl.models.mlp import Mlp, TwoNN
from flctl.models.model import Model
from flctl.models.text import CharLstm

__all__ = ["MODELS"]

MODELS: list[type[Model]] = [LogisticRegression, Linear, Mlp, TwoNN, Cnn, ResNet, CharLstm]
