"""The base class of models: from the shape of the data to a torch module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flctl.component import Component
from flctl.types import TaskKind

if TYPE_CHECKING:
    import torch

__all__ = ["DataSpec", "Described", "Model"]


@dataclass(frozen=True, slots=True)
class DataSpec:
    """Requirements on a model: the task, one example's shape, and the number of outputs that the task needs.

    `outputs` is the number of classes (or characters), 1 for binary and regression. Inputs arrive as float32 [batch,
    *shape], or int64 codes [batch, window] for next character; outputs are logits [batch, outputs], or [batch, window,
    outputs] for next character, [batch, 1] for binary and regression.
    """

    task: TaskKind
    shape: tuple[int, ...]
    outputs: int


class Described(Protocol):
    """Anything that has the facts of a `DataSpec`: a partition, or the preprocessing that a run keeps."""

    @property
    def task(self) -> TaskKind:
        """The kind of task."""

    @property
    def shape(self) -> tuple[int, ...]:
        """One example's shape."""

    @property
    def outputs(self) -> int:
        """Number of outputs that the task needs."""


class Model(Component):
    """Builds the network; `build` runs after the seed is set, so equal seeds give equal initial weights.

    >>> import flctl
    >>> class Wide(flctl.Model):
    ...     name = "wide"
    ...     def build(self, spec):
    ...         import torch
    ...         return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(spec.shape[0], spec.outputs))
    >>> sum(p.numel() for p in Wide().build(flctl.DataSpec("classification", (4,), 3)).parameters())
    15
    """

    def build(self, data: DataSpec) -> torch.nn.Module:
        """Returns the freshly initialised module. Raises ConfigError if the data does not fit the model."""
        raise NotImplementedError
