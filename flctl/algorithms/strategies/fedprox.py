"""FedProx."""

from __future__ import annotations

from pydantic import Field

from flctl.algorithms.strategy import Strategy


class FedProx(Strategy):
    """FedAvg whose local loss adds mu/2 ||w - w_t||^2 (Li et al. 2020, equation 2)."""

    name = "fedprox"
    takes_partial = True

    class Config(Strategy.Config):
        proximal_mu: float = Field(
            0.01, ge=0, description="Proximal coefficient mu: pull towards the global model; 0 is FedAvg."
        )

    @property
    def pull(self) -> float:
        return float(self.config.proximal_mu)
