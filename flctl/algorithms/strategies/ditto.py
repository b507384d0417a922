"""Ditto."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from flctl.algorithms.strategy import Stage, Strategy
from flctl.types import Arrays, Layout, LocalWork, Work

if TYPE_CHECKING:
    from torch import Tensor

    from flctl.types import Trained

_OWN = "personal."


class Ditto(Strategy):
    """FedAvg, and beside it a personal model of each client near the global one (Li et al. 2021, Algorithm 1, Ditto).

    The update is fedavg's. Then the client trains its own model, v <- v - lr (grad F_k(v) + lambda (v - w_t)), and
    keeps it in its memory. It starts from the global model of the first round in which it takes part. A large lambda
    gives the global model; 0 gives local training alone.
    """

    name = "ditto"

    class Config(Strategy.Config):
        ditto_lambda: float = Field(
            0.1, ge=0, description="Proximal coefficient lambda: pull of the personal model towards the global model."
        )
        personal_epochs: PositiveInt | None = Field(
            None, description="Epochs on the personal model per round; null: local.epochs."
        )

    def remembers(self, layout: Layout) -> Layout:
        """Both sides: the personal model v_k."""
        return {_OWN + name: length for name, length in layout.items()}

    def first(self, work: Work) -> Arrays:
        return {_OWN + name: vector for name, vector in work.params.items()}

    def personal(self, params: Arrays, memory: Arrays) -> Arrays:
        return {name: memory[_OWN + name] for name in params}

    def stages(self, local: LocalWork) -> Sequence[Stage]:
        epochs = self.config.personal_epochs
        own = local if epochs is None else dataclasses.replace(local, epochs=epochs, steps=None)
        return Stage(local), Stage(own, "personal", adjust=self.pulled)

    def pulled(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        """Returns the gradient of the client's own model."""
        anchor: Any = work.params["params"]  # a tensor here
        return grad.add_(params - anchor, alpha=self.config.ditto_lambda)

    def report(self, local: Trained, work: Work, memory: Arrays) -> tuple[Arrays, float, Arrays]:
        arrays, weight, _ = super().report(local, work, memory)
        kept = local.personal or self.personal(work.params, memory)
        return arrays, weight, {_OWN + name: vector for name, vector in kept.items()}
