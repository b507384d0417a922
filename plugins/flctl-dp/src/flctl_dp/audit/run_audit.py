"""`flctl dp audit`: the mechanism of a run or a configuration, audited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from flctl import ConfigError, IncompatibleError
from flctl.errors import counted
from pydantic import ValidationError

from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.figures import rounded_up
from flctl_dp.accounting.releases import Release
from flctl_dp.audit.canary_attack import Audit, audit
from flctl_dp.mechanisms.adaptive import AdaptiveDP
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.ftrl import CorrelatedDP

__all__ = ["audit_of", "data", "read_config", "report_text", "summary_of"]

_MOST = 1 << 20
"""Bytes of a configuration or summary."""


def audit_of(path: Path, canaries: int, rounds: int | None) -> Audit:
    """The audit of the transform 'dp', 'dp-adaptive' or 'dp-ftrl' as a run directory, or a YAML file, has it.

    Raises ConfigError for a configuration without any, or whose sampling the attack does not know, IncompatibleError
    for a mechanism that it does not know.
    """
    config = read_config(path / "config.yaml" if path.is_dir() else path)
    transform = _mechanism(path, config)
    if transform.config.insecure_seed is not None:
        raise ConfigError(f"{path} has an insecure_seed: it makes no privacy claim to audit")
    planned = int(_number(path, "rounds", config.get("rounds", 1)))
    played = _played(path, transform.name)
    noise = played.get("noise_multiplier") or transform.config.noise_multiplier
    release = _release(path, config.get("cohort"), noise or 1.0, transform, played)
    if noise is None:
        target, delta = transform.config.target_epsilon or 0.0, transform.config.target_delta
        noise = calibrate(PlannedRounds(release, planned), PrivacyTarget(target, delta, release.default_relation()))
        release = replace(release, noise_multiplier=noise)
    return audit(transform, release, rounds or int(played.get("rounds", planned)), canaries=canaries)


def _mechanism(path: Path, config: Mapping[str, Any]) -> CentralDP:
    """The run's transform that protects clients."""
    options = config.get("transforms")
    chosen = dict(options) if isinstance(options, Mapping) else {}
    kind = next((kind for kind in (CentralDP, AdaptiveDP, CorrelatedDP) if kind.name in chosen), None)
    if kind is None:
        other = next((name for name in chosen if str(name).startswith(f"{CentralDP.name}-")), None)
        if other:
            raise IncompatibleError(
                f"the attack does not support transform '{other}'",
                hint="Supported transforms: 'dp', 'dp-adaptive' and 'dp-ftrl'.",
            )
        raise ConfigError(f"{path} has no transform '{CentralDP.name}' to audit")
    try:
        return kind.from_options(dict(chosen[kind.name] or {}))
    except (ValidationError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: transforms.{kind.name} cannot be used: {error}") from error


def report_text(found: Audit) -> str:
    """The finding in one line."""
    verdict = "the claim is REFUTED" if found.broken else "this attack does not refute the claim"
    return (
        f"epsilon of the mechanism is at least {found.lower:.3g} with {found.confidence:.0%} confidence, and "
        f"{rounded_up(found.claim)} is claimed (delta {found.delta:g}, {counted(found.rounds, 'round')}, "
        f"{counted(found.canaries, 'canary', 'canaries')}): {verdict}. "
        f"{_END_TO_END if found.end_to_end else _MECHANISM}"
    )


_MECHANISM = (
    "Covered: clipping, noise and composition; not covered: training, cohorts and aggregator (see --end-to-end)"
)
_END_TO_END = (
    "Covered: training, cohorts, transforms, aggregator and accounting of the configuration, on synthetic rows"
)


def data(found: Audit) -> dict[str, Any]:
    """As plain values."""
    return {**asdict(found), "broken": found.broken}


def read_config(path: Path) -> dict[str, Any]:
    """Returns the configuration in a YAML file. Raises ConfigError if it is missing, too large or not a mapping."""
    if not path.is_file() or path.stat().st_size > _MOST:
        raise ConfigError(f"{path} is not a configuration", hint="Use a run directory, or a YAML file.")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a YAML mapping")
    return config


def _number(path: Path, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"{path}: {name} is {value!r}, expected a number above 0")
    return float(value)


def summary_of(path: Path) -> dict[str, Any]:
    """Returns the summary of a finished run; empty if it is missing, too large or unreadable."""
    summary = path / "summary.json"
    if not summary.is_file() or summary.stat().st_size > _MOST:
        return {}
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _played(path: Path, name: str) -> dict[str, float]:
    """Rounds and figures of the mechanism in a finished run's summary; empty if the summary lacks them."""
    summary = summary_of(path)
    try:
        recorded = {"rounds": summary["rounds"], **summary["transforms"][name]}
        return {key: float(value) for key, value in recorded.items() if isinstance(value, (int, float))}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _release(path: Path, cohort: Any, noise: float, transform: CentralDP, played: Mapping[str, float]) -> Release:
    chosen = cohort if isinstance(cohort, Mapping) else {}
    sampling = chosen.get("sampling", "fixed")
    if isinstance(transform, CorrelatedDP):
        if not {"bands", "separation"} <= played.keys():
            raise IncompatibleError(
                f"the separation of a client's rounds in {path} depends on the number of clients, which only a run "
                "records",
                hint=f"Audit the directory of a run with '{transform.name}' that is finished.",
            )
        bands, separation = int(played["bands"]), int(played["separation"])
        return Release("cyclic", noise, bands=bands, separation=separation, place=1)
    if sampling == "poisson" and not chosen.get("max_cohort"):
        return Release("poisson", noise, rate=_number(path, "cohort.rate", chosen.get("rate")))
    if sampling == "all":
        return Release("all", noise)
    cut = " with a max_cohort" if chosen.get("max_cohort") else ""
    raise ConfigError(
        f"{path} samples its cohorts by '{sampling}'{cut}, and the attack supports poisson and all",
        hint="Audit the same mechanism with cohort.sampling=all: its noise is the same.",
    )
