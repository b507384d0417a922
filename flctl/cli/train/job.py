"""Runs `flctl train` once its arguments are parsed: config, partition, run directory, signals, progress."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flctl.cli import output
from flctl.cli.session import current_registry
from flctl.cli.signals import StopSignals, receiving
from flctl.cli.train.notices import run_notices
from flctl.config.config import ENGINE_INFLUENCE, Config, Flag, differences, digest, without_influence
from flctl.config.load import Loaded, ValueOrigin, load
from flctl.engines.footprint import refuse_too_large
from flctl.errors import ConfigError, IncompatibleError, PrivacyBudgetError, command_line
from flctl.kinds import short_name
from flctl.partition.federated_files import is_federated, open_data
from flctl.partition.manifest import MANIFEST
from flctl.partition.view import PartitionView
from flctl.plugins.registry import Registry
from flctl.run.directory import RunDirectory, named_files
from flctl.run.run import Run
from flctl.server.training import TrainingResult, engine_class, newest_state, train

if TYPE_CHECKING:
    from flctl.performance.forecast import Forecast
    from flctl.performance.profile import Profiler

__all__ = ["Outcome", "TrainRequest", "explain", "run", "sampling_flags", "target_flags"]


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The arguments of `flctl train`."""

    data: Path | None
    config: Path | None
    overrides: Sequence[str]
    flags: Mapping[str, Flag]
    out: Path | None
    resume: Path | None
    yes: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, the exit code of the process, and the profile if one was requested."""

    result: TrainingResult
    exit_code: int
    profile: Mapping[str, Any] | None = None

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope: the summary, the run's directory, and the profile without single
        rounds."""
        data = {"run": str(self.result.directory.path), **self.result.summary}
        if self.result.refused is not None:
            data["refused"] = self.result.refused.message
        if self.profile is not None:
            data["profile"] = {name: part for name, part in self.profile.items() if name != "each"}
        return data


def sampling_flags(sampling: str | None, rate: float | None) -> dict[str, Flag]:
    """`--sampling-rate` alone means Poisson sampling."""
    if rate is None:
        return {} if sampling is None else {"cohort.sampling": Flag("--sampling", sampling)}
    return {
        "cohort.sampling": Flag("--sampling-rate", sampling or "poisson"),
        "cohort.rate": Flag("--sampling-rate", rate),
    }


def target_flags(text: str | None) -> dict[str, Flag]:
    """`accuracy=0.97`, `accuracy>=0.97`, `rmse<=40`, or a value for the default metric."""
    if text is None:
        return {}
    match = re.fullmatch(r"(?:([A-Za-z_]\w*)\s*(?:>=|<=|=|:))?\s*([-+.\deE]+)", text.strip())
    try:
        value = float(match[2]) if match else None
    except ValueError:
        value = None
    if match is None or value is None:
        raise ConfigError(f"--target-metric {text!r} is not NAME=VALUE", hint="Write for example accuracy=0.97.")
    flags = {"stop.target": Flag("--target-metric", value)}
    return flags | ({"stop.metric": Flag("--target-metric", match[1])} if match[1] else {})


def run(request: TrainRequest, profiler: Profiler | None = None, *, as_json: bool) -> Outcome:
    """Trains or resumes a run; returns when it ends. `profiler` observes it. Raises FlctlError."""
    from flctl.report.progress import observer

    registry, loaded, directory = _resumed(request) if request.resume else _new(request)
    partition = _open_partition(loaded.config, directory)
    prepared = Run.build(loaded.config, registry, partition, directory.memory)
    if request.resume:
        directory.keep_config(loaded)
    watching = observer(as_json=as_json)
    registry.observe(watching)
    if profiler is not None:
        registry.observe(profiler)
        profiler.opening()
    signals = StopSignals()
    with receiving(signals), closing(watching):
        result = train(prepared, directory, interrupted=lambda: bool(signals.seen))
    exit_code = result.refused.exit_code if result.refused is not None else 0
    exit_code = 128 + signals.seen[0] if result.status == "interrupted" else exit_code
    return Outcome(result, exit_code, None if profiler is None else _keep_profile(profiler, directory))


