"""Costs of a session, computed before it runs: bytes, precision, tolerated dropouts, and seconds on this machine."""

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
from flctl_secagg.protocol.derived_keys import PROOF_BYTES, RECORD_BYTES
from flctl_secagg.protocol.parcels import DELIVERED_BYTES, PARCEL_BYTES
from flctl_secagg.protocol.past import HEAD_BYTES

__all__ = ["Plan", "Speed", "measure", "plan", "plan_lines"]

_HEAD, _PLACE = 38, 4


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of one core of this machine.

    `aes`, `masks`: bytes per second of bare AES-128-CTR (`update_into`) and of `add_masks`; `rho`: their ratio.
    `encode`: seconds to encode one value. `agree`: seconds of one key agreement with a peer.
    """

    aes: float
    masks: float
    rho: float
    encode: float
    agree: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Costs of one session with `clients` clients.

    `neighbours`, `threshold`, `levels`: k, t and Q. `level`: size of one level of a coordinate; `deviation`: largest
    standard deviation that rounding adds to the mean. `bytes_up`, `bytes_down`, `client_seconds`: costs of one client.
    `survives`: dropouts that every session tolerates.
    """

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


def plan(encoding: Encoding, degrees: Degrees, hello: int, speed: Speed, *, active: bool) -> Plan:
    """Returns the costs of a session. `hello`: size of its parameters, in bytes."""
    k, n = degrees.neighbours, encoding.count
    up = RECORD_BYTES + HEAD_BYTES + PROOF_BYTES + k * PARCEL_BYTES + encoding.bytes + k * SHARE_BYTES
    up += 3 * SIGNATURE_BYTES + 4 * _HEAD
    down = (
        hello + _PLACE + (k + 1) * (RECORD_BYTES + _PLACE) + k * (DELIVERED_BYTES + _PLACE) + (n + 7) // 8 + 4 * _HEAD
    )
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


def plan_lines(found: Plan) -> list[str]:
    """Returns the plan as aligned lines: a name, its value with a unit, and its meaning."""
    rows = [
        ("clients", f"{found.clients:,}", "in a session"),
        ("neighbours", f"{found.neighbours:,}", "k: each client masks with"),
        ("threshold", f"{found.threshold:,}", "t: shares open a secret"),
        ("dropouts", f"{found.survives:,}", "of a client's neighbours, which every session bears"),
        ("word", f"{found.bits} bits", f"{found.words:,} words for each client"),
        ("levels", f"{found.levels:,}", "to each side of 0, for one client's coordinate"),
        ("level", f"{found.level:.3g}", "one level, in units of the update at the largest weight"),
        ("deviation", f"{found.deviation:.3g}", "that rounding adds to the mean of equal weights, at most"),
        ("up", _size(found.bytes_up), "a client sends"),
        ("down", _size(found.bytes_down), "a client receives, besides the model"),
        ("time", f"{found.client_seconds:.3g} s", "of one core of this machine, for a client, without training"),
    ]
    widths = [max(len(row[at]) for row in rows) for at in (0, 1)]
    return [f"{name:{widths[0]}}  {value:>{widths[1]}}  {meaning}" for name, value, meaning in rows]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.1f} kB"


def measure(length: int = 100_000, streams: int = 10, repeats: int = 7) -> Speed:
    """Measures this machine, best of `repeats`. Bare AES and masks alternate, since the clock frequency changes."""
    aes = masks = rho = 0.0
    words = np.zeros(length, lane(32))
    seeds = [(new_key(), index % 2 == 0) for index in range(streams)]
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
