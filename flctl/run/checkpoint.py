"""Checkpoints: written whole or not at all, checked by digest, and free of pickle.

`round-00020/` holds model.safetensors (the module's named tensors, which plain torch can load), state.safetensors
(the states of the strategy and the transforms) and manifest.json, which seals them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import atomic
from flctl.errors import IntegrityError
from flctl.json_files import JsonFormat
from flctl.types import Arrays, Checkpoint
from flctl.version import __version__

if TYPE_CHECKING:
    from flctl.models.flat_model import FlatModel

__all__ = ["FORMAT", "Checkpoints", "read_tensors"]

FORMAT = "flctl-checkpoint/1"
MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
_EARLIER = "Resume from an earlier checkpoint: move this folder away."
_DESCRIBED = JsonFormat(FORMAT, _EARLIER, 1 << 20)
_NAME = re.compile(r"round-(\d{5,})$")


PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of the files that `torch.save` and `pickle` write."""


def read_tensors(data: bytes, name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors in the bytes of a safetensors file. Raises IntegrityError for anything else, a pickle included."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(data))
    except (SafetensorError, KeyError, ValueError) as error:
        found = "a pickle or a zip archive" if data.startswith(PICKLES) else f"damaged: {error}"
        hint = "Save the weights with safetensors; flctl never unpickles."
        raise IntegrityError(f"{name} is not a safetensors file ({found})", hint=hint) from error


class Checkpoints:
    """The checkpoints of one run, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def rounds(self) -> list[int]:
        """The rounds that have a whole checkpoint, ascending."""
        if not self.directory.is_dir():
            return []
        matches = (_NAME.match(path.name) for path in self.directory.iterdir() if (path / MANIFEST).is_file())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, round_number: int) -> Path:
        """Path of the checkpoint of a round."""
        return self.directory / f"round-{round_number:05d}"

    def save(self, checkpoint: Checkpoint, model: FlatModel) -> str:
        """Writes a checkpoint and returns the digest of its model and state; one that exists is replaced."""
        from safetensors.numpy import save

        model.load(checkpoint.params)
        states = {f"{part}/{name}": v for part, vectors in checkpoint.states.items() for name, v in vectors.items()}
        files = {
            MODEL: save(model.state_dict_arrays()),
            STATE: save({k: np.ascontiguousarray(v) for k, v in states.items()}),
        }
        manifest = _manifest(checkpoint, files)
        self.directory.mkdir(exist_ok=True)
        target = self.path(checkpoint.round)
        self.remove(checkpoint.round)
        with atomic.new_directory(target) as partial:
            for name, data in files.items():
                (partial / name).write_bytes(data)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return str(manifest["digest"])

    def load(self, round_number: int, model: FlatModel) -> Checkpoint:
        """The checkpoint of a round. Raises IntegrityError when a byte is not as it was written, IncompatibleError
        for another format version or another model."""
        folder = self.path(round_number)
        manifest = _read_manifest(folder)
        files = {name: _read_sealed(folder, name, sealed) for name, sealed in manifest["files"].items()}
        model.load_state_dict_arrays(read_tensors(files[MODEL], f"{folder.name}/{MODEL}"))
        return Checkpoint(
            round=manifest["round"],
            params=model.read(),
            states=_by_part(read_tensors(files[STATE], f"{folder.name}/{STATE}"), manifest["states"]),
            progress=manifest["progress"],
            config_digest=manifest["config_digest"],
            partition_digest=manifest["partition_digest"],
        )

    def sweep(self) -> None:
        """Deletes the halves of checkpoints whose removal was cut off."""
        if self.directory.is_dir():
            for folder in self.directory.iterdir():
                if _NAME.match(folder.name) and not (folder / MANIFEST).is_file():
                    shutil.rmtree(folder)

    def remove(self, round_number: int) -> None:
        """Deletes the checkpoint of a round, if there is one; the manifest first, so that no half passes for whole."""
        folder = self.path(round_number)
        (folder / MANIFEST).unlink(missing_ok=True)
        if folder.exists():
            shutil.rmtree(folder)


def _manifest(checkpoint: Checkpoint, files: Mapping[str, bytes]) -> dict[str, Any]:
    sealed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "flctl": __version__,
        "round": checkpoint.round,
        "config_digest": checkpoint.config_digest,
        "partition_digest": checkpoint.partition_digest,
        "progress": dict(checkpoint.progress),
        "states": sorted(checkpoint.states),
        "files": sealed,
        "digest": _digest({name: entry["sha256"] for name, entry in sealed.items()}),
    }
    return {**manifest, "seal": _digest(manifest)}


def _digest(value: Mapping[str, Any]) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    name = f"checkpoint {folder.name}: {MANIFEST}"
    manifest = _DESCRIBED.read(folder / MANIFEST, name)
    seal = manifest.pop("seal", None)
    if seal != _digest(manifest) or set(manifest.get("files", ())) != {MODEL, STATE}:
        raise IntegrityError(f"{name} was changed after it was written", hint=_EARLIER)
    return manifest


def _read_sealed(folder: Path, name: str, sealed: Mapping[str, Any]) -> bytes:
    path = folder / name
    size = path.stat().st_size if path.is_file() else -1
    if size != sealed["bytes"]:
        raise IntegrityError(f"checkpoint {folder.name}: {name} has {size} bytes, expected {sealed['bytes']}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sealed["sha256"]:
        raise IntegrityError(
            f"checkpoint {folder.name}: {name} was changed after it was written (SHA-256 differs)", hint=_EARLIER
        )
    return data


def _by_part(flat: Arrays, parts: list[str]) -> dict[str, dict[str, Any]]:
    return {
        part: {name[len(part) + 1 :]: v for name, v in flat.items() if name.startswith(f"{part}/")} for part in parts
    }
