"""Server half of a strategy: state, `combine` and `step`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flctl import arrays
from flctl.errors import FlctlError
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
        "What it presets in `server:` and `local:` are keys and values of those sections.",
        why="Presets are defaults of the configuration; a wrong one is an error in every run.",
        todo="Look at `flctl config show` for the keys of `server:` and `local:`.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        from flctl.config.sections.training import LocalConfig, ServerConfig

        for section, model in (("server", ServerConfig), ("local", LocalConfig)):
            model.model_validate(dict(getattr(s.component, section, {})))
        yield from ()


def _add_state(checks: Checks) -> None:
    @checks.add(
        "state",
        "init and step give a state of named flat vectors, and broadcast such vectors too.",
        why="The state is part of each checkpoint, and broadcasts are part of each message: both hold nothing else.",
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
        "A state that went through a checkpoint gives the same next step, bit for bit.",
        why="A run that was killed goes on from its checkpoint as if nothing had happened.",
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
        "step gives (params, state), and params is laid out as the model.",
        why="It is the next global model; anything else is refused in the middle of a run.",
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
        "combine gives one value for each value of the vectors that it names, and is not needed by a hiding sum.",
        why="numpy would spread a scalar over the whole model; vectors that combine leaves out are averaged.",
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
        why="The order is that of the cohort, which says nothing about the clients; a result that depends on it "
        "changes when clients are renamed.",
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
        "With some clients, or one, missing it gives a finite model, or an FlctlError that says how many it needs.",
        why="Clients drop out of rounds; what is left is any part of the cohort.",
        todo="Take what is there: no fixed number of clients. Where fewer are too few, raise flctl.IncompatibleError.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        updates = s.updates()
        for left in (updates[1:], updates[::2], updates[:2], updates[:1], updates[-1:]):
            yield from _usable(s, left, f"with {len(left)} of {len(updates)} clients")

    @checks.add(
        "nobody",
        "With nobody's update, the model stays finite and of its layout.",
        why="Under Poisson sampling a round may ask nobody, and everybody may drop out: the sum is then zero, and so "
        "is its weight.",
        todo="Begin step with `if aggregate.weight == 0: return params, state`.",
    )
    def find_nobody(s: StrategySubject) -> Iterator[str]:
        for call in s.of("step", 2):
            with np.errstate(all="ignore"):
                params, state = s.step(Aggregate(arrays.zeros(s.sent), 0.0, 0), call)
            yield from _faults(s, params, state, "with nobody")


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
        "Weights times a constant give the same model (unless each is 1: such count clients).",
        why="A weight counts only against the other weights (n_k / n): a mean does not know whether they are examples, "
        "batches or shares.",
        todo="Divide by the sum of weights: aggregate.mean(name), or update.weight / total in combine.",
    )
    def find(s: StrategySubject) -> Iterator[str]:
        updates = s.updates()
        if all(update.weight == 1 for update in updates):
            return  # they count clients, and their sum is a number of clients
        heavier = [dataclasses.replace(update, weight=8 * update.weight) for update in updates]
        one, other = (s.step(s.aggregate(those))[0] for those in (updates, heavier))
        differs = vectors_close(one, other, _TOLERANCE)
        yield from [f"with weights times 8 {differs}"] if differs else []


def _add_finite(checks: Checks) -> None:
    @checks.add(
        "finite",
        "Finite updates give a finite model: equal ones, zeros, tiny and large ones.",
        why="Clients that agree, or do not move, are the end of every training that converges; a distance or a norm of "
        "zero must not divide.",
        todo="Guard divisions and logarithms; add a small constant to a denominator, or treat zero by itself.",
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
