"""Global random states: set to what a check wants, and put back afterwards."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["global_seed", "threads_kept"]


@contextmanager
def threads_kept() -> Iterator[None]:
    """Torch computes on as many threads afterwards as before: runs make it use one."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """The generators of `random`, numpy and torch as `seed` makes them; a component that asks them gives itself away
    by its result, which then depends on this seed."""
    torch = sys.modules.get("torch")  # a module that is not loaded draws nothing
    states = random.getstate(), np.random.get_state(), torch and torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    if torch:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        if torch:
            torch.set_rng_state(states[2])
