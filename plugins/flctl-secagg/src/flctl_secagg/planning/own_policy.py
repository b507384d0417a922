"""Effective policy of clients, with the origin of each value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flctl import IncompatibleError
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.policy_file import POLICY, read_policy
from flctl_secagg.planning.options import configured

__all__ = ["effective"]


def effective(directory: Path, options: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns, by key, the value and its origin: the file, "default", or "run" if the run's options make it stricter.

    Raises ConfigError if the policy or an option is not valid, IncompatibleError if the policy refuses the options.
    """
    own = read_policy(directory / POLICY)
    flat = _flat(own.policy)
    origins = {name: own.origins.get(name, "default") for name in flat}
    if options:
        given = configured(options)
        run = dataclasses.replace(
            given._options(own.policy.run), simulation=False, rounds=own.policy.rounds, local=own.policy.local
        )
        if given.config.max_weight is None:  # the default is the weight of the largest client, unknown without a run
            run = dataclasses.replace(run, max_weight=own.policy.max_weight)
        found = own.policy.objections(run)
        if found:
            raise IncompatibleError(
                f"the policy in {directory} refuses these options: {'; '.join(found)}",
                hint="Change the options, or the policy.",
            )
        tightened = _flat(own.policy.tightened(run))
        origins = {name: origins[name] if tightened[name] == flat[name] else "run" for name in flat}
        flat = tightened
    return {name: {"value": value, "origin": origins[name]} for name, value in flat.items()}


def _flat(policy: Policy) -> dict[str, Any]:
    values = {name: getattr(policy, name) for name in (field.name for field in dataclasses.fields(policy))}
    local, _ = values.pop("local"), values.pop("simulation")
    return values | {f"local.{field.name}": getattr(local, field.name) for field in dataclasses.fields(local)}
