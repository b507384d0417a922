"""Bounds on the local training that a client performs for a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Self

from flctl import LocalWork, ProtocolError

__all__ = ["MOST_CLASS_RATIO", "LocalBounds", "class_ratio"]

MOST_CLASS_RATIO = 10.0
"""Largest ratio of two class weights under any policy. With weights of 1e-5 for all classes but one, the sum would be
the update of the client that alone has this class."""

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class LocalBounds:
    """Bounds on the local training that a server may request.

    `lr`, `batch_size` (rows; 0: all), `epochs` and `steps` are (least, largest); `weight_decay` is the largest.
    `drop_last` accepts that incomplete batches are dropped: a batch size equal to one client's number of rows then
    leaves all smaller clients without a step, and their updates hide nothing. `class_weights` is the largest ratio of
    two class weights; 1 forbids class weights.
    """

    lr: Range = (1e-6, 10.0)
    batch_size: Range = (0, 1 << 20)
    epochs: Range = (1, 1000)
    steps: Range = (1, 1_000_000)
    weight_decay: float = 1.0
    drop_last: bool = False
    class_weights: float = MOST_CLASS_RATIO

    @classmethod
    def of(cls, local: LocalWork, ratio: float = 1.0) -> Self:
        """Bounds that a config's local work just satisfies; learning rates below its own may come from a schedule."""
        epochs, steps = (local.epochs, local.epochs), (local.steps or 1, local.steps or inf)
        lr, batch_size = (0.0, local.lr), (local.batch_size,) * 2
        most_ratio = min(ratio, MOST_CLASS_RATIO)
        return cls(lr, batch_size, epochs, steps, local.weight_decay, local.drop_last, most_ratio)

    def tightened(self, other: Self) -> Self:
        """Returns the intersection of both bounds."""
        ranges = {name: _overlap(getattr(self, name), getattr(other, name)) for name in _RANGES}
        drop_last = self.drop_last and other.drop_last
        return type(self)(
            **ranges,
            weight_decay=min(self.weight_decay, other.weight_decay),
            drop_last=drop_last,
            class_weights=min(self.class_weights, other.class_weights),
        )

    def objections(self, run: Self) -> list[str]:
        """Lists the settings for which no value that the run may request is within these bounds; empty if none."""
        found = []
        for name in _RANGES:
            mine, asked = getattr(self, name), getattr(run, name)
            least, most = _overlap(mine, asked)
            if least > most:
                found.append(f"local.{name} is {asked[1]:g}, expected {mine[0]:g} to {mine[1]:g}")
        if run.drop_last and not self.drop_last:
            found.append("local.drop_last is true, expected false")
        if run.class_weights > self.class_weights:
            found.append(_ratio_text(run.class_weights, self.class_weights))
        return found

    def check(self, local: LocalWork, ratio: float = 1.0) -> None:
        """Raises ProtocolError if the local training, or the ratio of its class weights, is outside of these bounds."""
        _demand(ratio <= self.class_weights, _ratio_text(ratio, self.class_weights))
        asked = {"lr": local.lr, "batch_size": local.batch_size}
        asked |= {"epochs": local.epochs} if local.steps is None else {"steps": local.steps}
        for name, value in asked.items():
            least, most = getattr(self, name)
            _demand(least <= value <= most, f"local.{name} is {value:g}, expected {least:g} to {most:g}")
        decay = f"local.weight_decay is {local.weight_decay:g}, expected 0 to {self.weight_decay:g}"
        _demand(0 <= local.weight_decay <= self.weight_decay, decay)
        _demand(
            self.drop_last or not local.drop_last, "local.drop_last is true, which can leave clients without a step"
        )


_RANGES = ("lr", "batch_size", "epochs", "steps")


def class_ratio(setting: str | Mapping[str, float]) -> float:
    """Returns the largest ratio of two weights in `local.class_weights`; inf if one is 0.

    Classes that a mapping does not name have weight 1, which counts, so that no weight is far below or above 1.
    `balanced-per-client` depends on rows, and counts as MOST_CLASS_RATIO; each client's rows have the mean weight 1
    under it, so that it leaves no client without a gradient.

    >>> class_ratio({"malignant": 4, "unclear": 0.5}), class_ratio("none"), class_ratio({"benign": 0})
    (8.0, 1.0, inf)
    """
    if not isinstance(setting, Mapping):
        return 1.0 if setting == "none" else MOST_CLASS_RATIO
    weights = [1.0, *setting.values()]
    return max(weights) / min(weights) if min(weights) > 0 else inf


def _ratio_text(ratio: float, most: float) -> str:
    return f"local.class_weights has weights with the ratio {ratio:g}, expected at most {most:g}"


def _overlap(one: Range, other: Range) -> Range:
    return max(one[0], other[0]), min(one[1], other[1])


def _demand(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise ProtocolError(f"policy: {otherwise}", hint="The client's policy forbids this; see `local` in its policy.")
