"""Refusal of local training that is not SGD, for strategies whose formulas rest on it."""

from __future__ import annotations

from flctl.algorithms.run_info import RunInfo
from flctl.errors import IncompatibleError

__all__ = ["require_sgd"]


def require_sgd(run: RunInfo, reason: str, *, hint: str, momentum: bool) -> None:
    """Raises IncompatibleError, with the reason and the settings found, unless clients train by SGD; without local
    momentum unless `momentum` allows it."""
    local = run.config.local
    if local.optimizer == "sgd" and (momentum or not local.momentum):
        return
    found = f"`local.optimizer` is {local.optimizer}"
    if not momentum:
        found = f"`local` has the optimizer {local.optimizer} with the momentum {local.momentum:g}"
    raise IncompatibleError(f"{reason}, and {found}", hint=hint)
