"""`flctl dp audit`: which mechanism a run or a configuration has, and what its audit found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from flctl import ConfigError
from pydantic import ValidationError

from flctl_dp.audit import Audit, audit
from flctl_dp.calibration import calibrate
from flctl_dp.releases import Release
from flctl_dp.transform import CentralDP

__all__ = ["audit_of", "data", "told"]

_MOST = 1 << 20
"""Bytes of a configuration or summary."""


def audit_of(path: Path, canaries: int, rounds: int | None) -> Audit:
    """The audit of the transform 'dp' as a run directory, or a YAML file, has it.

    Raises ConfigError for a configuration without it, or whose sampling the attack does not know.
    """
    config = _read(path / "config.yaml" if path.is_dir() else path)
    options = config.get("transforms")
    if not isinstance(options, Mapping) or CentralDP.name not in options:
        raise ConfigError(f"{path} has no transform '{CentralDP.name}' to audit")
    try:
        transform = CentralDP.from_options(dict(options[CentralDP.name] or {}))
    except (ValidationError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: transforms.{CentralDP.name} cannot be used: {error}") from error
    if transform.config.insecure_seed is not None:
        raise ConfigError(f"{path} has an insecure_seed: it claims nothing that could be audited")
    planned = int(_number(path, "rounds", config.get("rounds", 1)))
    noise, played = _played(path)
    count, noise = rounds or played or planned, noise or transform.config.noise_multiplier
    release = _release(path, config.get("cohort"), noise or 1.0)
    if noise is None:
        target, delta = transform.config.target_epsilon, transform.config.target_delta
        noise = calibrate(release, planned, target, delta, release.default_relation())
        release = _release(path, config.get("cohort"), noise)
    return audit(transform, release, count, canaries=canaries)


def told(found: Audit) -> str:
    """What was found, in one line."""
    verdict = "the claim is REFUTED" if found.broken else "the claim stands"
    return (
        f"epsilon is at least {found.lower:.3g} with {found.confidence:.0%} confidence, and {found.claim:.4g} is "
        f"claimed (delta {found.delta:g}, {found.rounds} rounds, {found.canaries} canaries): {verdict}"
    )


def data(found: Audit) -> dict[str, Any]:
    """As plain values."""
    return {**asdict(found), "broken": found.broken}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MOST:
        raise ConfigError(f"{path} is no configuration", hint="Give a run's directory, or a YAML file.")
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


def _played(path: Path) -> tuple[float | None, int | None]:
    """The noise multiplier and the rounds that a finished run had."""
    summary = path / "summary.json"
    if not summary.is_file() or summary.stat().st_size > _MOST:
        return None, None
    try:
        said = json.loads(summary.read_text(encoding="utf-8"))
        return float(said["transforms"][CentralDP.name]["noise_multiplier"]), int(said["rounds"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, None


def _release(path: Path, cohort: Any, noise: float) -> Release:
    chosen = cohort if isinstance(cohort, Mapping) else {}
    sampling = chosen.get("sampling", "fixed")
    if sampling == "poisson":
        return Release("poisson", noise, rate=_number(path, "cohort.rate", chosen.get("rate")))
    if sampling == "all":
        return Release("all", noise)
    raise ConfigError(
        f"{path} samples its cohorts by '{sampling}', and the attack knows poisson and all",
        hint="Audit the same mechanism with cohort.sampling=all: it is the same noise.",
    )
