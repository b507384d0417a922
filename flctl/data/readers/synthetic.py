"""The synthetic(alpha, beta) federation."""

from __future__ import annotations

import math
import re
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader
from flctl.data.files import require_memory
from flctl.data.options import Columns
from flctl.data.schema import refuse_other_groups
from flctl.errors import ConfigError
from flctl.seeds import rng
from flctl.types import FloatArray, IntArray

__all__ = ["Synthetic"]

_SPELT = re.compile(r"synthetic(?:\(([^()]*)\))?")


class Synthetic(DatasetReader):
    """synthetic(alpha, beta): devices whose models and inputs differ (Li et al. 2020, FedProx, section 5.1; LEAF).

    Device k draws u_k ~ N(0, alpha), B_k ~ N(0, beta), v_k ~ N(B_k, 1), its model W_k, b_k ~ N(u_k, 1) and inputs
    x ~ N(v_k, S) with S diagonal, S_jj = j^-1.2; y = argmax softmax(x W_k + b_k). As in the authors' code alpha
    and beta are standard deviations, and a device holds floor(lognormal(4, 2)) + 50 rows.
    """

    name = "synthetic"

    class Config(Options):
        """`alpha`, `beta`: how much models and inputs differ; `iid`: one model and one input mean for all.

        `by` may name the group column `client`, which is always there.
        """

        alpha: float = Field(default=1.0, ge=0)
        beta: float = Field(default=1.0, ge=0)
        devices: Annotated[int, Field(ge=1, le=1_000_000)] = 30
        dimension: Annotated[int, Field(ge=1, le=100_000)] = 60
        classes: Annotated[int, Field(ge=2, le=10_000)] = 10
        iid: bool = False
        by: Columns = ()

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is `synthetic`, `synthetic(alpha,beta)` or `synthetic(alpha,beta,devices)`."""
        return _SPELT.fullmatch(source) is not None

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, dimension], y int64 codes [n], rows in the order of devices, group `client`."""
        config = self._with_spelling(source)
        refuse_other_groups(config.by, ("client",), self.name)
        sizes = _sizes(config.devices, seed)
        require_memory(8 * int(sizes.sum()) * config.dimension, source)
        parts = [_device(config, k, int(size), seed) for k, size in enumerate(sizes)]
        x, y = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        client = np.repeat(np.array([str(k) for k in range(config.devices)]), sizes)
        classes = tuple(str(c) for c in range(config.classes))
        label = f"synthetic({config.alpha:g},{config.beta:g})"
        return Dataset(label, "classification", x, y, classes, groups={"client": client})

    def _with_spelling(self, source: str) -> Config:
        match = _SPELT.fullmatch(source)
        words = match[1].split(",") if match and match[1] is not None else []
        if not words:
            return self.Config.model_validate(self.config.model_dump())
        try:
            values = dict(zip(("alpha", "beta", "devices"), map(float, words), strict=False))
            if len(words) not in (2, 3) or not all(v >= 0 and math.isfinite(v) for v in values.values()):
                raise ValueError
            return self.Config.model_validate({**self.config.model_dump(), **values})
        except ValueError as error:
            raise ConfigError(
                f"'{source}' cannot be read", hint="Write synthetic(ALPHA,BETA) or synthetic(ALPHA,BETA,DEVICES)."
            ) from error


def _sizes(devices: int, seed: int) -> IntArray:
    return rng(seed, "synthetic", "sizes").lognormal(4, 2, devices).astype(np.int64) + 50


def _device(config: Synthetic.Config, device: int, size: int, seed: int) -> tuple[npt.NDArray[np.float32], IntArray]:
    random = rng(seed, "synthetic", "device", device)
    u, centre = random.normal(0, config.alpha), random.normal(0, config.beta)
    mean = random.normal(centre, 1, config.dimension) if not config.iid else np.full(config.dimension, centre)
    weights, bias = _model(config, u, random if not config.iid else rng(seed, "synthetic", "model"))
    # sqrt of the diagonal covariance j^-1.2
    spread = np.arange(1, config.dimension + 1) ** -0.6
    x = mean + spread * random.normal(size=(size, config.dimension))
    return x.astype(np.float32), np.argmax(x @ weights + bias, axis=1).astype(np.int64)


def _model(config: Synthetic.Config, u: float, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    centre = 0.0 if config.iid else u
    return random.normal(centre, 1, (config.dimension, config.classes)), random.normal(centre, 1, config.classes)
