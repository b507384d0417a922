"""The run directory: everything about one training, in files that are complete or absent.

config.yaml and origins.json (the effective config and the origin of each value), run.json (versions and digests),
preprocessing.json (from rows to the model's inputs), execution.json (how clients are trained), attack.json (the
malicious clients of a simulated attack), metrics.jsonl (one line per round), checkpoints/, memory/ (client memory),
summary.json and curves.png; profile.json and profile.png if they were requested.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flctl import atomic
from flctl.config.config import Config, digest, dump
from flctl.config.load import Loaded
from flctl.data.own_directories import directory_kind
from flctl.data.preprocessing import FittedPreprocessing, parse_preprocessing
from flctl.errors import ConfigError, IncompatibleError, IntegrityError, StorageError, command_line, counted
from flctl.json_files import JsonFormat
from flctl.kinds import file_of
from flctl.partition.manifest import preprocessing_of
from flctl.partition.view import PartitionView
from flctl.run.checkpoint import Checkpoints
from flctl.types import RoundReport
from flctl.version import __version__

__all__ = ["FORMAT", "RunDirectory", "report_line"]

FORMAT = "flctl-run/1"
CONFIG, ORIGINS, RUN, METRICS, SUMMARY, LOCK, EXECUTION, PROFILE, ATTACK, PREPROCESSING = (
    "config.yaml",
    "origins.json",
    "run.json",
    "metrics.jsonl",
    "summary.json",
    "lock",
    "execution.json",
    "profile.json",
    "attack.json",
    "preprocessing.json",
)
_RESTORE = "Restore it from a copy, or start a new run."
_DESCRIBED, _RECORDED = JsonFormat(FORMAT, _RESTORE), JsonFormat(None, _RESTORE)
FACTS = ("config_digest", "partition_digest", "partition", "versions")
EACH_ROUND = ("round", "asked", "answered", "failed", "examples", "loss", "bytes_up", "bytes_down", "seconds")


class RunDirectory:
    """One run on disk; `create` makes a new one, `RunDirectory(path)` opens one that exists."""

    def __init__(self, path: Path) -> None:
        if path.is_file():
            raise ConfigError(f"{path} is a file, not the directory of a run", hint="`flctl runs list` shows the runs.")
        if not (path / RUN).is_file() and directory_kind(path) == "partition":
            train = command_line("flctl", "train", path)
            raise ConfigError(f"{path} is a partition, not a run", hint=f"Train on it: {train}")
        if not (path / RUN).is_file():
            raise ConfigError(f"{path} is not a run: it has no {RUN}", hint="`flctl runs list` shows the runs.")
        self.path = path
        self.facts = _DESCRIBED.read(path / RUN)
        missing = [key for key in FACTS if key not in self.facts]
        if missing or not isinstance(self.facts["versions"], dict):
            raise _DESCRIBED.damaged(str(path / RUN), f"it has no '{(missing or ['versions'])[0]}'")
        self.checkpoints = Checkpoints(path / "checkpoints")
        self.metrics = path / METRICS
        self.memory = path / "memory"
        self.config_file = path / CONFIG

    @classmethod
    def create(cls, path: Path, loaded: Loaded, partition: PartitionView) -> RunDirectory:
        """A new run directory. Raises ConfigError when `path` exists."""
        preprocessing = preprocessing_of(partition.manifest).serialise()
        facts = {
            "format": FORMAT,
            "config_digest": digest(loaded.config),
            "partition_digest": partition.digest,
            "partition": _relative(partition.path, path),
            "versions": versions(),
            "files": named_files(loaded.config),
            "preprocessing_digest": _sha256(preprocessing),
        }
        origins = {key: asdict(origin) for key, origin in loaded.origins.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.new_directory(path) as partial:
            (partial / CONFIG).write_text(dump(loaded.config), encoding="utf-8")
            (partial / ORIGINS).write_text(_json(origins), encoding="utf-8")
            (partial / PREPROCESSING).write_bytes(preprocessing)
            (partial / METRICS).touch()
            (partial / RUN).write_text(_json(facts), encoding="utf-8")
        return cls(path)

    def keep_config(self, loaded: Loaded) -> None:
        """Replaces the configuration by one that computes the same numbers, as a resume with other `rounds` does.

        Raises StorageError while another process trains the run.
        """
        with self.locked():
            before = self.config_file.read_text(encoding="utf-8")
            if dump(loaded.config) == before:
                return
            # What the file gave keeps the origin that it had: only flags, -o and the environment are new.
            new = {key: asdict(origin) for key, origin in loaded.origins.items() if origin.source != "file"}
            atomic.write_file(self.path / ORIGINS, _json(_RECORDED.read(self.path / ORIGINS) | new).encode())
            atomic.write_file(self.path / CONFIG, dump(loaded.config).encode())

    def keep_execution(self, facts: Mapping[str, Any]) -> None:
        """Records how clients are trained, at the first start. Raises IncompatibleError where a later one differs."""
        self.check_execution(facts)
        path = self.path / EXECUTION
        if not path.exists():
            atomic.write_file(path, _json(facts).encode())

    def check_execution(self, facts: Mapping[str, Any]) -> None:
        """Raises IncompatibleError where clients were trained in another way than `facts` say."""
        path = self.path / EXECUTION
        if not path.exists():
            return
        before, here = _RECORDED.read(path), dict(facts)
        for key in ("executor", "alone", "memory"):
            if before.get(key) != here[key]:
                found = f"{self.path} trained its clients by {before.get('executor')} ({key} {before.get(key)})"
                raise IncompatibleError(
                    f"{found}, and this resume would use {here['executor']} ({key} {here[key]})",
                    hint="Results would differ: restore the options, or start a new run.",
                )

    def keep_attack(self, facts: Mapping[str, Any]) -> None:
        """Replaces attack.json."""
        atomic.write_file(self.path / ATTACK, _json(facts).encode())

    def attack(self) -> dict[str, Any] | None:
        """Contents of attack.json; None for a run without an attack."""
        path = self.path / ATTACK
        return _RECORDED.read(path) if path.is_file() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second process from training the same run. Raises StorageError when one does."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(
                f"another process is training {self.path}", hint="Wait for that process to end, or terminate it."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def partition_path(self) -> Path:
        """Path of the partition when the run was made, relative to the run, so that both may move together."""
        return (self.path / str(self.facts["partition"])).resolve()

    def preprocessing(self) -> FittedPreprocessing | None:
        """Returns the fitted preprocessing that the run was made with; None for a run of a version that kept none.

        Raises IntegrityError if the file is gone or its digest is not the one in run.json.
        """
        wanted, path = self.facts.get("preprocessing_digest"), self.path / PREPROCESSING
        if wanted is None:
            return None
        if not path.is_file():
            raise IntegrityError(f"{path} is missing", hint="Restore it; the partition's manifest has the same data.")
        data = path.read_bytes()
        if _sha256(data) != wanted:
            raise IntegrityError(f"{path} changed since the run was made (SHA-256 differs)", hint="Restore it.")
        return parse_preprocessing(data, str(path))

    def lines(self) -> list[dict[str, Any]]:
        """Returns the lines of the finished rounds; a last line that a crash cut off is left out.

        Raises IntegrityError if the file is missing or a line is not that of a round.
        """
        if not self.metrics.is_file():
            raise IntegrityError(f"{self.metrics} is missing", hint="Restore it; its content is stored nowhere else.")
        texts = self.metrics.read_bytes().split(b"\n")[:-1]
        return [_line(f"{self.metrics}:{line_number}", text) for line_number, text in enumerate(texts, 1)]

    def append(self, report: RoundReport) -> None:
        """Adds a round's line; it is with the operating system when this returns, on disk with the next checkpoint.

        Raises StorageError if the file is gone: training on would lose every later round.
        """
        line = json.dumps(report_line(report), allow_nan=False) + "\n"
        try:
            # Never creates the file: a run directory that was deleted must not come back in part.
            descriptor = os.open(self.metrics, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise StorageError(
                f"{self.metrics} is missing: the run directory was removed or renamed while training",
                hint="Rounds since then are lost. Start the run again, or restore the directory and resume.",
            ) from error
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(line)

    def sync_metrics(self) -> None:
        """Puts the lines on disk; called before the checkpoint that rests on them."""
        with self.metrics.open("rb") as file:
            os.fsync(file.fileno())

    def rewind(self, round_number: int) -> None:
        """Drops lines and client memory of rounds after `round_number`: they will be run again.

        Raises IntegrityError when a line up to it is missing.
        """
        lines = self.lines()
        kept = lines[:round_number]
        if [line.get("round") for line in kept] != list(range(1, round_number + 1)):
            raise IntegrityError(
                f"{self.metrics} has no lines for some of the {counted(round_number, 'round')} before the checkpoint"
            )
        if len(lines) != round_number or self.metrics.stat().st_size != sum(_length(line) for line in kept):
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept)
            atomic.write_file(self.metrics, text.encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Replaces summary.json."""
        atomic.write_file(self.path / SUMMARY, _json(summary).encode())

    def write_profile(self, profile: Mapping[str, Any]) -> None:
        """Replaces profile.json."""
        atomic.write_file(self.path / PROFILE, _json(profile).encode())

    def profile(self) -> dict[str, Any] | None:
        """Contents of profile.json; None for a run without a profile."""
        path = self.path / PROFILE
        return _RECORDED.read(path) if path.is_file() else None

    def summary(self) -> dict[str, Any] | None:
        """Summary of a run that ended; None before that."""
        path = self.path / SUMMARY
        return _RECORDED.read(path) if path.is_file() else None


