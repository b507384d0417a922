"""Weights from elsewhere: a safetensors file with the module's own tensor names."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flctl.errors import DataError, IntegrityError
from flctl.run.checkpoint import PICKLES

__all__ = ["MAX_HEADER", "load_weights", "read_weights", "unprefixed"]

MAX_HEADER = 100 << 20
"""Bytes that the header may have; the format's own limit."""
WRAPPERS = ("module.", "_orig_mod.", "model.")

_HINT = "Save the weights with safetensors.torch.save_file(module.state_dict(), ...); flctl never unpickles."


def read_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Name -> tensor; half-precision floats as float32.

    Raises DataError when there is no such file, and IntegrityError for one that is not safetensors (a pickle
    under that name included), is truncated, or declares a header longer than itself.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file", hint="Use the path of a .safetensors file.")
    _check_header(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, KeyError, ValueError) as error:
        raise IntegrityError(f"{path.name} is not a complete safetensors file: {error}", hint=_HINT) from error
    return {name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()}


def load_weights(path: Path, names: Collection[str]) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """The tensors of a file, for a module whose state has `names`, and the wrapper's prefix that was taken off."""
    return unprefixed(read_weights(path), names)


def unprefixed(
    tensors: Mapping[str, npt.NDArray[Any]], names: Collection[str]
) -> tuple[dict[str, npt.NDArray[Any]], str | None]:
    """The tensors without the prefix that DistributedDataParallel or torch.compile put before every name, where
    that and nothing else keeps them from fitting."""
    for prefix in WRAPPERS:
        if set(tensors) == {prefix + name for name in names}:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix
    return dict(tensors), None


def _check_header(path: Path) -> None:
    """Refuses by the first bytes, before anything is allocated by what they declare."""
    size = os.path.getsize(path)
    with path.open("rb") as file:
        start = file.read(8)
        declared = int.from_bytes(start, "little")
        if len(start) < 8 or declared > min(MAX_HEADER, size - 8):
            found = f"it has {size} bytes and declares a header of {declared}, limit {MAX_HEADER}"
            raise _refusal(path.name, start, found)
        try:
            header = json.loads(file.read(declared))
        except (ValueError, RecursionError) as error:
            raise _refusal(path.name, start, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _refusal(path.name, start, "its header is not an object")


def _refusal(name: str, start: bytes, found: str) -> IntegrityError:
    # Only said of a file that is already refused: a header of 640 bytes also begins with 80 02.
    if start.startswith(PICKLES):
        found = "it is a pickle, and was not opened"
    return IntegrityError(f"{name} is not a safetensors file: {found}", hint=_HINT)
