"""Randomness by name, never by call order.

Every engine, every number of workers and every resumed run draws the same numbers, because a stream is
addressed by what it is for: `rng(seed, "round", 3, "client", "c17", "local")`. Nothing that privacy rests on
may come from here: `secure_rng` reads the operating system and takes no seed.
"""

from __future__ import annotations

import hashlib
import json
import secrets

import numpy as np

__all__ = ["derive", "rng", "secure_rng"]

Name = str | int


def derive(seed: int, *names: Name) -> int:
    """The 128-bit seed of the stream that `names` address (SHA-256 over canonical JSON, so that
    `("a", "bc")` and `("ab", "c")`, or `1` and `"1"`, never meet)."""
    canonical = json.dumps(["flctl-seed/1", int(seed), *names], separators=(",", ":"), ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:16], "big")


def rng(seed: int, *names: Name) -> np.random.Generator:
    """A generator for the stream that `names` address; equal arguments give equal numbers everywhere."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def secure_rng() -> secrets.SystemRandom:
    """Randomness of the operating system, for noise, keys and sampling that privacy rests on."""
    return secrets.SystemRandom()
