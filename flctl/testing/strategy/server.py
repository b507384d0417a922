"""Server half of a strategy: state, `combine` and `step`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flctl import arrays
from flctl.errors import FlctlError, counted
from flctl.testing.conformance import Checks
from flctl.testing.strategy.subject import StrategySubject, replaced
from flctl.testing.values import difference, vectors_close
from flctl.types import Aggregate, Arrays, ClientUpdate

__all__ = ["add_server"]

_TOLERANCE = 1e-4
"""Relative: float32 sums of a few values in another order, or scaled by a power of two."""


def add_server(checks: Checks) -> None:
    """Adds the checks of `init`, `broadcast`, `combine`, `step` and the presets."""
    _add_presets(checks)
    _add_state(checks)
    _add_step(checks)
    _add_combine(checks)
    _add_fewer(checks)
    _add_weights(checks)
    _add_finite(checks)


def _add_presets(checks: Checks) -> None:
    @checks.add(
        "presets",
        "Its presets for `server:` and `local:` are valid keys and values of those sections.",
        why="Presets are defaults of the configuration; an invalid preset is an error in every run.",
        todo="Run `flctl config show` to see the keys of `server:` and `local:`.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        from flctl.config.sections.training import LocalConfig, ServerConfig

        for section, model in (("server", ServerConfig), ("local", LocalConfig)):
            model.model_validate(dict(getattr(s.component, section, {})))
        yield from ()


def _add_state(checks: Checks) -> None:
    @checks.add(
        "state",
        "init and step return a state of named flat vectors, and broadcast returns such vectors.",
        why="The state is part of each checkpoint, and broadcasts are part of each message; both formats have only "
        "such vectors.",
        todo='Return {"rounds": np.zeros(1, np.float32)} rather than {"rounds": 0}.',
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for method in ("init", "broadcast"):
            for call in s.of(method):
                wrong = arrays.misfit(call.result)
                yield from [f"{method} returned {wrong}"] if wrong else []
        for call in s.of("step"):
            wrong = arrays.misfit(call.result[1])
            yield from [f"step returned a state with {wrong}"] if wrong else []

    @checks.add(
        "checkpoint",
        "After a checkpoint round trip of the state, the next step is the same, bit for bit.",
        why="A killed run continues from its checkpoint with the same results.",
        todo="Keep everything that later rounds depend on in the state, as numpy vectors of one dimension.",
    )
    def find_checkpoint(s: StrategySubject) -> Iterator[str]:
        for call in s.of("step"):
            params, aggregate, state, ctx = call.arguments
            again = s.make().step(_stored(params), aggregate, _stored(state), ctx)
            differs = difference(call.result, again)
            yield from [f"step in round {ctx.round}: {differs}"] if differs else []


def _stored(vectors: Arrays) -> dict[str, Any]:
    from safetensors.numpy import load, save

    return dict(load(save({name: np.ascontiguousarray(vector) for name, vector in vectors.items()})))


def _add_step(checks: Checks) -> None:
    @checks.add(
        "step",
        "step returns (params, state), and params has the layout of the model.",
        why="params is the next global model; another layout fails in the middle of a run.",
        todo='Return ({**params, "params": new}, state) with a vector of the same length.',
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for call in s.of("step"):
            if not (isinstance(call.result, tuple) and len(call.result) == 2):
                yield f"it returned {type(call.result).__name__}, expected (params, state)"
            else:
                wrong = arrays.misfit(call.result[0], s.layout)
                yield from [f"the model has {wrong}"] if wrong else []


def _add_combine(checks: Checks) -> None:
    @checks.add(
        "combine",
        "combine returns vectors of the same lengths under the same names, and an aggregator that hides does not "
        "call it.",
        why="numpy would broadcast a scalar over the whole model; vectors that combine leaves out are averaged.",
        todo="Reduce over clients only: np.median(stacked, axis=0).",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        for call in s.of("combine"):
            expected = {name: s.sent[name] for name in call.result if name in s.sent}
            wrong = arrays.misfit(call.result, expected)
            yield from [f"it returned {wrong}"] if wrong else []

    @checks.add(
        "order",
        "combine gives the same result for any order of the clients.",
        why="The order of the cohort is arbitrary; a result that depends on it would change when clients are renamed.",
        todo="Use sums, sorts and medians over clients; break ties by value or by client id, not by position.",
    )
    def find_order(s: StrategySubject) -> Iterator[str]:
        for call in s.of("combine", 2):
            (updates,) = call.arguments
            shuffled = [updates[i] for i in np.random.default_rng(0).permutation(len(updates))]
            for other in (list(updates)[::-1], shuffled):
                differs = vectors_close(call.result, s.make().combine(other), _TOLERANCE)
                yield from [f"in another order {differs}"] if differs else []


def _add_fewer(checks: Checks) -> None:
    @checks.add(
        "dropout",
        "If one or more clients are missing, it returns a finite model, or raises an FlctlError with the required "
        "number.",
        why="Clients drop out of rounds, and any subset of the cohort can remain.",
        todo="Do not rely on a fixed number of clients. Raise flctl.IncompatibleError if there are too few.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        updates = s.updates()
        for left in (updates[1:], updates[::2], updates[:2], updates[:1], updates[-1:]):
            yield from _usable(s, left, f"with {len(left)} of {counted(len(updates), 'client')}")

    @checks.add(
        "nobody",
        "Without any update, the model stays finite and keeps its layout.",
        why="A Poisson cohort may be empty, and all clients may drop out: then the sum and its weight are 0.",
        todo="Begin step with `if aggregate.weight == 0: return params, state`.",
    )
    def find_nobody(s: StrategySubject) -> Iterator[str]:
        for call in s.of("step", 2):
            with np.errstate(all="ignore"):
                params, state = s.step(Aggregate(arrays.zeros(s.sent), 0.0, 0), call)
            yield from _faults(s, params, state, "without updates")


def _usable(s: StrategySubject, updates: Sequence[ClientUpdate], when: str) -> Iterator[str]:
    try:
        with np.errstate(all="ignore"):
            params, state = s.step(s.aggregate(updates))
    except FlctlError:
        return  # a refusal that says why
    yield from _faults(s, params, state, when)


def _faults(s: StrategySubject, params: Arrays, state: Arrays, when: str) -> Iterator[str]:
    wrong = arrays.misfit(params, s.layout) or arrays.misfit(state)
    if wrong:
        yield f"{when} step returned {wrong}"
        return
    bad = [name for name, vector in {**params, **state}.items() if not np.isfinite(vector).all()]
    if bad:
        yield f"{when} {', '.join(map(repr, bad))} has values that are NaN or infinite"


def _add_weights(checks: Checks) -> None:
    @checks.add(
        "weight-scale",
        "Scaling all weights by a constant gives the same model (unless every weight is 1).",
        why="A weight is relative to the other weights (n_k / n): its unit may be examples, batches or fractions.",
        todo="Divide by the sum of weights: aggregate.mean(name), or update.weight / total in combine.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        updates = s.updates()
        if all(update.weight == 1 for update in updates):
            return  # they count clients, and their sum is a number of clients
        heavier = [dataclasses.replace(update, weight=8 * update.weight) for update in updates]
        one, other = (s.step(s.aggregate(those))[0] for those in (updates, heavier))
        differs = vectors_close(one, other, _TOLERANCE)
        yield from [f"with weights scaled by 8 {differs}"] if differs else []


def _add_finite(checks: Checks) -> None:
    @checks.add(
        "finite",
        "Finite updates give a finite model: equal ones, zeros, tiny and large ones.",
        why="At convergence, updates are equal or zero; a distance or norm of zero must not be a divisor.",
        todo="Guard divisions and logarithms; add a small constant to a denominator, or handle zero separately.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        updates = s.updates()
        cases: Mapping[str, Sequence[ClientUpdate]] = {
            "equal updates": [dataclasses.replace(updates[0], client_id=update.client_id) for update in updates],
            "updates of zeros": [replaced(update, 0.0) for update in updates],
            "updates of 1e-30": [replaced(update, 1e-30) for update in updates],
            "updates of 1e6": [replaced(update, 1e6) for update in updates],
            "one update of 1e6": [*updates[:-1], replaced(updates[-1], 1e6)],
        }
        for when, those in cases.items():
            yield from _usable(s, those, f"with {when}")
