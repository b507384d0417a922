"""Versions and files of what is installed here: flctl, torch, numpy, and the plugins that a run uses."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from flctl.federation.plan.plan import InstalledFiles, Versions
from flctl.federation.reasons import Reason, Refused

__all__ = ["check_versions", "files_digest", "installed", "installed_versions"]

ENTRY_POINTS = "flctl"
CORE = "flctl"
_CACHES = "__pycache__"


def installed_versions(plugins: Iterable[str]) -> Versions:
    """Returns the versions installed here, with the files of these plugins. Raises Refused for a missing plugin."""
    return Versions(
        flctl=installed(CORE).version,
        torch=importlib.metadata.version("torch"),
        numpy=importlib.metadata.version("numpy"),
        plugins={name: installed(name) for name in sorted({CORE, *plugins})},
    )


def check_versions(planned: Versions) -> None:
    """Raises Refused unless the versions and files that a plan names are those installed here.

    Builds of one version for different processors, as torch 2.13.0+cpu and 2.13.0+cu130, count as the same.
    """
    for name, reason in (("torch", Reason.VERSION_TORCH), ("numpy", Reason.VERSION_NUMPY)):
        if _public(importlib.metadata.version(name)) != _public(getattr(planned, name)):
            raise Refused(reason)
    here = installed(CORE)
    if planned.flctl != here.version or planned.plugins.get(CORE, here).record != here.record:
        raise Refused(Reason.VERSION_FLCTL)
    for name, expected in planned.plugins.items():
        if name == CORE:
            continue
        found = replace(installed(name), editable=expected.editable)  # the same files, however they were installed
        if found != expected:
            raise Refused(Reason.PLUGIN_CHANGED)


def installed(plugin: str) -> InstalledFiles:
    """Returns the distribution and the files of a plugin as they are on disk now, or of flctl itself.

    Raises Refused with the reason `plugin-missing` if it is not installed.
    """
    if plugin == CORE:
        distribution, module = importlib.metadata.distribution(CORE), CORE
    else:
        found = [entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS) if entry.name == plugin]
        if len(found) != 1 or found[0].dist is None:
            raise Refused(Reason.PLUGIN_MISSING)
        distribution, module = found[0].dist, found[0].module.partition(".")[0]
    return InstalledFiles(
        distribution=distribution.name,
        version=distribution.version,
        record=_module_digest(module),
        editable=_is_editable(distribution),
    )


def files_digest(files: Mapping[str, bytes]) -> str:
    """Returns the SHA-256 over the names and the SHA-256 of files: a RECORD of what is there, without what an installer
    adds.

    A distribution's own RECORD differs between machines, by the installer's name, by console scripts that hold the path
    of Python, and by compiled files, and does not change if a file is edited.
    """
    lines = [f"{name},sha256={hashlib.sha256(data).hexdigest()},{len(data)}\n" for name, data in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _module_digest(module: str) -> str:
    """Returns the digest of a module's files. Files are hashed again only if one was changed, added or removed."""
    places = _places(module)
    stats = [path.stat() for path in places.values()]
    # The time of the last change of an inode cannot be set back, as that of its content can.
    state = tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in stats)
    return _hashed(tuple(places.items()), state)


@lru_cache(maxsize=16)
def _hashed(places: tuple[tuple[str, Path], ...], state: tuple[tuple[int, ...], ...]) -> str:
    return files_digest({name: path.read_bytes() for name, path in places})


def _places(module: str) -> dict[str, Path]:
    """Returns the files of a module by name. Raises Refused with the reason `plugin-missing` if it is not there."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise Refused(Reason.PLUGIN_MISSING)
    if spec.submodule_search_locations is None:
        return {f"{module}.py": Path(str(spec.origin))}
    found: dict[str, Path] = {}
    for folder in map(Path, spec.submodule_search_locations):
        found |= {f"{module}/{path.relative_to(folder).as_posix()}": path for path in _below(folder)}
    return found


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _CACHES not in path.parts:
            yield path


def _is_editable(distribution: importlib.metadata.Distribution) -> bool:
    return '"editable": true' in (distribution.read_text("direct_url.json") or "")


def _public(version: str) -> str:
    return version.partition("+")[0]
