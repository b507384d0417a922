"""FedPer, FedRep and FedBN: layers that each client keeps to itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from pydantic import Field, PositiveInt

from flctl.algorithms.strategy import Stage, Strategy
from flctl.errors import IncompatibleError
from flctl.models.parts import Part
from flctl.types import LocalWork

Patterns = tuple[str, ...]

_PRIVATE = "Which parameters and buffers are private, as patterns of their names (head.*); null: the last layer's."


class FedPer(Strategy):
    """Clients share all layers but their own last one (Arivazhagan et al. 2019, Algorithms 1 and 2).

    All layers are trained together. Of each client's change only that of the shared ones is sent, and averaged as in
    fedavg. The global model has the head that it began with: what to look at is each client's own model.
    """

    name = "fedper"

    class Config(Strategy.Config):
        private: Patterns | None = Field(None, min_length=1, description=_PRIVATE)

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        return last_layer(parts) if self.config.private is None else matching(parts, self.config.private)


class FedRep(FedPer):
    """As fedper, the own layer trained first and the shared ones after it (Collins et al. 2021, Algorithm 1, FedRep).

    Each round a client takes `head_epochs` over its rows on its own layer, the others held still, and then the local
    work that was asked for on the others, with its own layer held still.
    """

    name = "fedrep"

    class Config(FedPer.Config):
        head_epochs: PositiveInt = Field(1, description="Epochs on the private layer before the shared ones move.")

    def stages(self, local: LocalWork) -> Sequence[Stage]:
        head = dataclasses.replace(local, epochs=self.config.head_epochs, steps=None)
        return Stage(head, moves="private"), Stage(local, "before", moves="public")


class FedBN(Strategy):
    """FedAvg in which batch normalisation stays with each client (Li et al. 2021b, Algorithm 1).

    Private are the scale, the shift and the running statistics of each such layer, for clients whose inputs differ in
    scale or style. The global model has those that it began with.
    """

    name = "fedbn"

    class Config(Strategy.Config):
        private: Patterns = Field((), description="What else is private, as patterns of names.")

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        normalised = {part.name for part in parts if "_BatchNorm" in part.kinds}
        if not normalised and not self.config.private:
            raise IncompatibleError(
                "fedbn keeps batch normalisation private, and the model has none",
                hint="Take a model with batch normalisation, or name other layers with strategy.private.",
            )
        return normalised | matching(parts, self.config.private)


def last_layer(parts: Sequence[Part]) -> set[str]:
    """The parameters and buffers of the module whose parameter comes last."""
    owner = [part for part in parts if part.vector == "params"][-1].owner
    return {part.name for part in parts if part.owner == owner}


def matching(parts: Sequence[Part], patterns: Sequence[str]) -> set[str]:
    """The names that match any of the patterns. Raises IncompatibleError for a pattern that nothing matches."""
    for pattern in patterns:
        if not any(fnmatchcase(part.name, pattern) for part in parts):
            raise IncompatibleError(
                f"no parameter or buffer of the model is called '{pattern}'",
                hint=f"There are: {', '.join(part.name for part in parts)}.",
            )
    return {part.name for part in parts if any(fnmatchcase(part.name, pattern) for pattern in patterns)}
