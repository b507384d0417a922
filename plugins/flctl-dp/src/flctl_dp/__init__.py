"""Differential privacy for flctl, with an epsilon that can be trusted: mechanisms, accountants and a ledger."""

from __future__ import annotations

from typing import Any

import flctl

FLCTL_API = "1.0"
"""The version of flctl's plugin API that this is written for."""


@flctl.hookimpl
def flctl_transforms() -> list[type[flctl.Transform]]:
    """The mechanisms; imported when a transform's name is looked up."""
    from flctl_dp.mechanisms.adaptive import AdaptiveDP
    from flctl_dp.mechanisms.central import CentralDP
    from flctl_dp.mechanisms.distributed import DistributedDP
    from flctl_dp.mechanisms.examples import ExampleDP
    from flctl_dp.mechanisms.ftrl import CorrelatedDP
    from flctl_dp.mechanisms.local import LocalDP

    return [CentralDP, AdaptiveDP, DistributedDP, CorrelatedDP, ExampleDP, LocalDP]


@flctl.hookimpl
def flctl_commands(app: Any) -> None:
    """Adds `flctl dp`."""
    from flctl_dp.commands.register import register

    register(app)
