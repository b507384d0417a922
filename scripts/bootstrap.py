"""Sets up a virtual environment for flctl: CPU torch first, then flctl with its extras, then every plugin here.

Needs nothing but Python 3.11 and what pip is configured to use. A stamp in the environment makes the second run
take no time; a changed pyproject.toml, another torch or a moved folder makes it install again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
TORCH = "torch==2.13.0"
EXTRAS = "data,dev,docs"
PIP = ["-m", "pip", "--disable-pip-version-check", "--no-input"]
SHOWN_LINES = 6
"""Number of pip's last lines that a failure repeats."""
SHOWN_WORK = ("Building", "Collecting", "Downloading", "Installing", "Obtaining", "Preparing", "Processing", "Using")
"""Prefixes of pip's lines that a terminal shows as progress."""


class SetupError(Exception):
    """An obstacle to the set-up in one sentence, and the remedy in another."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Sets the environment up and returns the exit code."""
    options = _parse(arguments)
    try:
        set_up(options.venv.absolute(), options.extras, force=options.force)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run `make` again to continue", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment's folder (default: .venv)")
    parser.add_argument("--extras", default=EXTRAS, help=f"extras of flctl to install (default: {EXTRAS})")
    parser.add_argument("--force", action="store_true", help="install even if nothing seems to have changed")
    return parser.parse_args(arguments)


def set_up(environment: Path, extras: str, *, force: bool) -> None:
    """Makes or completes `environment`. Raises SetupError."""
    if sys.version_info < OLDEST:
        found, oldest = ".".join(map(str, sys.version_info[:2])), ".".join(map(str, OLDEST))
        raise SetupError(f"Python {found} is too old: flctl needs {oldest} or newer. Use `make PYTHON=python{oldest}`.")
    torch = os.environ.get("FLCTL_TORCH") or TORCH
    if not torch.startswith("torch"):
        raise SetupError(f"FLCTL_TORCH is '{torch}': use a requirement such as '{TORCH}'.")
    projects = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
    stamp, wanted = environment / "flctl-setup.sha256", fingerprint(environment, projects, torch, extras)
    if not force and _read(stamp) == wanted and works(environment):
        return
    print(f"Setting up {_shown(environment)} (once; FLCTL_TORCH chooses another build of torch)", flush=True)
    stamp.unlink(missing_ok=True)
    make_environment(environment)
    install(environment, "torch", [torch])
    editable = [word for path in projects for word in ("-e", str(path) + (f"[{extras}]" if path == ROOT else ""))]
    install(environment, "flctl and its dependencies", editable)
    stamp.write_text(wanted, encoding="ascii")


def fingerprint(environment: Path, projects: Sequence[Path], torch: str, extras: str) -> str:
    """A digest of everything that the installation depends on."""
    digest = hashlib.sha256("\0".join([Path(__file__).name, str(environment), str(ROOT), torch, extras]).encode())
    for project in projects:
        digest.update(str(project).encode() + (project / "pyproject.toml").read_bytes())
    return digest.hexdigest()


def make_environment(environment: Path) -> None:
    """A virtual environment with a working pip; one that works already is kept. Raises SetupError."""
    if works(environment):
        return
    if environment.exists() and not (environment / "pyvenv.cfg").exists() and any(environment.iterdir()):
        raise SetupError(
            f"{environment} exists and is not a virtual environment: move it to another folder, or use another VENV."
        )
    has_pip = _importable("ensurepip")
    if not has_pip and not _importable("pip"):
        raise SetupError(
            f"{sys.executable} has neither ensurepip nor pip, so it cannot fill a virtual environment. "
            "Install one of them (on Debian and Ubuntu: the package python3-venv)."
        )
    with _step("a virtual environment"):
        if environment.exists():
            shutil.rmtree(environment)
        try:
            venv.EnvBuilder(with_pip=has_pip).create(environment)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SetupError(f"{sys.executable} could not make {environment}: {error}.") from error
    if not has_pip:
        _pip(environment, [sys.executable, *PIP, "--python", str(python(environment)), "install", "pip"], "pip")


def install(environment: Path, what: str, requirements: Sequence[str]) -> None:
    """Lets the environment's pip install `requirements`. Raises SetupError."""
    quick = ["--progress-bar", "off", "--no-compile"]  # what is never imported need not be compiled
    command = [str(python(environment)), *PIP, "install", *quick, *requirements]
    with _step(what):
        _pip(environment, command, what)


def python(environment: Path) -> Path:
    """The environment's interpreter."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def works(environment: Path) -> bool:
    """Returns True if the environment has an interpreter that starts and has pip."""
    if not python(environment).exists():
        return False
    check = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    return subprocess.run([python(environment), "-c", check], capture_output=True, check=False).returncode == 0


def _pip(environment: Path, command: Sequence[str], what: str) -> None:
    log = environment / "setup.log"
    last: collections.deque[str] = collections.deque(maxlen=SHOWN_LINES)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=ROOT
        )
        for line in process.stdout or ():
            file.write(line)
            last.append(line.rstrip())
            _status(line.rstrip())
    if process.wait():
        shown = "\n".join(f"  {line}" for line in last)
        raise SetupError(
            f"pip could not install {what} (full output in {_shown(log)}):\n{shown}\nCheck the network and pip's own "
            "configuration, which `make` uses, and run `make` again."
        )


@contextlib.contextmanager
def _step(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"  {what} ...", end="" if sys.stdout.isatty() else "\n", flush=True)
    yield
    done = f"  {what}: done in {time.monotonic() - started:.0f} s"
    print(f"\r\033[K{done}" if sys.stdout.isatty() else done, flush=True)


def _status(line: str) -> None:
    if sys.stdout.isatty() and line.strip().startswith(SHOWN_WORK):
        width = shutil.get_terminal_size().columns - 4
        print(f"\r\033[K    {line.strip()[:width]}", end="", flush=True)


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


if __name__ == "__main__":
    sys.exit(main())
