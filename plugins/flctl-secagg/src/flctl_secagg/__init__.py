"""Secure aggregation for flctl: the server learns the sum of clients' updates and no single one."""

from __future__ import annotations

from typing import Any

import flctl

FLCTL_API = "1.0"
"""Version of flctl's plugin API that this plugin is written for."""


@flctl.hookimpl
def flctl_aggregators() -> list[type[flctl.Aggregator]]:
    """Aggregators of this plugin. Imported on the first look-up of a name, so that `flctl --help` loads nothing."""
    from flctl_secagg.aggregator import SecureAggregation

    return [SecureAggregation]


@flctl.hookimpl
def flctl_commands(app: Any) -> None:
    """Adds `flctl secagg`. Each command imports its dependencies when it runs."""
    from flctl_secagg.cli import commands

    commands.register(app)
