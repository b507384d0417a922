"""Client half of a strategy: the update that it sends, and the gradients that it adjusts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flctl import arrays
from flctl.errors import counted
from flctl.testing.conformance import Checks
from flctl.testing.strategy.subject import StrategySubject
from flctl.testing.trained_subject import PurityTexts, add_purity
from flctl.testing.values import difference, gap

__all__ = ["add_clients"]

_PURITY = PurityTexts(
    inputs="No method changes its arguments (adjust may work on its gradient).",
    inputs_why="The global model, the state and a client's memory are used again: by the next client, a repeated "
    "round, and the checkpoint.",
    inputs_todo="Return new arrays: `x = x + y`, not `x += y`; copy a mapping before you add a name to it.",
    self_todo="Keep server state in `state` (init, step), client state in `memory` (report).",
    deterministic="Equal arguments give equal results, bit for bit, on any object and under any global random state.",
    deterministic_todo='Draw from flctl.rng(ctx.seed, "round", ctx.round, self.name); use no clock and no global '
    "generator.",
)
_LAYOUTS: tuple[dict[str, int], ...] = ({"params": 1}, {"params": 7}, {"params": 7, "buffers": 2})


def add_clients(checks: Checks) -> None:
    """Adds the checks of `sends`, `report`, `adjust`, and that methods are functions of their arguments."""
    _add_trains(checks)
    _add_sends(checks)
    _add_report(checks)
    _add_extremes(checks)
    _add_memory(checks)
    _add_adjust(checks)
    add_purity(checks, _PURITY)


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "It trains a small model for three rounds, in one process, with the plain aggregator.",
        why="All other checks depend on it.",
        todo="Follow the error message; pass configuration that the strategy needs, as run=['local.lr=0.01'].",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        if not s.calls or s.failure is not None:
            raise s.failure or RuntimeError("the trial called no method of the strategy")
        yield from ()


def _add_sends(checks: Checks) -> None:
    @checks.add(
        "sends",
        "sends(layout) returns the length of each vector of an update, and depends on `layout` alone.",
        why="Server and clients call it separately, and refuse an update with another layout.",
        todo='Return name -> length, as {**super().sends(layout), "control": layout["params"]}.',
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for layout in _LAYOUTS:
            given = dict(layout)
            found = s.make().sends(given)
            if given != layout:
                yield f"it changed its argument `layout`, {layout}, to {given}"
            if not isinstance(found, Mapping) or not found:
                yield f"for {layout} it returned {found!r:.80}"
            else:
                wrong = {k: v for k, v in found.items() if not (isinstance(k, str) and type(v) is int and v > 0)}
                yield from [f"for {layout} it returned {wrong}"] if wrong else []


def _add_report(checks: Checks) -> None:
    @checks.add(
        "report",
        "report returns the vectors that sends names, a weight, and client memory.",
        why="Transforms, aggregators and messages handle named flat vectors only; a client whose update has another "
        "layout counts as failed.",
        todo="Return (arrays, weight, memory): flat numpy vectors as declared by sends, a finite weight of at least 0.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for call in s.of("report"):
            if not (isinstance(call.result, tuple) and len(call.result) == 3):
                yield f"it returned {type(call.result).__name__}, expected (arrays, weight, memory)"
                continue
            vectors, weight, _ = call.result
            yield from _faults("the update has", arrays.misfit(vectors, s.sent))
            if not _is_weight(weight):
                yield f"the weight is {weight!r:.60}"

    @checks.add(
        "precision",
        "Vectors as long as the model have at most 32 bits a value.",
        why="The model is float32: float64 doubles the traffic without a gain in precision.",
        todo="Compute with np.float32 numbers: np.float32(0.5) * vector; a plain np.float64 scalar widens the vector.",
    )
    def find_precision(s: StrategySubject) -> Iterator[str]:
        for call in s.of("report"):
            for name, vector in call.result[0].items():
                if vector.size == s.layout["params"] and vector.dtype.itemsize > 4:
                    yield f"'{name}' is {vector.dtype}, the model is float32"


def _add_extremes(checks: Checks) -> None:
    @checks.add(
        "idle-client",
        "A client without local steps, or with an unchanged model, reports finite numbers.",
        why="Clients with few rows make no step under `drop_last`, and a converged client has a zero update; a "
        "division by steps or norm fails the client, and more than `max_failures` failures end the run.",
        todo="Guard divisions: `delta / max(local.steps, 1)`, `if norm > 0`.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for call in s.of("report", 2):
            local, work, memory = call.arguments
            still = dataclasses.replace(local, delta=arrays.scale(local.delta, 0.0))
            for case in (still, dataclasses.replace(still, examples=0, steps=0, loss=0.0)):
                with np.errstate(all="ignore"):
                    vectors, weight, _ = s.make().report(case, work, memory)
                bad = [name for name, vector in vectors.items() if not np.isfinite(vector).all()]
                yield from [f"with {counted(case.steps, 'step')} and no change, {bad} is not finite"] if bad else []
                yield from (
                    [] if _is_weight(weight) else [f"with {counted(case.steps, 'step')} the weight is {weight!r}"]
                )


def _add_memory(checks: Checks) -> None:
    @checks.add(
        "memory",
        "Client memory has the layout that remembers declares, from the first round on, and fits float32.",
        why="Client memory is stored in files of that layout between rounds, and another process may read them.",
        todo="Name each vector with its length in remembers(layout), and return those names from report, as float32.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        layout = dict(s.make().remembers(s.layout))
        for call in s.of("first", 2):
            begins = {name: layout[name] for name in call.result if name in layout}
            yield from _faults("the initial client memory has", arrays.misfit(call.result, begins))
        for call in s.of("report", 9):
            kept = call.result[2]
            wrong = arrays.misfit(kept, layout)
            yield from _faults("the returned client memory has", wrong)
            for name, vector in {} if wrong else kept.items():
                if gap(vector, vector.astype(np.float32)) > 0:
                    yield f"the client memory '{name}' is {vector.dtype}, and loses digits as float32"

    @checks.add(
        "first-round",
        "A new client reports as a client with the memory that first returns, and zeros for the other vectors.",
        why="Clients join in any round, and only their memory shows that they are new.",
        todo="Return a new client's memory from first(work), and let report depend on memory alone.",
    )
    def find_first(s: StrategySubject) -> Iterator[str]:
        layout = s.make().remembers(s.layout)
        for call in s.of("report")[:3] if layout else ():
            local, work, _ = call.arguments
            memory = {**arrays.zeros(layout), **s.make().first(work)}
            yield from _faults(
                "with the memory from first", difference(call.result, s.make().report(local, work, memory))
            )


def _add_adjust(checks: Checks) -> None:
    @checks.add(
        "adjust",
        "adjust returns a finite gradient with the shape and dtype of its argument.",
        why="The optimiser applies it to the model in place, in the model's shape.",
        todo="Return the result of elementwise operations on grad with tensors of the same dtype.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        import torch

        for call in s.of("adjust", 5):
            grad, result = call.arguments[0], call.result
            if not isinstance(result, torch.Tensor):
                yield f"it returned {type(result).__name__}, expected a tensor"
            elif (result.shape, result.dtype) != (grad.shape, grad.dtype):
                yield f"it returned {result.dtype} {tuple(result.shape)} for {grad.dtype} {tuple(grad.shape)}"
            elif not bool(torch.isfinite(result).all()):
                yield "it returned values that are not finite for a gradient that is"

    @checks.add(
        "elementwise",
        "adjust on stacked clients [K, D] equals adjust on each client [D].",
        why="Clients may be trained stacked, and then one call has the gradients of all; a norm, a mean or a sort "
        "over the stack mixes the clients.",
        todo="Use elementwise operations only: no norm, sum, mean, max, sort or reshape.",
    )
    def find_elementwise(s: StrategySubject) -> Iterator[str]:
        for call in s.of("adjust", 3):
            grad, params, work, memory = call.arguments
            if grad.dim() == 1:
                yield from _stacked(s, grad, params, work, memory)


def _stacked(s: StrategySubject, grad: Any, params: Any, work: Any, memory: Mapping[str, Any]) -> Iterator[str]:
    import torch

    factors = (1.0, -2.0, 0.0, 0.5)
    grads, values = (torch.stack([factor * tensor for factor in factors]) for tensor in (grad, params))
    memories: dict[str, Any] = {
        name: torch.stack([factor * kept for factor in factors]) for name, kept in memory.items()
    }
    together = s.make().adjust(grads.clone(), values, work, memories)
    if tuple(together.shape) != tuple(grads.shape):
        yield f"for [{len(factors)}, {grad.numel()}] it returned {tuple(together.shape)}"
        return
    for row in range(len(factors)):
        own = {name: kept[row] for name, kept in memories.items()}
        alone = s.make().adjust(grads[row].clone(), values[row], work, own)
        scale = max(float(alone.abs().max()), 1e-6)
        if gap(alone.numpy(), together[row].numpy()) > 1e-5 * scale:
            yield f"row {row} of [{len(factors)}, {grad.numel()}] differs from that client alone"


def _faults(what: str, wrong: str | None) -> Iterator[str]:
    if wrong:
        yield f"{what} {wrong}"


def _is_weight(weight: Any) -> bool:
    number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    return bool(number and math.isfinite(weight) and weight >= 0)