def report_line(report: RoundReport) -> dict[str, Any]:
    """A round as a line of metrics.jsonl; evaluation metrics stand beside the round's own figures. NaN is null."""
    failed = {client: {"kind": f.kind, "message": f.message} for client, f in report.failed.items()}
    line = {
        "round": report.round,
        "asked": report.asked,
        "answered": report.answered,
        "failed": failed,
        "examples": report.examples,
        "loss": report.loss,
        **({"split": report.split} if report.split else {}),
        **report.metrics,
        "bytes_up": report.bytes_up,
        "bytes_down": report.bytes_down,
        "seconds": {phase: round(seconds, 6) for phase, seconds in report.seconds.items()},
        "work": {phase: round(seconds, 6) for phase, seconds in report.work.items()},
        "notes": list(report.notes),
        "attackers": report.attackers,
        "devices": {name: round(value, 6) for name, value in report.devices.items()},
        "transforms": finite(report.told),
    }
    return {key: _finite(value) for key, value in line.items()}


def finite(entries: Mapping[str, Mapping[str, float | str]]) -> dict[str, dict[str, float | str | None]]:
    """Returns transforms' report entries as JSON values; a number that is not finite becomes null."""
    return {name: {key: _finite(value) for key, value in values.items()} for name, values in entries.items()}


