"""The server's state between two rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flctl import arrays
from flctl.types import Arrays

if TYPE_CHECKING:
    from flctl.run.run import Run

__all__ = ["State", "initial_state"]


@dataclass(frozen=True, slots=True)
class State:
    """The server's state after `round` rounds: the model, and the named states of the strategy and the transforms.

    Later rounds depend on nothing else, except on the clients' memory. A checkpoint holds all of it.
    """

    round: int
    params: Arrays
    strategy: Arrays
    transforms: Mapping[str, Arrays]

    def frozen(self) -> State:
        """Returns the state with read-only vectors, so that a round that fails cannot have changed it."""
        transforms = {name: arrays.frozen(vectors) for name, vectors in self.transforms.items()}
        return State(self.round, arrays.frozen(self.params), arrays.frozen(self.strategy), transforms)


def initial_state(run: Run, params: Arrays) -> State:
    """Returns the state before the first round, with `params` as the model's initial weights."""
    return State(
        round=0,
        params=params,
        strategy=run.strategy.init(run.division.public_of(params)),
        transforms={name: t.init(run.pipeline.layouts[name]) for name, t in run.transforms.items()},
    )