def explain(request: TrainRequest) -> Forecast:
    """Forecasts a run; trains and writes nothing. Raises the errors that `run` would raise before training."""
    from flctl.performance.forecast import forecast

    if not request.resume:
        planned = _planned(request, current_registry()).run
        return forecast(planned, engine_class(planned))
    registry, loaded, directory = _resumed(request)
    resumed = Run.build(loaded.config, registry, _open_partition(loaded.config, directory), directory.memory)
    refuse_too_large(resumed, engine_class(resumed))
    directory.check_execution(resumed.execution.facts())
    return forecast(resumed, engine_class(resumed), newest_state(resumed, directory))


def _keep_profile(profiler: Profiler, directory: RunDirectory) -> Mapping[str, Any]:
    """Writes profile.json and its picture."""
    from flctl.report.phases import draw_phases

    profile = profiler.finish().data()
    directory.write_profile(profile)
    draw_phases(profile, directory.path / "profile.png")
    return profile


@dataclass(frozen=True, slots=True)
class _Planned:
    """A new run before anything of it is written."""

    run: Run
    loaded: Loaded
    path: Path


def _new(request: TrainRequest) -> tuple[Registry, Loaded, RunDirectory]:
    registry = current_registry()
    planned = _planned(request, registry)  # refuse before anything is written
    _show_notices(planned.run, confirmed=request.yes)
    directory = RunDirectory.create(planned.path, planned.loaded, planned.run.partition)
    return registry, planned.loaded, directory


def _show_notices(run: Run, *, confirmed: bool) -> None:
    """Prints the notices of the run and of its transforms.

    Raises PrivacyBudgetError if one has to be confirmed, and is not.
    """
    own = [notice for transform in run.transforms.values() for notice in transform.notices(run)]
    found = [*run_notices(run), *own]
    for notice in found:
        output.warn(notice.message)
    if confirmed or not any(notice.confirm for notice in found):
        return
    if sys.stdin.isatty() and sys.stderr.isatty() and typer.confirm("Train anyway?", err=True):
        return
    question = next(notice.message for notice in found if notice.confirm)
    raise PrivacyBudgetError(f"the run was not started: {question}", hint="Use --yes to train despite the warnings.")


def _planned(request: TrainRequest, registry: Registry) -> _Planned:
    if request.out is not None and os.path.lexists(request.out):
        raise ConfigError(
            f"{request.out} exists already",
            hint=f"Use another --out, or continue: {command_line('flctl', 'train', '--resume', request.out)}",
        )
    flags = {**_remote_flags(request), **request.flags}
    if request.data is not None:
        flags["data"] = Flag("DATA", str(request.data))
    loaded = load(registry, file=request.config, flags=flags, overrides=request.overrides, environ=os.environ)
    if loaded.config.data is None:
        raise ConfigError("no partition was named", hint="Write `flctl train DIR`, or `data:` in the config.")
    partition = open_data(Path(loaded.config.data))
    partition.verify_digests()
    loaded = fit_cohort(loaded, int((partition.counts[:, 0] > 0).sum()))
    path = request.out or _free_name(partition.path.name, short_name(loaded.config.strategy.name))
    run = Run.build(loaded.config, registry, partition, path / "memory")
    refuse_too_large(run, engine_class(run))
    engine_class(run).from_options(dict(run.config.engine.options)).check(run)
    return _Planned(run, loaded, path)


def _remote_flags(request: TrainRequest) -> dict[str, Flag]:
    """The keys that follow from a federated data directory: its clients are sites, and each trains alone."""
    manifest = None if request.data is None else request.data / MANIFEST
    if manifest is None or not manifest.is_file() or not is_federated(manifest.read_bytes()):
        return {}
    given = {override.partition("=")[0].strip() for override in request.overrides}
    keys: dict[str, Any] = {"engine.name": "network", "engine.alone": True}
    return {key: Flag("DATA", value) for key, value in keys.items() if key not in given}


