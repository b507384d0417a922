"""Estimated duration of a round's training, and advice on the number of workers.

Estimates follow from shapes alone, by rates measured on one x86_64 core with AVX2: those of `costs` for clients that
share a step, those below for the others. Another machine may be several times faster or slower, which hardly changes
the advice. Evaluation and checkpoints are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from flctl.engines.engine import Engine
from flctl.engines.footprint import Footprint, RoundShape
from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.errors import counted
from flctl.executors.choice import TOGETHER
from flctl.executors.costs import COPY, Amounts
from flctl.executors.layer_chain import Convolution, Dense
from flctl.executors.per_example_gradients import ROW_GRADIENT_BYTES
from flctl.executors.per_example_steps import BY_ROWS
from flctl.run.run import Run
from flctl.types import FloatArray, IntArray

__all__ = ["DurationEstimate", "estimate_duration", "seconds_text"]

FLOAT = 4
ROUND = 2e-3
"""Seconds per round: sampling the cohort, adding up, the server's step."""
ROW = 0.2e-6
"""Seconds to read one row for stacked clients."""
CHUNK_STEP = {"shared": 0.35e-3, "stacked": 0.35e-3, "vmap": 2e-3}
"""Seconds of one step of a chunk beside its arithmetic."""
CLIENT = 0.35e-3
"""Seconds for one client that trains alone: reading its rows, its order, its report."""
STEP = {"fused": 0.2e-3, "sequential": 0.3e-3, "rows-chain": 0.7e-3, "rows-vmap": 5e-3, "rows-loop": 8e-3}
"""Seconds of one step of such a client beside its arithmetic."""
COPIED = 3e-9
"""Seconds to copy, compare, check and add one parameter of such a client."""
NOISE = 40e-9
"""Seconds to draw and add one parameter's noise, in each step that a transform makes."""
RATE = {"fused": 50e9, "sequential": 50e9, "rows-chain": 50e9, "rows-vmap": 12e9, "rows-loop": 25e9, "vmap": 35e9}
"""Floating point operations per second of a step."""
PIPE = 1e9
"""Bytes per second between the server and its workers."""
WORKER_START = 3.0
WORTH_SAVING, WORTH_SHARE = 5.0, 0.8


@dataclass(frozen=True, slots=True)
class DurationEstimate:
    """Estimated seconds per round by number of workers, `workers` as configured among them; the cores available to the
    run; and advice on `engine.workers`."""

    seconds: Mapping[int, float]
    workers: int
    cores: int
    advice: str

    @property
    def now(self) -> float:
        """Seconds per round as the run is configured."""
        return self.seconds[self.workers]


def estimate_duration(
    run: Run, engine: type[Engine], shape: RoundShape, found: Footprint, cores: int, rounds: int
) -> DurationEstimate:
    """Returns the estimate for a run of `rounds` rounds like `shape`; `engine` runs the clients."""
    workers = run.config.engine.workers if issubclass(engine, PoolEngine) else 1
    times = _chunk_seconds(run, shape)
    useful = max(1, min(cores, len(shape.chunks)))
    seconds = {count: _round_seconds(run, times, count) for count in sorted({workers, *range(1, useful + 1)})}
    if not issubclass(engine, (InProcessEngine, PoolEngine)):
        return DurationEstimate(seconds, workers, cores, "the engine of a plugin decides where clients run")
    estimate = DurationEstimate(seconds, workers, cores, _enough(workers, useful, cores))
    return replace(estimate, advice=_faster(run, estimate, rounds, found) or estimate.advice)


def _faster(run: Run, estimate: DurationEstimate, rounds: int, found: Footprint) -> str | None:
    """Returns the advice to use another number of workers; None if the gain is too small."""
    seconds, workers = estimate.seconds, estimate.workers
    best = min(seconds, key=lambda count: _total(seconds, count, rounds))
    now, then = _total(seconds, workers, rounds), _total(seconds, best, rounds)
    if best == workers or then > WORTH_SHARE * now or now - then < WORTH_SAVING:
        return None
    how = f"--workers {best}" if run.config.engine.name != "inprocess" else f"--engine pool --workers {best}"
    times = f"about {seconds_text(seconds[best])} a round in place of {seconds_text(seconds[workers])}"
    gain = f"{how} would be faster: {times}, {seconds_text(now - then)} over {counted(rounds, 'round')}"
    extra = (best - found.workers) * found.worker
    if found.free is not None and found.needed + extra > found.free.bytes:
        return f"{gain}, but this machine lacks the memory for it"
    return gain


