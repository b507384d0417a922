"""Secure aggregation for flctl: the server learns the sum of clients' updates and no single one."""

from __future__ import annotations

from typing import Any

import flctl

FLCTL_API = "1.0"
"""The version of flctl's plugin API that this is written for."""


@flctl.hookimpl
def flctl_aggregators() -> list[type[flctl.Aggregator]]:
    """What this plugin offers; asked for when a name is looked up, so that `flctl --help` loads nothing."""
    from flctl_secagg.aggregator import SecureAggregation

    return [SecureAggregation]


@flctl.hookimpl
def flctl_commands(app: Any) -> None:
    """`flctl secagg`; what its commands need is imported when they run."""
    from flctl_secagg.cli import commands

    commands.register(app)