def _resumed(request: TrainRequest) -> tuple[Registry, Loaded, RunDirectory]:
    """The stored config of a run, with what a resume may change. Raises IncompatibleError for anything else."""
    directory = RunDirectory(Path(str(request.resume)))
    if request.out is not None or request.config is not None:
        hint = "Leave out --out and --config: a run records both."
        raise ConfigError("--resume cannot be combined with --out or --config", hint=hint)
    flags = dict(request.flags)
    if request.data is not None:
        flags["data"] = Flag("DATA", str(request.data))
    registry = current_registry()
    stored = load(registry, file=directory.config_file, flags={}, overrides=(), environ={})
    loaded = load(registry, file=directory.config_file, flags=flags, overrides=request.overrides, environ=os.environ)
    refuse_changes(stored.config, loaded.config, directory)
    return registry, loaded, directory


def open_stored(path: Path) -> tuple[Run, RunDirectory]:
    """A run as it was made, ready to compute; the partition is checked."""
    directory = RunDirectory(path)
    registry = current_registry()
    config = load(registry, file=directory.config_file).config
    return Run.build(config, registry, _open_partition(config, directory), directory.memory), directory


def fit_cohort(loaded: Loaded, eligible: int) -> Loaded:
    """The configuration with no more clients per round than there are, if no number was set."""
    cohort = loaded.config.cohort
    asked = loaded.origins.get("cohort.clients", ValueOrigin("default", "")).source != "default"
    if asked or cohort.sampling not in ("fixed", "cyclic") or cohort.clients <= eligible:
        return loaded
    fitted = cohort.model_copy(update={"clients": eligible})
    config = loaded.config.model_copy(update={"cohort": fitted})
    return replace(
        loaded, config=config, origins={**loaded.origins, "cohort.clients": ValueOrigin("default", "all clients")}
    )


def refuse_changes(stored: Config, asked: Config, directory: RunDirectory) -> None:
    """Raises IncompatibleError when a resume would compute something else than the run that it goes on with."""
    recorded = directory.facts["config_digest"]
    if digest(stored) != recorded:
        raise IncompatibleError(
            f"{directory.config_file} was changed since the run was made", hint="Restore it, or start a new run."
        )
    found = named_files(stored)
    edited = [name for name, sha256 in directory.facts.get("files", {}).items() if found.get(name) != sha256]
    if edited:
        raise IncompatibleError(
            f"{', '.join(edited)} changed since the run was made, and the numbers depend on it",
            hint="Restore it, or start a new run.",
        )
    if digest(asked) != recorded:
        free = without_influence(stored)
        changed = [
            key
            for key in differences(stored, asked)
            if key in ENGINE_INFLUENCE or not {key, key.partition(".")[0]} & free
        ]
        raise IncompatibleError(
            f"a resume cannot change {', '.join(changed) or 'the order of transforms'}: the checkpoint was written "
            "with a different configuration",
            hint=f"Start a new run with --out; this resume may change {', '.join(sorted(free))}.",
        )


def _open_partition(config: Config, directory: RunDirectory) -> PartitionView:
    """The partition where the config says it is, or where it lies relative to the run. Raises IncompatibleError
    when it is not the one that the run was made on."""
    named = Path(str(config.data))
    partition = open_data(named if named.exists() else directory.partition_path())
    if partition.digest != directory.facts["partition_digest"]:
        raise IncompatibleError(
            f"{partition.path} is not the partition that {directory.path} was made on: the digest differs",
            hint="Restore the original partition, or start a new run.",
        )
    partition.verify_digests()
    return partition


def _free_name(partition: str, strategy: str) -> Path:
    """`runs/PARTITION-STRATEGY`, or the first of -2, -3 ... that is free."""
    base = Path("runs") / f"{partition}-{strategy}"
    suffix = 1
    while os.path.lexists(base if suffix == 1 else Path(f"{base}-{suffix}")):
        suffix += 1
    return base if suffix == 1 else Path(f"{base}-{suffix}")