def _enough(workers: int, useful: int, cores: int) -> str:
    """Returns the advice if no other number of workers is worthwhile; `useful` workers have a core and a chunk each."""
    if workers > useful:
        why = (
            f"the machine has {counted(cores, 'core')}"
            if useful == cores
            else f"a round has {counted(useful, 'chunk')} to train"
        )
        why = "a round is one chunk" if useful == 1 and cores > 1 else why
        return f"--workers {useful} would be as fast: {why}"
    if workers == cores:
        return "all cores are used" if cores > 1 else "the only core is used"
    if useful == 1:
        return "more workers would not help: a round is one chunk, which one process trains"
    return "more workers would not help: starting them takes longer than they save"


def _total(seconds: Mapping[int, float], workers: int, rounds: int) -> float:
    return rounds * seconds[workers] + (WORKER_START if workers > 1 else 0.0)


def _round_seconds(run: Run, times: FloatArray, workers: int) -> float:
    """Returns the seconds of a round with this number of workers: chunks are taken as workers become free."""
    longest, total = float(times.max(initial=0)), float(times.sum())
    if workers == 1:
        return ROUND + total
    sent = workers * sum(run.layout.values()) + len(times) * sum(run.update_layout.values())
    return ROUND + max(longest, total / workers) + FLOAT * sent / PIPE


def _chunk_seconds(run: Run, shape: RoundShape) -> FloatArray:
    """Returns the seconds of each chunk's training in one process."""
    executor, amounts = run.execution.executor, run.execution.amounts(shape.sizes)
    own = _client_seconds(run, amounts)
    if executor not in TOGETHER:
        return np.array([own[positions].sum() for positions in shape.chunks], np.float64)
    call = CHUNK_STEP[executor]
    return np.array([own[p].sum() + call * _calls(run, shape.sizes[p]) for p in shape.chunks], np.float64)


def _client_seconds(run: Run, amounts: Amounts) -> FloatArray:
    """Returns the seconds [K] of each client's training, without the steps that stacked clients make together."""
    execution, executor = run.execution, run.execution.executor
    if executor in ("shared", "stacked"):
        return execution.cost(amounts)[0] + ROW * amounts.rows
    # 6 = 2 operations per multiply-add times 3 products (outputs, weight gradient, input gradient).
    arithmetic = 6.0 * amounts.rows * _products(run) / RATE[executor]
    if executor == "vmap":
        return arithmetic + ROW * amounts.rows
    if executor == "rows-vmap":  # the gradients are built, then read twice: for their norms and for their sum
        arithmetic += 2 * ROW_GRADIENT_BYTES * execution.parameters * amounts.rows / COPY
    step = STEP[executor] + (NOISE * execution.parameters if executor in BY_ROWS else 0.0)
    return CLIENT + COPIED * execution.parameters + step * amounts.steps + arithmetic


def _calls(run: Run, sizes: IntArray) -> int:
    """Returns the number of steps of a chunk's blocks."""
    steps = run.execution.amounts(sizes).steps
    return sum(int(steps[positions].max()) for positions in run.execution.blocks(sizes))


def _products(run: Run) -> int:
    """Returns the multiplications of one row's forward pass; the number of parameters if it cannot be run."""
    chain = run.execution.chain
    shapes = chain.shapes(run.partition.shape) if chain else None
    if not chain or not shapes:
        return _counted_products(run) or run.execution.parameters
    total = 0
    for layer, after in zip(chain.layers, shapes, strict=True):
        if isinstance(layer, Dense):
            total += layer.inputs * layer.outputs
        elif isinstance(layer, Convolution):
            total += math.prod(after) * layer.inputs * math.prod(layer.kernel)
    return total


def _counted_products(run: Run) -> int:
    """Returns the multiplications that a forward pass of the module makes; 0 if the pass fails."""
    from flctl.executors.multiplications import multiplications
    from flctl.executors.stacking_trial import tried_rows

    try:
        return multiplications(run.build_model().module, tried_rows(run)[0][0][:1])
    except (RuntimeError, TypeError, ValueError, IndexError):
        return 0  # as training, which reports it


def seconds_text(seconds: float) -> str:
    """Returns `92 ms`, `1.4 s`, `1,200 s`: a duration in words, two digits if it is short."""
    if seconds >= 100:
        return f"{seconds:,.0f} s"
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.0995 else f"{seconds:.2g} s"
