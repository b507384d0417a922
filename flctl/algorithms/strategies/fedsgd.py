"""FedSGD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from flctl.algorithms.strategy import Strategy
from flctl.errors import IncompatibleError

if TYPE_CHECKING:
    from flctl.algorithms.run_info import RunInfo


class FedSGD(Strategy):
    """One gradient step on all rows of the cohort (McMahan et al. 2017, FedSGD: Algorithm 1 with B = infinity, E = 1).

    w <- w - lr sum_k (n_k / n) grad F_k(w) with `local.lr` as lr: the clients' steps are averaged by their rows.
    """

    name = "fedsgd"
    local: ClassVar[Mapping[str, Any]] = {"batch_size": 0}

    def check(self, run: RunInfo) -> None:
        local = run.config.local
        steps = local.steps if local.steps is not None else local.epochs
        if local.batch_size or steps != 1 or local.optimizer != "sgd":
            raise IncompatibleError(
                f"fedsgd makes one step of sgd on all rows of a client, and `local` asks for {steps} "
                f"{'epochs' if local.steps is None else 'steps'} of {local.optimizer} "
                f"with a batch size of {local.batch_size} (0 is all rows)",
                hint="Leave local.epochs, local.steps, local.batch_size and local.optimizer out, or use fedavg.",
            )