def named_files(config: Config) -> dict[str, str]:
    """SHA-256 of each file that the config names and the numbers depend on: trace, plugin files, and the files of
    components that are spelt `file.py:Name`."""
    names = [*config.plugins, *([config.cohort.trace] if config.cohort.trace else [])]
    chosen = (config.model.name, config.strategy.name, config.aggregator.name, config.engine.name)
    components = (*chosen, *(transform.name for transform in config.transforms))
    names += [file.as_posix() for file in map(file_of, components) if file is not None]
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    packages = {name: _installed_version(name) for name in ("torch", "numpy")}
    return {"flctl": __version__, "python": platform.python_version(), **packages, "machine": platform.machine()}


@cache
def _installed_version(package: str) -> str:
    # Parsing a package's metadata takes milliseconds, and the version cannot change in a process that imported it.
    return version(package)


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _line(where: str, text: bytes) -> dict[str, Any]:
    line = _RECORDED.parse(text, where)
    missing = [key for key in EACH_ROUND if key not in line]
    if missing:
        raise IntegrityError(f"{where} is not a round's record: it has no '{missing[0]}'", hint=_RESTORE)
    return line


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0 else value


def _length(line: Mapping[str, Any]) -> int:
    return len(json.dumps(line, allow_nan=False).encode()) + 1


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _relative(target: Path, start: Path) -> str:
    try:
        return Path(os.path.relpath(target.resolve(), start.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        return str(target.resolve())
