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
import numpy.typing as npt

from flctl.types import FloatArray

__all__ = [
    "GOLDEN_GAMMA",
    "Keys",
    "client_keys",
    "derive",
    "mix64",
    "named_keys",
    "normal",
    "rng",
    "secure_rng",
    "uniform",
]

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


Keys = npt.NDArray[np.uint64]
"""One 64-bit word for each client [K]."""
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""SplitMix64's increment: 2^64 divided by the golden ratio, made odd."""


def mix64(words: Keys) -> Keys:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that scatters them."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def client_keys(ids: npt.NDArray[np.str_]) -> Keys:
    """A 64-bit key [K] for each id [K]; it depends on the id alone, not on how wide the array is."""
    letters = np.ascontiguousarray(ids).view("<u4").reshape(len(ids), -1)
    keys = np.full(len(ids), GOLDEN_GAMMA)
    for position in range(letters.shape[1]):
        letter = letters[:, position].astype(np.uint64)
        keys = np.where(letter != 0, mix64(keys ^ (letter | np.uint64(position << 32))), keys)
    return keys


def named_keys(seed: int, names: tuple[Name, ...], keys: Keys) -> Keys:
    """The key [K] of each client's stream that `names` address, from the clients' own keys [K]; distinct for distinct
    ids but for chance 2^-64."""
    return mix64(keys ^ np.uint64(derive(seed, *names) & (2**64 - 1)))


def uniform(seed: int, names: tuple[Name, ...], keys: Keys) -> FloatArray:
    """A number [K] between 0 and 1, both excluded, for each client by its own key [K] (`client_keys`)."""
    words = named_keys(seed, names, keys) >> np.uint64(11)
    return np.asarray((words + 0.5) * 2.0**-53)


def normal(seed: int, names: tuple[Name, ...], keys: Keys) -> FloatArray:
    """A standard normal number [K] for each client by its own key [K] (Box and Muller 1958)."""
    radius, angle = (uniform(seed, (*names, part), keys) for part in ("radius", "angle"))
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle))
