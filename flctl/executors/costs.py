"""Estimated costs of executors, from shapes alone.

Nothing is timed: a choice that rests on a clock would make two runs of one configuration differ. The rates were
measured on one x86_64 core with AVX2. Only their ratios matter, and a wrong one costs time, never correctness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from flctl.executors.layer_chain import Chain, Convolution, Dense
from flctl.types import FloatArray, IntArray, LocalWork

__all__ = ["Amounts", "Limits", "cut", "low_rank_layers", "shared_cost", "single_cost", "stacked_cost"]

Cost = tuple[FloatArray, IntArray]
"""(seconds [K], bytes [K]) of each client."""

GEMM, BATCHED, GRAM = 75e9, 35e9, 30e9
"""Floating point operations per second: one large product, many small ones, products among a client's rows."""
COPY = 5e9
"""Bytes per second of a copy, or of one elementwise pass, over weights or rows."""
PASSES = 4
"""Elementwise passes over a row, and over a low-rank layer's inputs and gradients, beside the products."""
CALLS = 60e-6
"""Seconds of a step's calls beside its arithmetic, for a client that is trained alone."""
FLOAT = 4
_LESS = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Amounts:
    """Local training of K clients: `rows` [K] over all steps, `steps` [K], batch size [K], values per example."""

    rows: IntArray
    steps: IntArray
    width: IntArray
    features: int


@dataclass(frozen=True, slots=True)
class Limits:
    """End of a chunk: after `seconds` of estimated work and `rows` rows; before `bytes` or `clients` are exceeded."""

    seconds: float
    rows: int
    bytes: int
    clients: int


def _shared_seconds(layer: Dense, rows: FloatArray, *, first: bool) -> FloatArray:
    """Returns the seconds of one client's products with W0, of those among its rows, and of its part of the sum."""
    products = (2 if first else 3) * 2 * rows * layer.inputs * layer.outputs / GEMM
    # Quadratic in the rows: the correction of each row by all earlier ones. This is what limits sharing to small
    # shards.
    among = (1.5 if first else 2) * rows**2 * (layer.inputs + layer.outputs) / GRAM
    return products + among + PASSES * FLOAT * rows * (layer.inputs + layer.outputs) / COPY


def _own_seconds(layer: Dense, rows: FloatArray, *, first: bool) -> FloatArray:
    """Returns the seconds of one client's products with weights of its own, and of copying these."""
    size = layer.inputs * layer.outputs
    # The first layer needs two products (outputs, weight gradient), the others a third for the input gradient.
    return (2 if first else 3) * 2 * rows * size / BATCHED + 2 * FLOAT * size / COPY


def low_rank_layers(chain: Chain, rows: int) -> frozenset[int]:
    """Returns the indices of the layers in which sharing the initial weight is cheaper than a weight per client, for
    clients of `rows` rows over all their steps."""
    count = np.array([rows], np.float64)
    return frozenset(
        layer_index
        for layer_index, layer in enumerate(chain.links)
        if isinstance(layer, Dense)
        and _shared_seconds(layer, count, first=layer_index == 0) < _own_seconds(layer, count, first=layer_index == 0)
    )


def shared_cost(chain: Chain, amounts: Amounts) -> Cost:
    """Returns the cost of clients that share their initial weights in the layers where that is cheaper."""
    low = low_rank_layers(chain, int(amounts.rows.max(initial=0)))
    seconds, per_row, own = np.zeros(len(amounts.rows)), 2 * amounts.features + 4, 0
    rows = amounts.rows.astype(np.float64)
    for layer_index, layer in enumerate(chain.links):
        if isinstance(layer, Dense):
            seconds += (_shared_seconds if layer_index in low else _own_seconds)(layer, rows, first=layer_index == 0)
            per_row += 3 * (layer.inputs + layer.outputs) if layer_index in low else 0
            own += layer.outputs + (0 if layer_index in low else layer.inputs * layer.outputs)
    floats = amounts.rows * per_row + 2 * amounts.rows**2 + own + amounts.width * 4 * _widths(chain)
    return seconds + _handling(amounts), FLOAT * floats


