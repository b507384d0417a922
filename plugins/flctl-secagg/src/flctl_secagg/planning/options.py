"""Plan of a session from options alone, without a run."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from flctl import ConfigError
from flctl_secagg.aggregator import SecureAggregation
from flctl_secagg.encoding.vectors import WEIGHT
from flctl_secagg.planning.costs import Plan, Speed, plan

__all__ = ["configured", "planned"]

_PARAMETERS = 700
"""Estimated size of a session's parameters without the cohort's ids, in bytes."""


def configured(options: Mapping[str, str]) -> SecureAggregation:
    """Returns the aggregator with these options of `aggregator:`. Raises ConfigError if an option is not valid."""
    try:
        return SecureAggregation.from_options(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "options"
        raise ConfigError(f"aggregator.{key}: {first['msg']}", hint="See the options in docs/secagg.md.") from error


def planned(clients: int, parameters: int, options: Mapping[str, str], speed: Speed) -> Plan:
    """Returns the costs of a session of `clients` clients with these options of `aggregator:`. Raises ConfigError if an
    option is not valid, IncompatibleError if the options cannot be met with that number of clients."""
    aggregator = configured(options)
    aggregator.require_cohort(clients)
    encoding = aggregator.encoding(clients, {"delta": parameters, WEIGHT: 1})
    hello = _PARAMETERS + clients * (len(str(clients)) + 3)
    return plan(
        encoding, aggregator.degrees(clients), active=aggregator.config.mode == "active", hello=hello, speed=speed
    )
