"""Random numbers of many clients at once, each by name: what a client draws does not depend on who else is there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flctl.order import Keys, named_keys
from flctl.seeds import Name

__all__ = ["normal", "uniform"]

Float = npt.NDArray[np.float64]


def uniform(seed: int, names: tuple[Name, ...], keys: Keys) -> Float:
    """A number [K] between 0 and 1, both excluded, for each client by its own key [K] (`order.client_keys`)."""
    words = named_keys(seed, names, keys) >> np.uint64(11)
    return np.asarray((words + 0.5) * 2.0**-53)


def normal(seed: int, names: tuple[Name, ...], keys: Keys) -> Float:
    """A standard normal number [K] for each client by its own key [K] (Box and Muller 1958)."""
    radius, angle = (uniform(seed, (*names, part), keys) for part in ("radius", "angle"))
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle))