def stacked_cost(chain: Chain | None, parameters: int, amounts: Amounts, local: LocalWork, *, adjusts: bool) -> Cost:
    """Returns the cost of clients with weights of their own in every layer, or (without a chain) of any model with
    `parameters` parameters."""
    rows, vectors = amounts.rows.astype(np.float64), _vectors(local, adjusts=adjusts)
    dense = [layer for layer in chain.links if isinstance(layer, Dense)] if chain else []
    own = (_own_seconds(layer, rows, first=layer_index == 0) for layer_index, layer in enumerate(dense))
    # 6 = 2 operations per multiply-add times 3 products (outputs, weight gradient, input gradient).
    seconds = sum(own, start=np.zeros(len(rows))) if dense else 6 * rows * parameters / BATCHED
    seconds = seconds + _handling(amounts) + (vectors - 1) * amounts.steps * FLOAT * parameters / COPY
    widths = _widths(chain) if chain else parameters // max(amounts.features, 1)
    step = amounts.width * (amounts.features + 4 * widths)
    return seconds, FLOAT * (parameters * vectors + amounts.rows * (2 * amounts.features + 4) + step)


def single_cost(parameters: int, amounts: Amounts, local: LocalWork, *, adjusts: bool = True) -> Cost:
    """Returns the cost of clients one after the other: their rows once, and a few vectors whatever their number."""
    seconds = amounts.steps * CALLS + 6.0 * amounts.rows * parameters / GEMM
    vectors = 2 + _vectors(local, adjusts=False) + (4 if adjusts else 0)
    return seconds, FLOAT * (parameters * vectors + 2 * amounts.rows * amounts.features)


def evenly(cost: Cost, rows: IntArray, limits: Limits) -> list[tuple[int, int]]:
    """Cuts as `cut` does, into chunks of about equal work, and an even number of them if there are several: cores come
    in pairs, and a round waits for the last chunk."""
    made = list(cut(cost, rows, limits))
    if len(made) == 1 or not rows.size:
        return made
    worth = float(cost[0].sum()) / (len(made) + len(made) % 2)
    # Slightly less than an equal share: a sum that rounds up must not add a chunk.
    return list(cut(cost, rows, replace(limits, seconds=worth * _LESS, rows=0)))


def cut(cost: Cost, rows: IntArray, limits: Limits) -> Iterator[tuple[int, int]]:
    """Yields consecutive chunks (start, stop) within the limits. Each client of a chunk is counted with the memory of
    its largest; a client that exceeds the limits on its own forms a chunk."""
    worth, size = np.cumsum(cost[0]), cost[1]
    seen, start = np.cumsum(rows), 0
    while start < len(rows):
        before = (worth[start - 1], seen[start - 1]) if start else (0.0, 0)
        enough = max(
            int(np.searchsorted(worth, before[0] + limits.seconds)), int(np.searchsorted(seen, before[1] + limits.rows))
        )
        fits = int(limits.bytes // max(int(size[start]), 1))
        stop = start + max(1, min(enough + 1 - start, fits, limits.clients, len(rows) - start))
        yield start, stop
        start = stop


def _handling(amounts: Amounts) -> FloatArray:
    """Returns the seconds [K] to read a client's rows and put them in order."""
    return np.asarray(PASSES * FLOAT * amounts.rows * (amounts.features + 8.0) / COPY, np.float64)


def _vectors(local: LocalWork, *, adjusts: bool) -> int:
    """Returns the number of model-sized vectors of a client: values, gradient, the optimiser's, temporaries."""
    if local.optimizer != "sgd":
        return 6 if adjusts else 5
    plain = not (local.momentum or local.weight_decay or local.clip_norm is not None or adjusts)
    return 1 if plain else 2 + (1 if local.momentum else 0) + (2 if adjusts else 0)


def _widths(chain: Chain) -> int:
    """Returns the number of values in all layers' outputs for one row."""
    return sum(layer.outputs for layer in chain.layers if isinstance(layer, Dense | Convolution))
