"""FedProx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from flctl.strategy import Strategy
from flctl.types import Arrays, Work

if TYPE_CHECKING:
    from torch import Tensor


class FedProx(Strategy):
    """FedAvg whose local loss adds mu/2 ||w - w_t||^2 (Li et al. 2020, equation 2)."""

    name = "fedprox"

    class Config(Strategy.Config):
        proximal_mu: float = Field(0.01, ge=0, description="Pull towards the global model; 0 is FedAvg.")

    def adjust(self, grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
        anchor: Any = work.params["params"]  # a tensor here
        return grad.add(params - anchor, alpha=self.config.proximal_mu)
