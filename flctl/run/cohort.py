"""Selection of a round's cohort, by name from the seed, so that any engine and any resume selects the same clients."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import seeds
from flctl.config.config import CohortConfig
from flctl.errors import ConfigError, DataError, counted
from flctl.types import ClientId, IntArray

__all__ = ["check_trace", "expected_size", "select"]


def select(
    cohort: CohortConfig,
    eligible: IntArray,
    ids: Sequence[ClientId],
    round_number: int,
    seed: int,
    *,
    secret: bool = False,
) -> IntArray:
    """Returns the indices of the clients of round `round_number`, ascending; may be empty under `poisson` and `trace`.

    `eligible` are the indices of the clients that have training rows.

    fixed: `clients` of them, uniformly without replacement. poisson: each independently with probability `rate`; if
    more than `max_cohort` are drawn, a uniform subset of that size. all: every eligible client. cyclic: the next
    `clients` in an order shuffled once. trace: `clients` of those that the trace lists as available; with a
    `separation` of S rounds, a client has a turn every S rounds.

    With `secret`, the operating system draws fixed and poisson cohorts, so that the seed does not reveal them.
    """
    if secret and cohort.sampling in ("poisson", "fixed"):
        return _secretly(cohort, eligible)
    generator = seeds.rng(seed, "round", round_number, "cohort")
    if cohort.sampling == "all":
        return eligible
    if cohort.sampling == "poisson":
        drawn = generator.random(len(eligible))
        return _cut(eligible, drawn, drawn < float(cohort.rate or 0.0), cohort.max_cohort)
    if cohort.sampling == "cyclic":
        return _cyclic(cohort.clients, eligible, round_number, seed)
    if cohort.sampling == "trace":
        eligible = _in_turn(cohort.separation, eligible, round_number, seed) if cohort.separation else eligible
        available = eligible[_available(Path(str(cohort.trace)), tuple(ids), round_number)[eligible]]
        return _without_replacement(generator, available, min(cohort.clients, len(available)))
    return _without_replacement(generator, eligible, cohort.clients)


def expected_size(cohort: CohortConfig, eligible: int) -> float:
    """Returns the mean size of a cohort. Raises ConfigError if it would exceed the number of eligible clients."""
    if cohort.sampling == "all":
        return float(eligible)
    if cohort.sampling == "poisson":
        return _expected_drawn(float(cohort.rate or 0), eligible, cohort.max_cohort)
    if cohort.clients > eligible:
        raise ConfigError(
            f"cohort.clients is {cohort.clients}, and the partition has {counted(eligible, 'client')} with training "
            "rows",
            hint=f"Use --clients-per-round {eligible} or fewer.",
        )
    return float(cohort.clients)


def check_trace(cohort: CohortConfig, ids: Sequence[ClientId]) -> None:
    """Raises ConfigError or DataError where the cohort follows a trace that cannot be read."""
    if cohort.sampling == "trace":
        _read_trace(Path(str(cohort.trace)), tuple(ids))


def _secretly(cohort: CohortConfig, eligible: IntArray) -> IntArray:
    """The cohort by 64-bit words of the operating system: those below the rate, or the lowest of them."""
    words = np.frombuffer(os.urandom(8 * len(eligible)), np.uint64)
    if cohort.sampling == "poisson":
        # No word stands for a rate of 1; any other float, times 2^64, is a whole number but for far less than 2^-64.
        rate = float(cohort.rate or 0.0)
        below = words < np.uint64(int(rate * 2**64)) if rate < 1 else np.ones(len(words), bool)
        return _cut(eligible, words, below, cohort.max_cohort)
    return _lowest(eligible, words, cohort.clients)


def _cut(eligible: IntArray, drawn: npt.NDArray[Any], below: npt.NDArray[np.bool_], most: int | None) -> IntArray:
    """Selects the clients whose draw is below their rate; if more than `most`, those with the lowest draws, which are a
    uniform subset."""
    if most is None or np.count_nonzero(below) <= most:
        return eligible[below]
    return _lowest(eligible, drawn, most)


def _lowest(eligible: IntArray, drawn: npt.NDArray[Any], count: int) -> IntArray:
    return np.sort(eligible[np.argsort(drawn, kind="stable")[:count]])


@lru_cache(maxsize=4)
def _expected_drawn(rate: float, eligible: int, most: int | None) -> float:
    """The mean of min(n, `most`) for binomial n."""
    if most is None or most >= eligible or rate == 1:
        return min(rate * eligible, most or math.inf)
    sizes = np.arange(eligible + 1)
    ways = np.cumsum(np.log((eligible + 1 - sizes[1:]) / sizes[1:]), dtype=np.float64)
    logs = np.concatenate([[0.0], ways]) + sizes * math.log(rate) + (eligible - sizes) * math.log1p(-rate)
    return float(np.minimum(sizes, most) @ np.exp(logs))


def _without_replacement(generator: np.random.Generator, pool: IntArray, size: int) -> IntArray:
    return np.sort(pool[generator.choice(len(pool), size, replace=False, shuffle=False)]) if size else pool[:0]


def _cyclic(size: int, eligible: IntArray, round_number: int, seed: int) -> IntArray:
    order = seeds.rng(seed, "cohort", "cyclic").permutation(eligible)
    start = (round_number - 1) * size
    return np.sort(order[np.arange(start, start + size) % len(order)])


def _in_turn(separation: int, eligible: IntArray, round_number: int, seed: int) -> IntArray:
    """Every `separation`-th client of an order shuffled once: those whose turn it is."""
    order = seeds.rng(seed, "cohort", "separation").permutation(eligible)
    return np.sort(order[(round_number - 1) % separation :: separation])


def _available(trace: Path, ids: tuple[ClientId, ...], round_number: int) -> npt.NDArray[np.bool_]:
    first, last, owner = _read_trace(trace, ids)
    available = np.zeros(len(ids), bool)
    available[owner[(first <= round_number) & (round_number <= last)]] = True
    return available


@lru_cache(maxsize=4)
def _read_trace(trace: Path, ids: tuple[ClientId, ...]) -> tuple[IntArray, IntArray, IntArray]:
    """The windows of a CSV with the columns client, first_round and last_round (both ends included)."""
    index = {client_id: position for position, client_id in enumerate(ids)}
    if not trace.is_file():
        raise ConfigError(f"the availability trace {trace} does not exist")
    try:
        text = trace.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{trace} is not UTF-8: byte {error.start}", hint="Save it as UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if set(reader.fieldnames or ()) != {"client", "first_round", "last_round"}:
        raise DataError(f"{trace} has the columns {reader.fieldnames}, expected client, first_round, last_round")
    windows = [_window(trace, reader.line_num, row, index) for row in reader]
    columns = np.array(windows, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _window(trace: Path, line: int, row: dict[str, str], index: dict[ClientId, int]) -> tuple[int, int, int]:
    try:
        return int(row["first_round"]), int(row["last_round"]), index[row["client"]]
    except KeyError:
        raise DataError(f"{trace}:{line}: the partition has no client '{row['client']}'") from None
    except (ValueError, TypeError):
        raise DataError(f"{trace}:{line}: first_round and last_round must be whole numbers") from None
