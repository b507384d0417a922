"""An end-to-end audit: `flctl train` itself trains on canaries, by the configuration of a run.

Each canary is a client with one row (or a row of one client, under dp-examples) on a feature of its own, so large that
its update is clipped. A fair coin decides if the row is there or is zero. Partition, cohorts, executors, transforms,
aggregator and ledger are those of the configuration; the attacker sees the first and the last model, and guesses coins
from the weights of the features (Steinke, Nasr and Jagielski 2023).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from flctl import ConfigError, FlctlError, IncompatibleError

from flctl_dp.accounting.accountants import epsilon
from flctl_dp.audit.canary_attack import SHARES, Audit, guessed, lower_bound
from flctl_dp.audit.run_audit import read_config, summary_of
from flctl_dp.ledgers.client_ledgers import ClientLedgers

__all__ = ["audit_end_to_end"]

_LOUD = 1e6
"""The value of a canary's feature: its update is hundreds of clipping norms long."""
_QUIET = 1e-3
"""Learning rate, in clipping norms: the bias of a row of zeros moves by a thousandth of the clipping norm at most."""
_ROWS = "dp-examples"
_KEPT = ("aggregator", "cohort", "engine", "plugins", "seed")
"""Sections of the configuration that the canaries' run takes over, beside its transforms."""
Floats = npt.NDArray[np.float64]


def audit_end_to_end(path: Path, canaries: int, rounds: int | None, error: float = 0.05) -> Audit:
    """Trains on canaries by the configuration of a run directory or YAML file, for `rounds` rounds (default 1: later
    rounds find the canaries fitted).

    Raises ConfigError for a configuration without a mechanism, or whose noise is not known.
    """
    config = read_config(path / "config.yaml" if path.is_dir() else path)
    rng = np.random.default_rng()
    inside = rng.random(canaries) < 0.5
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepared = _configured(config, summary_of(path), folder, rounds or 1)
        by_rows = _ROWS in prepared["transforms"]
        _partition(folder, inside, 1 if by_rows else canaries)
        _flctl("train", "--config", _written(folder, prepared), "--out", folder / "run", "--yes")
        score, claim, delta = _score(folder / "run", canaries), *_claim(folder, by_rows=by_rows)
    found = [lower_bound(canaries, *guessed(score, inside, share), delta, error / len(SHARES)) for share in SHARES]
    return Audit(max(found), claim, delta, 1 - error, canaries, rounds or 1, end_to_end=True)


def _configured(config: Mapping[str, Any], summary: Mapping[str, Any], folder: Path, rounds: int) -> dict[str, Any]:
    """The configuration of the canaries' run. The noise of a calibrated run is that of its summary."""
    transforms: dict[str, Any] = {}
    for name, options in (config.get("transforms") or {}).items():
        known = dict(options or {})
        if "clipping_norm" in known or "noise_multiplier" in known or str(name).startswith("dp"):
            known = _mechanism(str(name), known, summary, folder)
        transforms[str(name)] = known
    clip = min((float(one.get("clipping_norm", 1.0)) for one in transforms.values()), default=1.0)
    if not any("ledger" in one for one in transforms.values()):
        raise ConfigError("the configuration has no mechanism of differential privacy to audit")
    local = config.get("local") or {}
    size = local.get("batch_size", 0) if _ROWS in transforms else 0
    return {
        **{name: config[name] for name in _KEPT if config.get(name)},
        "data": (folder / "parts").as_posix(),
        "model": "logreg",
        "strategy": "fedavg",
        "transforms": transforms,
        "local": {"lr": _QUIET * clip, "epochs": 1, "batch_size": size},
        "rounds": rounds,
        "eval": {"every": 0},
        "checkpoint": {"every": 0},
    }


def _mechanism(name: str, options: dict[str, Any], summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if options.get("insecure_seed") is not None:
        raise ConfigError(f"transforms.{name} has an insecure_seed: it makes no privacy claim to audit")
    noise = options.get("noise_multiplier") or summary.get("transforms", {}).get(name, {}).get("noise_multiplier")
    if noise is None and options.get("target_epsilon") is not None:
        raise IncompatibleError(
            f"the noise of transforms.{name} follows from target_epsilon, and is known only after a run",
            hint="Audit the directory of a finished run, or set noise_multiplier.",
        )
    kept = {
        key: value for key, value in options.items() if key not in ("target_epsilon", "ledger") and value is not None
    }
    ledger = folder / ("ledgers" if name == _ROWS else f"{len(name)}.jsonl")
    return {**kept, "noise_multiplier": float(noise or 1.0), "ledger": ledger.as_posix()}


def _partition(folder: Path, inside: npt.NDArray[np.bool_], clients: int) -> None:
    """Partitions rows [canaries, canaries]: large on a canary's own feature if its coin is True, else zero."""
    size = len(inside)
    rows = np.where(inside[:, None], _LOUD * np.eye(size, dtype=np.float32), np.float32(0))
    np.savez(folder / "canaries.npz", x=rows, y=np.where(inside, 1, np.arange(size) % 2))
    options = ("--clients", clients, "--scheme", "iid", "--test-fraction", 0, "--standardise", "none")
    _flctl("partition", folder / "canaries.npz", *options, "--out", folder / "parts")


def _written(folder: Path, config: Mapping[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    return path


def _flctl(*arguments: Any) -> None:
    """Runs a command of flctl in a process of its own. Raises FlctlError with its last lines if it fails."""
    command = [sys.executable, "-m", "flctl", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell
    if ended.returncode:
        said = " ".join(ended.stderr.strip().splitlines()[-3:])[-600:]
        raise FlctlError(f"flctl {arguments[0]} on canaries ended with exit code {ended.returncode}: {said}")


def _score(run: Path, canaries: int) -> Floats:
    """Change of the weight of each canary's feature, [canaries]."""
    from safetensors.numpy import load_file

    first, last = (load_file(path / "model.safetensors") for path in _ends(run))
    name = next(key for key, value in last.items() if value.size == canaries)
    moved = last[name].astype(np.float64) - first[name].astype(np.float64)
    return np.asarray(moved.ravel())


def _ends(run: Path) -> tuple[Path, Path]:
    saved = sorted((run / "checkpoints").glob("round-*"))
    return saved[0], saved[-1]


def _claim(folder: Path, *, by_rows: bool) -> tuple[float, float]:
    """(epsilon, delta) that the canaries' run claims. Rows of zeros still move the bias, so that rows are audited as
    `replace-one`."""
    said = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))["transforms"]
    claimed = [one for one in said.values() if "epsilon" in one]
    delta = float(claimed[-1]["delta"])
    if not by_rows:
        return float(claimed[-1]["epsilon"]), delta
    ledgers = ClientLedgers(folder / "ledgers").all().values()
    return max(epsilon(ledger.releases(), delta, "replace-one") for ledger in ledgers), delta
