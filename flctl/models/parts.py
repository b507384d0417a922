"""The parts of a model: their position in its vectors, and which of them never leave a client."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.errors import ProtocolError
from flctl.types import Arrays

__all__ = ["Outline", "ParameterSplit", "Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter or buffer, by its name in the module's `state_dict`.

    It is at [`start`, `stop`) of the vector `vector`, which is "params" or "buffers". `kinds` are the names of the
    classes of the module that has it, its own first: ("BatchNorm2d", "_BatchNorm", ...).
    """

    name: str
    vector: str
    start: int
    stop: int
    kinds: tuple[str, ...]

    @property
    def owner(self) -> str:
        """The name of the module that has it, "" for the model itself."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Outline:
    """A model's parts, and the shapes of its trainable parameters in order: all that a process without torch needs to
    know of it."""

    parts: tuple[Part, ...]
    shapes: tuple[tuple[int, ...], ...]

    def plain(self) -> dict[str, Any]:
        """Returns the outline as plain values."""
        parts = [[part.name, part.vector, part.start, part.stop, list(part.kinds)] for part in self.parts]
        return {"parts": parts, "shapes": [list(shape) for shape in self.shapes]}

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Outline:
        """Returns the outline that `plain` wrote. Raises ProtocolError for other values.

        >>> outline = Outline((Part("weight", "params", 0, 6, ("Linear",)),), ((2, 3),))
        >>> Outline.of_plain(outline.plain()) == outline
        True
        """
        try:
            found = values["parts"]
            parts = tuple(Part(name, vector, start, stop, tuple(kinds)) for name, vector, start, stop, kinds in found)
            return cls(parts, tuple(tuple(int(size) for size in shape) for shape in values["shapes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError("a model's outline lacks its parts or their shapes") from error


class ParameterSplit:
    """A model's vectors, split into the public side, which the server has too, and the private side of each client.

    `layout`, `public` and `private` are the layouts of the model and of its two sides; a vector without values on a
    side is not in that side's layout.
    """

    def __init__(self, parts: Sequence[Part], private: Collection[str]) -> None:
        """`private` are names of parts."""
        self.parts = tuple(parts)
        self.layout = {part.vector: max(p.stop for p in parts if p.vector == part.vector) for part in parts}
        self.masks = {name: np.zeros(length, bool) for name, length in self.layout.items()}
        for part in parts:
            self.masks[part.vector][part.start : part.stop] = part.name in private
        self.private = {name: int(mask.sum()) for name, mask in self.masks.items() if mask.any()}
        self.public = {name: int((~mask).sum()) for name, mask in self.masks.items() if not mask.all()}

    def public_of(self, vectors: Arrays) -> Arrays:
        """The public side of the model's vectors, [L] or stacked [K, L]."""
        if not self.private:
            return vectors
        return {name: vectors[name][..., ~self.masks[name]] for name in self.public}

    def private_of(self, vectors: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The private side of the model's vectors, [L] or stacked [K, L]."""
        return {name: vectors[name][..., self.masks[name]] for name in self.private}

    def whole(self, public: Arrays, private: Arrays) -> Arrays:
        """Returns the model's vectors from their two sides; stacked if either is."""
        return {name: self._whole(name, public, private) for name in self.layout} if self.private else public

    def shapes(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Returns the shapes of the public parameters, from those of all parameters, in order."""
        owned = [part for part in self.parts if part.vector == "params"]
        pairs = zip(owned, shapes, strict=True)
        return [shape for part, shape in pairs if not self.masks["params"][part.start : part.stop].any()]

    def _whole(self, name: str, public: Arrays, private: Arrays) -> npt.NDArray[Any]:
        if name not in self.private:
            return public[name]
        if name not in self.public:
            return private[name]
        leading = np.broadcast_shapes(public[name].shape[:-1], private[name].shape[:-1])
        whole = np.empty((*leading, self.layout[name]), private[name].dtype)
        whole[..., ~self.masks[name]], whole[..., self.masks[name]] = public[name], private[name]
        return whole
