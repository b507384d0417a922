"""What a session costs, before it is held: bytes, precision, dropouts borne, and seconds on this machine."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from flctl_secagg.crypto.masks import CHUNK, add_masks, keystream
from flctl_secagg.crypto.primitives import SIGNATURE_BYTES, agree, derive, loaded, new_key, public_of
from flctl_secagg.crypto.shamir import SHARE_BYTES
from flctl_secagg.encoding.packing import lane
from flctl_secagg.encoding.vectors import WEIGHT, Encoding
from flctl_secagg.protocol.degrees import Degrees
from flctl_secagg.protocol.derived_keys import BOX_BYTES, RECORD_BYTES

__all__ = ["Plan", "Speed", "measure", "plan"]

_HEAD, _PLACE = 38, 4


@dataclass(frozen=True, slots=True)
class Speed:
    """This machine's one core: bytes a second of bare AES-128-CTR through `update_into` and of `add_masks`, their
    ratio `rho`, seconds to encode a value, and to agree on a mask with one peer."""

    aes: float
    masks: float
    rho: float
    encode: float
    agree: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One session of `clients`: k, t, Q, what a level is of a coordinate, the deviation of the mean that rounding
    adds at most, bytes of one client, dropouts that are always borne, and a client's seconds."""

    clients: int
    neighbours: int
    threshold: int
    bits: int
    words: int
    levels: int
    level: float
    deviation: float
    bytes_up: int
    bytes_down: int
    survives: int
    client_seconds: float


def plan(encoding: Encoding, degrees: Degrees, active: bool, hello: int, speed: Speed) -> Plan:
    """What a session costs; `hello` are the bytes of its parameters."""
    k, n = degrees.neighbours, encoding.count
    up = RECORD_BYTES + k * BOX_BYTES + SIGNATURE_BYTES + encoding.bytes + k * SHARE_BYTES + 4 * _HEAD
    down = hello + (k + 1) * (RECORD_BYTES + _PLACE) + k * (BOX_BYTES + _PLACE) + (n + 7) // 8 + 4 * _HEAD
    if active:
        up += _HEAD + SIGNATURE_BYTES
        down += _HEAD + (n + 7) // 8 + k * (SIGNATURE_BYTES + _PLACE)
    masked = (k + 1) * encoding.words * lane(encoding.bits).itemsize / speed.masks
    return Plan(
        clients=n,
        neighbours=k,
        threshold=degrees.threshold,
        bits=encoding.bits,
        words=encoding.words,
        levels=encoding.levels,
        level=encoding.clip / encoding.levels,
        deviation=encoding.clip / encoding.levels / 2 / sqrt(n),
        bytes_up=up,
        bytes_down=down,
        survives=k - degrees.threshold,
        client_seconds=masked + encoding.words * speed.encode + 3 * k * speed.agree,
    )


def measure(length: int = 100_000, streams: int = 10, repeats: int = 7) -> Speed:
    """The speed of this machine, the best of `repeats`; bare AES and masks take turns, as clocks change."""
    aes = masks = rho = 0.0
    words = np.zeros(length, lane(32))
    seeds = [(new_key(), place % 2 == 0) for place in range(streams)]
    for _ in range(repeats):
        bare = _aes_rate(words.nbytes * streams)
        started = time.perf_counter()
        add_masks(words, seeds)
        fused = words.nbytes * streams / (time.perf_counter() - started)
        aes, masks, rho = max(aes, bare), max(masks, fused), max(rho, fused / bare)
    return Speed(aes, masks, min(rho, masks / aes), _encode_seconds(length, repeats), _agree_seconds())


def _aes_rate(total: int) -> float:
    blank, buffer, fill = bytes(CHUNK), bytearray(CHUNK + 16), keystream(os.urandom(32)).update_into
    rounds = max(total // CHUNK, 8)
    started = time.perf_counter()
    for _ in range(rounds):
        fill(blank, buffer)
    return rounds * CHUNK / (time.perf_counter() - started)


def _encode_seconds(length: int, repeats: int) -> float:
    encoding = Encoding((("delta", length),), 32, 100, 8.0, 1.0)
    vector: dict[str, Any] = {"delta": np.linspace(-1, 1, length, dtype=np.float32), WEIGHT: np.ones(1)}
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        encoding.encode(vector)
        best = min(best, time.perf_counter() - started)
    return best / length


def _agree_seconds(repeats: int = 50) -> float:
    private, public = loaded(new_key()), public_of(new_key())
    started = time.perf_counter()
    for _ in range(repeats):
        derive(agree(private, public), b"sid", b"info")
    return (time.perf_counter() - started) / repeats
