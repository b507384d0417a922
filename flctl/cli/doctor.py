"""`flctl doctor`: checks of the installation."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from flctl.cli import output
from flctl.cli.output import JsonFlag
from flctl.cli.session import current_registry

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["register"]

REQUIRED = (
    "torch",
    "numpy",
    "typer",
    "rich",
    "pydantic",
    "pluggy",
    "pyyaml",
    "safetensors",
    "scikit-learn",
    "matplotlib",
)
OPTIONAL = {"pyarrow": "CSV, Parquet and Arrow files", "pillow": "image folders"}
LOW_SPACE = 1 << 30


@dataclass(frozen=True, slots=True)
class InstallationCheck:
    """Result of one check: `fail` if flctl cannot work, `warn` if a part of it cannot."""

    subject: str
    status: Literal["ok", "warn", "fail"]
    detail: str


def register(app: typer.Typer) -> None:
    """Adds `doctor` to the application."""
    app.command("doctor")(doctor)


def doctor(as_json: JsonFlag = False) -> None:
    """Check the installation: versions, optional packages, plugins, disk space. Exit code 1 if a part is missing."""
    findings = [*_packages(), *_plugins(), *_machine()]
    data = {"findings": [asdict(finding) for finding in findings]}
    output.emit("doctor", data, as_json=as_json, render=lambda console: _render(console, findings))
    raise typer.Exit(1 if any(finding.status == "fail" for finding in findings) else 0)


def _packages() -> Iterator[InstallationCheck]:
    yield InstallationCheck("python", "ok" if sys.version_info >= (3, 11) else "fail", platform.python_version())
    for name in REQUIRED:
        version = _version(name)
        yield InstallationCheck(name, "ok" if version else "fail", version or "not installed")
    for name, use in OPTIONAL.items():
        version = _version(name)
        missing = f"not installed; needed for {use}: pip install 'flctl[data]'"
        yield InstallationCheck(name, "ok" if version else "warn", version or missing)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _plugins() -> Iterator[InstallationCheck]:
    from flctl.errors import PluginError
    from flctl.kinds import KINDS

    registry = current_registry()
    counts = []
    for kind in KINDS:
        try:
            counts.append(f"{len(registry.offers(kind))} {kind}")
        except PluginError as error:
            yield InstallationCheck("plugins", "fail", error.message)
    yield InstallationCheck("components", "ok", ", ".join(counts))
    for broken in registry.broken:
        yield InstallationCheck(f"plugin {broken.name}", "warn", f"{broken.origin}: {broken.reason}")


def _machine() -> Iterator[InstallationCheck]:
    yield InstallationCheck("cores", "ok", str(os.cpu_count()))
    free = shutil.disk_usage(Path.cwd()).free
    yield InstallationCheck("disk", "ok" if free >= LOW_SPACE else "warn", f"{free / 1e9:.1f} GB free here")
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            yield InstallationCheck("folder", "ok", "this folder can be written to")
    except OSError as error:
        yield InstallationCheck("folder", "warn", f"this folder cannot be written to: {error.strerror}")


def _render(console: Console, findings: list[InstallationCheck]) -> None:
    signs = {"ok": "ok", "warn": "!", "fail": "X"}
    rows = ((finding.subject, signs[finding.status], finding.detail) for finding in findings)
    output.table(console, ("what", "", "found"), rows, left=3)
