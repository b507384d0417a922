"""Labels that are wrong at some clients."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.errors import DataError
from flctl.partition.partitioner import Rows
from flctl.partition.schemes.altering import Altering, AlteringOptions

__all__ = ["LabelNoise"]

Values = npt.NDArray[Any]


class LabelNoise(Altering):
    """Labels wrong at random, uniformly among the others (symmetric noise, Xu et al. 2022, FedCorr).

    A training label is wrong with probability `rate`, or `rate` * (k + 1) / K at client k where it is `growing`.
    Test rows keep their true labels, so that an evaluation measures what was learned.
    """

    name = "label-noise"
    alters_test: ClassVar[bool] = False
    classes: int | None = None

    class Config(AlteringOptions):
        rate: Annotated[float, Field(ge=0, le=1, description="Fraction of wrong labels")] = 0.2
        growing: Annotated[bool, Field(description="From rate/K at the first client to rate at the last")] = False

    def prepare(self, rows: Rows) -> None:
        if rows.labels is None:
            raise DataError("these rows have no labels", hint="Use --scheme feature-noise.")
        self.classes = max(len(rows.classes), int(rows.labels.max(initial=-1)) + 1)
        if self.classes < 2:
            raise DataError("there is only one class, so no label can be wrong", hint="Use another scheme.")

    def alter(self, x: Values, y: Values, client: int, clients: int, rng: np.random.Generator) -> tuple[Values, Values]:
        if self.classes is None:
            raise DataError("scheme 'label-noise' alters rows only after `assign`", hint="Call `assign` first.")
        rate = self.config.rate * ((client + 1) / clients if self.config.growing else 1.0)
        wrong = rng.random(len(y)) < rate
        other = (y + rng.integers(1, self.classes, len(y))) % self.classes
        return x, np.where(wrong, other, y).astype(y.dtype)
