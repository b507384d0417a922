"""Client half of a strategy: the update that it sends, and the gradients that it adjusts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flctl import arrays
from flctl.testing.calls import purity
from flctl.testing.conformance import Checks
from flctl.testing.strategy.subject import StrategySubject
from flctl.testing.values import difference, gap

__all__ = ["add_clients"]

_LAYOUTS: tuple[dict[str, int], ...] = ({"params": 1}, {"params": 7}, {"params": 7, "buffers": 2})


def add_clients(checks: Checks) -> None:
    """Adds the checks of `sends`, `report`, `adjust`, and that methods are functions of their arguments."""
    _add_trains(checks)
    _add_sends(checks)
    _add_report(checks)
    _add_extremes(checks)
    _add_memory(checks)
    _add_adjust(checks)
    _add_purity(checks)


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "It trains a small model for three rounds, in one process, over the plain sum.",
        why="Everything else rests on it.",
        todo="Follow what is said; `run=[...]` gives the trial what the strategy needs, as run=['local.lr=0.01'].",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        if not s.calls or s.failure is not None:
            raise s.failure or RuntimeError("the trial called no method of the strategy")
        yield from ()


def _add_sends(checks: Checks) -> None:
    @checks.add(
        "sends",
        "sends(layout) names each vector of an update with its length, and nothing else decides it.",
        why="Server and clients ask it separately, and an update that is laid out otherwise is refused.",
        todo='Return name -> length, as {**super().sends(layout), "control": layout["params"]}.',
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for layout in _LAYOUTS:
            given = dict(layout)
            found = s.make().sends(given)
            if given != layout:
                yield f"it changed the layout that it was given, {layout}, to {given}"
            if not isinstance(found, Mapping) or not found:
                yield f"for {layout} it returned {found!r:.80}"
            else:
                wrong = {k: v for k, v in found.items() if not (isinstance(k, str) and type(v) is int and v > 0)}
                yield from [f"for {layout} it returned {wrong}"] if wrong else []


def _add_report(checks: Checks) -> None:
    @checks.add(
        "report",
        "report gives the vectors that sends names, a weight, and what to remember.",
        why="An update is a few flat vectors by name, because layers, sums and messages know nothing else; a client "
        "whose update has another layout counts as failed.",
        todo="Return (arrays, weight, memory): flat numpy vectors as sends says, a finite weight of at least 0.",
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
        why="The model is float32: float64 doubles what each client sends and adds nothing.",
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
        "A client that made no step, or whose model did not move, reports finite numbers.",
        why="Clients with few rows make no step under `drop_last`, and a converged one does not move; a division by "
        "its steps or its norm fails the client, and more than `max_failures` of them the run.",
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
                yield from [f"with {case.steps} steps and no change, {bad} is not finite"] if bad else []
                yield from [] if _is_weight(weight) else [f"with {case.steps} steps the weight is {weight!r}"]


def _add_memory(checks: Checks) -> None:
    @checks.add(
        "memory",
        "What a client remembers is laid out as remembers says, from the first on, and fits float32.",
        why="Memory is kept in files of that layout between a client's rounds, and another process may read them.",
        todo="Name each vector with its length in remembers(layout), and return those names from report, as float32.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        layout = dict(s.make().remembers(s.layout))
        for call in s.of("first", 2):
            begins = {name: layout[name] for name in call.result if name in layout}
            yield from _faults("a client begins with", arrays.misfit(call.result, begins))
        for call in s.of("report", 9):
            kept = call.result[2]
            wrong = arrays.misfit(kept, layout)
            yield from _faults("what it wants to remember has", wrong)
            for name, vector in {} if wrong else kept.items():
                if gap(vector, vector.astype(np.float32)) > 0:
                    yield f"what it wants to remember as '{name}' is {vector.dtype}, and loses digits as float32"

    @checks.add(
        "first-round",
        "A client's first report is that of one who remembers what first says, and zeros beside.",
        why="Nothing else tells a client that it is new: clients join at any round.",
        todo="Let first(work) say what a new client remembers, and report read nothing but memory.",
    )
    def find_first(s: StrategySubject) -> Iterator[str]:
        layout = s.make().remembers(s.layout)
        for call in s.of("report")[:3] if layout else ():
            local, work, _ = call.arguments
            memory = {**arrays.zeros(layout), **s.make().first(work)}
            yield from _faults("with that memory", difference(call.result, s.make().report(local, work, memory)))


def _add_adjust(checks: Checks) -> None:
    @checks.add(
        "adjust",
        "adjust gives a gradient of the shape and dtype that it was given, and finite.",
        why="The optimiser moves the model by it, in place, in the model's own shape.",
        todo="Return grad changed by elementwise operations with tensors of its own dtype.",
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
        "adjust gives stacked clients [K, D] what it gives each of them [D].",
        why="Clients of equal shape may be trained side by side, and then one call has the gradients of all; a norm, a "
        "mean or a sort over a stack mixes the clients.",
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


def _add_purity(checks: Checks) -> None:
    @checks.add(
        "inputs",
        "No method changes what it is given (adjust may work on its gradient).",
        why="The global model, the state and a client's memory are used again: by the next client, by a round that is "
        "repeated, by the checkpoint.",
        todo="Return new arrays: `x = x + y`, not `x += y`; copy a mapping before you add a name to it.",
    )
    def find_inputs(s: StrategySubject) -> Iterator[str]:
        yield from purity(s.replays)[0]

    @checks.add(
        "self",
        "No method keeps anything on the object.",
        why="One object serves all clients, and each worker process has its own: what is kept there differs between "
        "them, and is lost when a run goes on after a kill.",
        todo="Keep what the server remembers in `state` (init, step), what a client remembers in `memory` (report).",
    )
    def find_self(s: StrategySubject) -> Iterator[str]:
        yield from purity(s.replays)[1]

    @checks.add(
        "deterministic",
        "Equal arguments give equal results, bit for bit, on any object and whatever the global random state.",
        why="Runs are repeatable on any engine and after any kill only if nothing but arguments and seed decides.",
        todo='Draw from flctl.rng(ctx.seed, "round", ctx.round, self.name); look at no clock and no global generator.',
    )
    def find_deterministic(s: StrategySubject) -> Iterator[str]:
        yield from purity(s.replays)[2]


def _faults(what: str, wrong: str | None) -> Iterator[str]:
    if wrong:
        yield f"{what} {wrong}"


def _is_weight(weight: Any) -> bool:
    number = isinstance(weight, int | float | np.number) and not isinstance(weight, bool)
    return bool(number and math.isfinite(weight) and weight >= 0)
