"""Options of the aggregator `secagg`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

import flctl
from flctl import IncompatibleError
from flctl.errors import counted
from flctl_secagg.client.policy import FLOOR, Differing
from flctl_secagg.crypto.masks import Ciphers
from flctl_secagg.encoding.packing import WIDTHS
from flctl_secagg.protocol.degrees import COMPLETE_UP_TO, Degrees, Mode, choose, complete, least_threshold

__all__ = ["Options"]


class Options(flctl.Aggregator.Config):
    """Options of a run, `aggregator.*`."""

    mode: Mode = Field("hbc", description="What the server may do: follow the protocol (hbc), or anything (active).")
    bits: int = Field(32, description="Bits of a word on its way: 16, 20, 24, 32 or 64.")
    clip: float = Field(
        8.0, gt=0, allow_inf_nan=False, description="The bound of each coordinate, before it is weighted."
    )
    max_weight: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Weights above count as this. Default: 1 in active mode (clients count alike), else the rows "
        "of the largest client.",
    )
    minimum: int = Field(5, ge=FLOOR, description="The fewest clients whose sum is made known.")
    neighbours: int | None = Field(None, ge=2, description="k: whom each client masks with; chosen if left out.")
    threshold: int | None = Field(None, ge=2, description="t: shares that open a secret; chosen if left out.")
    corrupt: float = Field(0.1, ge=0, lt=0.5, description="The share of clients that may collude with the server.")
    dropped: float = Field(0.1, ge=0, lt=0.5, description="The share of clients that may drop out of a session.")
    cipher: Ciphers = Field("aes-128-ctr", description="What masks are made by: aes-128-ctr or aes-256-ctr.")
    attempts: int = Field(2, ge=1, le=10, description="Sessions that are tried in a round before it is refused.")
    burnt: int = Field(
        3, ge=0, description="Rounds in a row that may give no sum after shares were opened; one more ends the run."
    )
    differing: Differing | None = Field(
        None,
        description="When sums over rounds' survivors together give one client's update, or a combination of two: "
        "allow, warn or refuse. Default: refuse in active mode, else warn.",
    )
    keys: str | None = Field(
        None,
        description="A directory of keys and a roster; without it, the run makes them.",
        json_schema_extra={"place": "path"},
    )
    transcript: bool = Field(False, description="Record what passes through the server, for flctl secagg verify.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.bits not in WIDTHS:
            raise ValueError(f"bits is {self.bits}, expected one of {', '.join(map(str, WIDTHS))}")
        if self.neighbours is not None and self.neighbours % 2:
            raise ValueError(f"neighbours is {self.neighbours}, expected an even number")
        return self

    def degrees(self, count: int) -> Degrees:
        """Returns k and t for a cohort of `count`, as configured or chosen. Raises IncompatibleError if a configured
        value is below the least safe one, or above the number of neighbours."""
        whole = complete(count, self.mode, self.corrupt)
        chosen = (
            whole
            if self.mode == "active" and count <= COMPLETE_UP_TO
            else choose(count, self.mode, self.corrupt, self.dropped)
        )
        degree = chosen.neighbours if self.neighbours is None else min(self.neighbours, count - 1)
        if degree < chosen.neighbours:
            raise IncompatibleError(
                f"aggregator.neighbours is {degree}, and {counted(count, 'client')} need {chosen.neighbours}",
                hint="Leave aggregator.neighbours out, or lower aggregator.corrupt or aggregator.dropped.",
            )
        least = least_threshold(count, degree, self.mode, self.corrupt)
        threshold = least if self.threshold is None else self.threshold
        if not least <= threshold <= degree:
            raise IncompatibleError(
                f"aggregator.threshold is {threshold}, expected {least} to {degree} for {counted(degree, 'neighbour')}",
                hint="Leave aggregator.threshold out.",
            )
        return Degrees(degree, threshold)
