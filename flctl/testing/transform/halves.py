"""The two halves of a transform: one applied to a client's update, one applied to the sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import arrays
from flctl.algorithms.transform import Transform
from flctl.errors import counted
from flctl.testing.conformance import Checks
from flctl.testing.trained_subject import PurityTexts, add_purity
from flctl.testing.transform.codes import add_codes
from flctl.testing.transform.subject import LAYOUTS, TransformSubject, samples
from flctl.testing.values import difference, vectors_close
from flctl.types import Aggregate, ClientUpdate, Layout

__all__ = ["add_halves"]

_PURITY = PurityTexts(
    inputs="No method changes its arguments.",
    inputs_why="The client uses the update again, and a repeated round uses the state again.",
    inputs_todo="Return new arrays: `x = x * factor`, not `x *= factor`; copy a mapping before you add a name to it.",
    self_todo="Keep server state in the state (init, on_server); send it to clients with broadcast.",
    deterministic="Equal arguments give equal results, bit for bit, under any global random state.",
    deterministic_todo="Draw from ctx.rng. Privacy mechanisms draw from flctl.secure_rng(), and skip this check.",
)

_DRAWS = 32
_SIGMAS = 6.0
_NORMS = np.array([0.0, 1e-12, 0.5, 1.0, 3.0, 1e6])


def add_halves(checks: Checks) -> None:
    """Adds the checks of the methods."""
    _add_sends(checks)
    _add_client(checks)
    _add_zeros(checks)
    _add_factors(checks)
    _add_server(checks)
    _add_state(checks)
    add_codes(checks)
    _add_equal(checks)
    add_purity(checks, _PURITY)


def _add_sends(checks: Checks) -> None:
    @checks.add(
        "sends",
        "sends(layout) returns the length of each vector of the update as it leaves the client.",
        why="Server and clients call it separately, and refuse an update with another layout.",
        todo="Return layout if it is unchanged, otherwise name -> length of the vectors of on_client.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            found = s.make().sends(dict(layout))
            if not isinstance(found, Mapping) or not found:
                yield f"for {layout} it returned {found!r:.80}"
            else:
                wrong = {k: v for k, v in found.items() if not (isinstance(k, str) and type(v) is int and v > 0)}
                yield from [f"for {layout} it returned {wrong}"] if wrong else []


def _add_client(checks: Checks) -> None:
    @checks.add(
        "on-client",
        "on_client returns an update of the same client with the vectors that sends names, finite, and a weight.",
        why="The next transform and the aggregator need that layout; integers are summed unchanged, so their weight "
        "must be an integer too.",
        todo="Return dataclasses.replace(update, arrays={...}), each vector flat, with the length that sends declares.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            for scale in (1.0, 1e-30, 1e6):
                for update in samples(layout, 2, scale):
                    found = s.on_client(update)
                    yield from _update_faults(found, update, s.make().sends(layout))
                    yield from _word_faults(found, s.make())


def _word_faults(found: ClientUpdate, transform: Transform) -> Iterator[str]:
    words = any(vector.dtype.kind in "iu" for vector in found.arrays.values())
    if words and found.weight != int(found.weight) and not transform.decodes_each:
        yield f"the update has integer vectors and the weight {found.weight}"


def _update_faults(found: Any, given: ClientUpdate, layout: Layout) -> Iterator[str]:
    if not isinstance(found, ClientUpdate):
        yield f"it returned {type(found).__name__}, expected a ClientUpdate"
        return
    wrong = arrays.misfit(found.arrays, layout)
    if wrong:
        yield f"the update has {wrong}"
    elif not arrays.is_finite(found.arrays):
        yield "the update has values that are NaN or infinite"
    if found.client_id != given.client_id:
        yield f"the client is {found.client_id!r}, expected {given.client_id!r}"
    if not math.isfinite(found.weight) or found.weight < 0:
        yield f"the weight is {found.weight!r}"


def _add_zeros(checks: Checks) -> None:
    @checks.add(
        "zeros",
        "Updates of zeros, of weight 0, or with an empty vector keep their layout.",
        why="Clients with an unchanged model send zeros, and a norm of zero must not be a divisor.",
        todo="Guard divisions: `if norm > bound`, `np.where(total > 0, ...)`.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in (*LAYOUTS, {"delta": 5, "extra": 0}):
            still = ClientUpdate("0", arrays.zeros(layout), 10.0)
            for update in (still, dataclasses.replace(still, weight=0.0)):
                with np.errstate(all="ignore"):
                    found = s.on_client(update)
                yield from (f"for zeros {fault}" for fault in _update_faults(found, update, s.make().sends(layout)))


def _add_factors(checks: Checks) -> None:
    @checks.add(
        "factors",
        "factors returns one finite factor for each norm, from that norm alone, and on_client multiplies by it.",
        why="Norms of many clients are known without building their updates: then factors is called once for all of "
        "them, instead of on_client.",
        todo="Use elementwise operations on norms [K], and guard a norm of 0; do not override on_client as well.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        if type(s.make()).factors is Transform.factors:
            return
        broadcast = s.client_context(LAYOUTS[0]).broadcast
        with np.errstate(all="ignore"):
            together: Any = s.make().factors(_NORMS.copy(), broadcast)
            alone: Any = [s.make().factors(_NORMS[k : k + 1].copy(), broadcast) for k in range(len(_NORMS))]
        if np.shape(together) != _NORMS.shape or not np.isfinite(together).all():
            yield f"for the norms {_NORMS.tolist()} it returned {np.asarray(together).tolist()!s:.100}"
        elif not np.allclose(together, np.ravel(alone), rtol=1e-12, atol=0):
            yield "the factor of a norm depends on the other norms"
        else:
            yield from _unscaled(s)


def _unscaled(s: TransformSubject) -> Iterator[str]:
    for update in samples(LAYOUTS[0], 3):
        ctx = s.client_context(LAYOUTS[0])
        factor = float(s.make().factors(np.array([arrays.norm(update.arrays)]), ctx.broadcast)[0])
        differs = vectors_close(s.on_client(update).arrays, arrays.scale(update.arrays, factor), 1e-5)
        yield from ([f"on_client does not multiply by the factor {factor:.4g}: {differs}"] if differs else [])


def _add_server(checks: Checks) -> None:
    @checks.add(
        "on-server",
        "on_server maps the decoded sum of clients' updates to an Aggregate of the layout before sends.",
        why="The transform before it, and finally the strategy, must receive vectors of the layout that they sent.",
        todo="Return (dataclasses.replace(aggregate, arrays={...}), state): sums, not means, and the same count.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            for count in (1, 2, 5):
                given = s.sum_of(s.sent(layout, count), layout)
                yield from _aggregate_faults(s.on_server(given, layout), given, layout)

    @checks.add(
        "nobody",
        "on_server accepts an empty sum: zeros with the weight 0.",
        why="A Poisson cohort may be empty, and all clients may drop out.",
        todo="Guard divisions by aggregate.weight and aggregate.count.",
    )
    def find_nobody(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            with np.errstate(all="ignore"):
                result = s.on_server(s.nobody(layout), layout)
            yield from _aggregate_faults(result, s.nobody(layout), layout)

    @checks.add(
        "on-arrival",
        "on_arrival returns an update of the same client with the vectors that sends names, finite.",
        why="Components that read single updates need each update in the layout that sends declares.",
        todo="Return dataclasses.replace(update, arrays={...}).",
    )
    def find_arrival(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS if s.make().judges_each else ():
            for sent in s.sent(layout):
                arrived = s.make().on_arrival(sent, s.server_context(layout, 3))
                yield from _update_faults(arrived, sent, s.make().sends(layout))


def _aggregate_faults(result: Any, given: Aggregate, layout: Layout) -> Iterator[str]:
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Aggregate)):
        yield f"it returned {result!r:.60}, expected (Aggregate, state)"
        return
    aggregate, state = result
    wrong = arrays.misfit(aggregate.arrays, layout)
    if wrong:
        yield f"of {counted(given.count, 'update')} the aggregate has {wrong}"
    elif not arrays.is_finite(aggregate.arrays):
        yield f"of {counted(given.count, 'update')} the aggregate has values that are NaN or infinite"
    if not math.isfinite(aggregate.weight) or aggregate.weight < 0:
        yield f"of {counted(given.count, 'update')} the weight is {aggregate.weight!r}"
    if aggregate.count != given.count:
        yield f"of {counted(given.count, 'update')} the count is {aggregate.count}"
    wrong = arrays.misfit(state)
    if wrong:
        yield f"the state has {wrong}"


def _add_state(checks: Checks) -> None:
    @checks.add(
        "state",
        "init returns a state of named flat vectors, and broadcast returns such vectors.",
        why="The state is part of each checkpoint, and broadcasts are part of each message; both formats have only "
        "such vectors.",
        todo='Return {"bound": np.array([1.0], np.float32)} rather than {"bound": 1.0}.',
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            state = s.state(layout)
            for method, found in (("init", state), ("broadcast", s.make().broadcast(state))):
                wrong = arrays.misfit(found)
                yield from [f"{method} returned {wrong}"] if wrong else []

    @checks.add(
        "checkpoint",
        "After a checkpoint round trip of the state, the next round is the same, bit for bit.",
        why="A killed run continues from its checkpoint with the same results.",
        todo="Keep everything that later rounds depend on in the state, as numpy vectors of one dimension.",
    )
    def find_checkpoint(s: TransformSubject) -> Iterator[str]:
        from safetensors.numpy import load, save

        for layout in LAYOUTS:
            given = s.sum_of(s.sent(layout), layout)
            _, state = s.on_server(given, layout)
            back = load(save({name: np.ascontiguousarray(vector) for name, vector in state.items()}))
            one, other = (
                (s.make().broadcast(kept), s.make().on_server(given, kept, s.server_context(layout, 3, 2)))
                for kept in (state, back)
            )
            differs = difference(one, other)
            yield from [f"after a checkpoint {differs}"] if differs else []


def _add_equal(checks: Checks) -> None:
    @checks.add(
        "equal-updates",
        "The mean of equal updates equals one of them, for any number of clients.",
        why="on_server receives sums: its result must scale with the number of clients. A mean in place of a sum "
        "would be divided by the weight a second time.",
        todo="Scale per-client quantities by aggregate.weight or count; return sums. Noise may differ, but not its "
        "mean.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        for layout in LAYOUTS:
            update = dataclasses.replace(samples(layout, 1)[0], weight=1.0)
            alone, together = (_means(s, update, layout, count) for count in (1, 4))
            for name in layout:
                yield from _apart(name, [draw[name] for draw in alone], [draw[name] for draw in together])


def _means(s: TransformSubject, update: ClientUpdate, layout: Layout, count: int) -> list[dict[str, npt.NDArray[Any]]]:
    """The mean after both halves, for `count` equal clients, in several draws."""
    means = []
    for seed in range(_DRAWS):
        together = s.sum_of([s.on_client(update, seed)] * count, layout)
        aggregate, _ = s.on_server(together, layout, 1000 * count + seed)
        if aggregate.weight > 0:
            means.append({name: aggregate.mean(name).astype(np.float64) for name in layout})
    return means


def _apart(name: str, alone: list[npt.NDArray[Any]], together: list[npt.NDArray[Any]]) -> Iterator[str]:
    if not alone or not together:
        return
    one, four = np.stack(alone), np.stack(together)
    spread = np.sqrt(one.var(axis=0) / len(one) + four.var(axis=0) / len(four))
    allowed = _SIGMAS * spread + 1e-4 * np.abs(one).max()
    apart = np.abs(one.mean(axis=0) - four.mean(axis=0))
    if (apart > allowed).any():
        yield f"'{name}' of four equal updates differs from that of one by up to {apart.max():.3g}"
