"""An end-to-end audit: `flctl train` itself trains on canaries, by the configuration of a run.

Canaries are in the data by fair coins, and the attacker guesses the coins (Steinke, Nasr and Jagielski 2023). A canary
is a client, or a row under dp-examples, whose gradient lies on one feature and is far longer than the clipping norm.
Partition, cohorts, executors, transforms, aggregator and ledger are those of the configuration, and the claim is that
of the canaries' run. The attacker sees what the claim is about: the first and the last model; or each client's message
as the server receives it, if clients add the noise and the aggregator does not hide them.

Runs over a hiding aggregator are of few clients each, since its cost grows with their square: several runs with
canaries and a ledger of their own share the guesses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from flctl import ConfigError, FlctlError, IncompatibleError

from flctl_dp.audit import canary_model, recording_engine
from flctl_dp.audit.canary_attack import SHARES, Audit, guessed, insiders, lower_bound
from flctl_dp.audit.canary_data import LOUD, ROWS, Canaries
from flctl_dp.audit.run_audit import read_config, summary_of

__all__ = ["HIDDEN", "Command", "audit_end_to_end"]

HIDDEN = 20
"""Clients of a run over an aggregator that hides them, or its minimum if that is more."""
_ERROR = 0.05
"""Probability that the bound exceeds the true epsilon."""
_MANY, _FEW = 1000, 800
"""Default numbers of canaries."""
_RATE = 4.0 / LOUD
"""Learning rate: the update of a canary's client is eight clipping norms long."""
_BY_ROW, _LOCAL = "dp-examples", "dp-local"
_KEPT = ("aggregator", "cohort", "engine", "plugins", "seed")
"""Sections of the configuration that the canaries' run takes over, beside its transforms."""
Floats = npt.NDArray[np.float64]
Command = Callable[[Sequence[str]], None]
"""Runs a command of flctl, given as words. Raises FlctlError if it fails."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """The configuration without its data, what the attacker sees, and the largest number of canaries in one run."""

    config: Mapping[str, Any]
    clip: float
    most: int
    _: KW_ONLY
    by_row: bool
    opposite: bool
    single: bool

    def canaries(self, inside: npt.NDArray[np.bool_]) -> Canaries:
        return Canaries(inside, by_row=self.by_row, opposite=self.opposite, single=self.single)


@dataclass(frozen=True, slots=True)
class _Played:
    """Outcome of one run on canaries: coins and scores [n], and the claim."""

    inside: npt.NDArray[np.bool_]
    score: Floats
    claim: float
    delta: float


def audit_end_to_end(
    path: Path,
    canaries: int | None,
    rounds: int | None,
    flctl: Command,
    rng: np.random.Generator | None = None,
) -> Audit:
    """Trains on canaries (default 1000, or 800 over an aggregator that hides clients) by the configuration of a run
    directory or YAML file, for `rounds` rounds (default 1).

    `flctl` runs a command. Raises ConfigError for a configuration without a mechanism, IncompatibleError if its noise
    is not known yet.
    """
    config = read_config(path / "config.yaml" if path.is_dir() else path)
    setting = _setting(config, summary_of(path), rounds or 1)
    canaries = canaries or (_MANY if setting.most >= _MANY else _FEW)
    rng = rng or np.random.default_rng()
    parts = np.array_split(rng.random(canaries) < 0.5, -(-canaries // setting.most))
    played = [_play(setting, inside, flctl) for inside in parts]
    inside, score = (np.concatenate([getattr(one, name) for one in played]) for name in ("inside", "score"))
    claim, delta = max(one.claim for one in played), max(one.delta for one in played)
    return Audit(_bound(score, inside, delta), claim, delta, 1 - _ERROR, canaries, rounds or 1, end_to_end=True)


def _bound(score: Floats, inside: npt.NDArray[np.bool_], delta: float) -> float:
    """The lower bound of several attacks, which share the probability of error: the surest guesses are insiders and
    outsiders, or insiders alone, as a fault may give away presence and not absence."""
    attacks = [(attack, share) for attack in (guessed, insiders) for share in SHARES]
    each = _ERROR / len(attacks)
    return max(lower_bound(len(score), *attack(score, inside, share), delta, each) for attack, share in attacks)


def _play(setting: _Setting, inside: npt.NDArray[np.bool_], flctl: Command) -> _Played:
    """Makes a partition of canaries, trains on it, and scores them."""
    canaries = setting.canaries(inside)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "messages").mkdir()
        canaries.save(folder / "canaries.npz", setting.clip)
        options = ["--by", "client", "--scheme", "natural", "--task", "regression", "--standardise", "none"]
        options += ["--test-fraction", "0", "--no-report", "--no-duplicates", "--out", f"{folder / 'parts'}"]
        flctl(["partition", f"{folder / 'canaries.npz'}", *options])
        flctl(["train", "--config", f"{_written(setting, folder)}", "--out", f"{folder / 'run'}", "--yes"])
        score = (
            canaries.from_messages(folder / "messages")
            if setting.single
            else canaries.learned(*_models(folder / "run"))
        )
        return _Played(inside, score, *_claim(folder / "run", setting))


def _setting(config: Mapping[str, Any], summary: Mapping[str, Any], rounds: int) -> _Setting:
    """Reads a configuration. The noise of a calibrated run is that of its summary."""
    transforms: dict[str, dict[str, Any]] = {}
    mechanism: str | None = None
    for name, options in (config.get("transforms") or {}).items():
        known = {key: value for key, value in (options or {}).items() if value is not None}
        if "noise_multiplier" in known or str(name).startswith("dp"):
            mechanism, known = str(name), _mechanism(str(name), known, summary)
        transforms[str(name)] = known
    if mechanism is None:
        raise ConfigError("the configuration has no mechanism of differential privacy to audit")
    options, aggregator = transforms[mechanism], _options(config.get("aggregator"), "plain")
    plain, clip = aggregator["name"] == "plain", float(options.get("clipping_norm", 1.0))
    single = plain and mechanism in (_BY_ROW, _LOCAL)
    kept = {name: config[name] for name in _KEPT if config.get(name)}
    made = {
        **kept,
        "model": f"{canary_model.__name__}:{canary_model.canary_model.__name__}",
        "strategy": "fedavg",
        "transforms": transforms,
        "local": {"lr": _RATE, "epochs": 1, "batch_size": 0},
        "rounds": rounds,
        "eval": {"every": 0},
        "checkpoint": {"every": 0},
    }
    if single:
        made["plugins"] = [*(kept.get("plugins") or []), recording_engine.__file__]
    most = (1 << 30) if plain else max(HIDDEN, int(aggregator.get("minimum", 0)))
    most *= ROWS if mechanism == _BY_ROW else 1
    opposite = _is_replaced(mechanism, options, _options(config.get("cohort"), "")["sampling"])
    return _Setting(made, clip, most, by_row=mechanism == _BY_ROW, opposite=opposite, single=single)


def _options(section: Any, name: str) -> dict[str, Any]:
    """A section that may be a name alone, as a mapping."""
    given = dict(section) if isinstance(section, Mapping) else {"name": section or name}
    return {"name": name, "sampling": "fixed", **given}


def _is_replaced(mechanism: str, options: Mapping[str, Any], sampling: str) -> bool:
    """True if the claim is about a canary that is replaced, rather than one that is left out."""
    relation = options.get("relation")
    fixed = sampling == "fixed" and mechanism in ("dp", "dp-adaptive")
    return relation == "replace-one" or (relation is None and (fixed or mechanism == _LOCAL))


def _mechanism(name: str, options: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    if options.get("insecure_seed") is not None:
        raise ConfigError(f"transforms.{name} has an insecure_seed: it makes no privacy claim to audit")
    noise = options.get("noise_multiplier") or summary.get("transforms", {}).get(name, {}).get("noise_multiplier")
    if noise is None and options.get("target_epsilon") is not None:
        raise IncompatibleError(
            f"the noise of transforms.{name} follows from target_epsilon, and is known only after a run",
            hint="Audit the directory of a finished run, or set noise_multiplier.",
        )
    kept = {key: value for key, value in options.items() if key not in ("target_epsilon", "ledger")}
    return {**kept, "noise_multiplier": float(noise or 1.0)}


def _written(setting: _Setting, folder: Path) -> Path:
    """Writes the configuration of one run; its ledger is the default one, in the partition."""
    path, config = folder / "config.yaml", {**setting.config, "data": (folder / "parts").as_posix()}
    if setting.single:
        config["engine"] = {"name": "recording", "folder": (folder / "messages").as_posix()}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _models(run: Path) -> Iterator[Floats]:
    """Weights of the first and the last model, [features] each."""
    from safetensors.numpy import load_file

    saved = sorted((run / "checkpoints").glob("round-*"))
    for path in (saved[0], saved[-1]):
        (weights,) = load_file(path / "model.safetensors").values()
        yield weights.astype(np.float64).ravel()


def _claim(run: Path, setting: _Setting) -> tuple[float, float]:
    """(epsilon, delta) that a run on canaries claims. Raises FlctlError if the claim is about other neighbours than the
    canaries are."""
    transforms = json.loads((run / "summary.json").read_text(encoding="utf-8"))["transforms"]
    claimed = next(one for one in transforms.values() if "epsilon" in one)
    if setting.opposite and "replace-one" not in str(claimed.get("statement")):
        raise FlctlError("the run's claim is not about replacing a client or row, and its canaries are")
    return float(claimed["epsilon"]), float(claimed["delta"])
