"""FedPer, FedRep and FedBN: layers that stay private to each client."""

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

_PRIVATE = "Names of the private parameters and buffers, as patterns (head.*); null: those of the last layer."


class FedPer(Strategy):
    """Clients share all layers but the last one (Arivazhagan et al. 2019, Algorithms 1 and 2).

    All layers are trained together. Clients send the delta of the shared layers only, averaged as in fedavg. The global
    model keeps its initial head, so evaluate each client's own model.
    """

    name = "fedper"

    class Config(Strategy.Config):
        private: Patterns | None = Field(None, min_length=1, description=_PRIVATE)

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        return last_layer(parts) if self.config.private is None else matching(parts, self.config.private)


class FedRep(FedPer):
    """As fedper, with the private layer trained first and the shared ones after it (Collins et al. 2021, Algorithm 1).

    In each round a client trains its private layer for `head_epochs`, with the others frozen, and then the others for
    the configured local work, with its private layer frozen.
    """

    name = "fedrep"

    class Config(FedPer.Config):
        head_epochs: PositiveInt = Field(
            1, description="Epochs on the private layer before the shared ones are trained."
        )

    def stages(self, local: LocalWork) -> Sequence[Stage]:
        head = dataclasses.replace(local, epochs=self.config.head_epochs, steps=None)
        return Stage(head, moves="private"), Stage(local, "before", moves="public")


class FedBN(Strategy):
    """FedAvg in which batch normalisation stays private to each client (Li et al. 2021b, Algorithm 1).

    Private are the scale, the shift and the running statistics of each such layer, for clients whose inputs differ in
    scale or style. The global model keeps its initial ones.
    """

    name = "fedbn"

    class Config(Strategy.Config):
        private: Patterns = Field((), description="Further private parameters and buffers, as patterns of names.")

    def private(self, parts: Sequence[Part]) -> Collection[str]:
        normalised = {part.name for part in parts if "_BatchNorm" in part.kinds}
        if not normalised and not self.config.private:
            raise IncompatibleError(
                "fedbn keeps batch normalisation layers private, and the model has no such layer",
                hint="Use a model with batch normalisation, or name other layers with strategy.private.",
            )
        return normalised | matching(parts, self.config.private)


def last_layer(parts: Sequence[Part]) -> set[str]:
    """Returns the names of the parameters and buffers of the module whose parameter comes last."""
    owner = [part for part in parts if part.vector == "params"][-1].owner
    return {part.name for part in parts if part.owner == owner}


def matching(parts: Sequence[Part], patterns: Sequence[str]) -> set[str]:
    """Returns the names that match any of the patterns. Raises IncompatibleError for a pattern without a match."""
    for pattern in patterns:
        if not any(fnmatchcase(part.name, pattern) for part in parts):
            raise IncompatibleError(
                f"no parameter or buffer of the model matches '{pattern}'",
                hint=f"The model has: {', '.join(part.name for part in parts)}.",
            )
    return {part.name for part in parts if any(fnmatchcase(part.name, pattern) for pattern in patterns)}
