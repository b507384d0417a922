"""An aggregator's rounds without an engine: the sum, losses in each phase, repeated and garbled replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flctl.errors import counted
from flctl.testing.aggregator.subject import COHORT, LAYOUT, AggregatorSubject
from flctl.testing.calls import remembered
from flctl.testing.conformance import Checks, said
from flctl.testing.protocol import Exchange, Script, play
from flctl.testing.values import difference
from flctl.types import RING, WEIGHT, Arrays, ClientId
from flctl.wire import frames

__all__ = ["add_rounds"]

_LOST: tuple[tuple[ClientId, ...], ...] = (("0",), ("4", "8"), ("1", "2", "3"))
_WORD = 1 << 27
"""Beyond what float32 holds exactly; nine of them fit in 32 bits."""
_SECRET = 8
"""Number of equal bytes of a vector and a message, in a row, that cannot be chance."""


def add_rounds(checks: Checks) -> None:
    """Adds the checks of `server` and `client`."""
    _add_phases(checks)
    _add_sum(checks)
    _add_dropout(checks)
    _add_repeated(checks)
    _add_garbage(checks)
    _add_integers(checks)
    _add_ring(checks)
    _add_hides(checks)
    _add_purity(checks)


def _add_phases(checks: Checks) -> None:
    @checks.add(
        "phases",
        "The server yields Phases to clients of the cohort, one of which trains, and returns an Aggregate; clients "
        "answer in bytes.",
        why="An engine carries only bytes, and another process may handle a client's next message: between phases a "
        "client has only the memory that it returned.",
        todo="Yield Phase({client: b'...'}, trains=True) and read the replies that come back; return (memory, reply).",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        played = s.first
        yield from played.faults
        for phase in played.exchanges:
            yield from (f"client {client} raised {said(error)}" for client, error in list(phase.raised.items())[:1])
        if played.refused is not None:
            yield f"a round in which all clients answer was refused: {said(played.refused)}"
        trained = sum(phase.trains for phase in played.exchanges)
        if played.result is not None and trained != 1:
            yield f"{counted(trained, 'phase')} with trains=True, expected one"


def _add_sum(checks: Checks) -> None:
    @checks.add(
        "sum",
        "If all clients answer, it returns their sum within its tolerance, the sum of weights, and their number.",
        why="The global model changes by that sum; a cryptographic sum must equal the plain sum.",
        todo="Compare with the plain sum; pass the tolerance that you promise as check_aggregator(..., tolerance=...).",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        result = s.honest.result
        differs = s.apart(result, s.sum_of(COHORT)) if result is not None else None
        yield from [differs] if differs else []

    @checks.add(
        "small-cohorts",
        "With few clients, or one, it returns their sum or refuses the round with an FlctlError.",
        why="Random sampling makes cohorts of any size.",
        todo="Raise flctl.ProtocolError if the cohort is smaller than your guarantee needs.",
    )
    def find_small(s: AggregatorSubject) -> Iterator[str]:
        for cohort in (COHORT[:1], COHORT[:2], COHORT[:5]) if s.honest else ():
            yield from (f"of {len(cohort)}: {text}" for text in s.unexplained(s.play(clients=cohort), cohort, cohort))


def _losing(phase: int, lost: tuple[ClientId, ...]) -> Script:
    return Script(lose=lambda number, client: number == phase and client in lost)


def _add_dropout(checks: Checks) -> None:
    @checks.add(
        "dropout",
        "A client that is lost in a phase is in the sum completely or not at all, and the other clients always are; "
        "or the round is refused with an FlctlError.",
        why="Clients drop out at any moment; half an update, or an update counted twice, corrupts the model.",
        todo="Continue only with clients that answered, and undo or recover the contribution of lost clients.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        for phase in range(len(s.honest.exchanges)):
            for lost in _LOST:
                played = s.play(_losing(phase, lost))
                sure = [client for client in COHORT if client not in lost]
                perhaps = played.trained
                for text in s.unexplained(played, sure, perhaps):
                    yield f"with {', '.join(lost)} lost in phase {phase + 1}: {text}"

    @checks.add(
        "nobody",
        "If no client answers, or the cohort is empty, it returns zeros of weight 0, or refuses the round.",
        why="A Poisson cohort may be empty, and all clients may drop out.",
        todo="Let the server end without replies: ctx.total().aggregate() without updates is zero.",
    )
    def find_nobody(s: AggregatorSubject) -> Iterator[str]:
        for phase in range(len(s.honest.exchanges)):
            played = s.play(_losing(phase, COHORT))
            yield from (f"lost in phase {phase + 1}: {text}" for text in s.unexplained(played, (), played.trained))
        yield from (f"empty cohort: {text}" for text in s.unexplained(s.play(clients=()), (), ()))


def _add_repeated(checks: Checks) -> None:
    @checks.add(
        "repeated",
        "A reply that arrives twice counts once, or the round is refused.",
        why="Networks repeat messages, and a malicious client may answer twice to double its weight.",
        todo="Use the first reply of each client in each phase.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        if s.honest:
            yield from s.unexplained(s.play(Script(repeat=frozenset(("0", "5")))), COHORT, COHORT)


def _garbled(reply: bytes) -> Mapping[str, bytes]:
    noise = np.random.default_rng(3).bytes(200)
    return {
        "nothing": b"",
        "200 random bytes": noise,
        "half of its reply": reply[: len(reply) // 2],
        "its reply and random bytes": reply + noise,
        "a frame of another kind": frames.pack("lie", arrays={"delta": np.ones(3, np.float32)}),
        "a frame that declares 10^15 bytes": frames.PREFIX.pack(b"FLCW", 1, 2, 10**15) + b"{}",
    }


def _add_garbage(checks: Checks) -> None:
    @checks.add(
        "garbage",
        "A malformed reply costs the client's own update, or the round with an FlctlError, and nothing else.",
        why="The server receives bytes from clients that it does not control; an unexpected exception ends the run, "
        "and a wrong sum silently corrupts the model.",
        todo="Check sizes before you read, and exclude the sender: ctx.total().add does both for vectors.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        for phase, exchange in enumerate(s.honest.exchanges):
            for name, lie in _garbled(exchange.replies.get("2", b"")).items():
                yield from _told_garbage(s, phase, exchange, name, lie)

    @checks.add(
        "bad-vector",
        "A client whose vector is not finite, or of another layout, is excluded, or the round is refused or not "
        "finite.",
        why="flctl checks updates before they leave a client, but a client may run other code.",
        todo="Let ctx.total() check vectors that the server can read; check hidden vectors in `client`.",
    )
    def find_vector(s: AggregatorSubject) -> Iterator[str]:
        for name, bad in _bad_vectors(s.vectors()["2"]).items() if s.honest else ():
            played = play(s.make, {**s.vectors(), "2": bad}, LAYOUT)
            if played.result is not None and all(np.isfinite(v).all() for v in played.result.arrays.values()):
                others = [client for client in COHORT if client != "2"]
                yield from (f"with {name}: {text}" for text in s.unexplained(played, others, others))


def _told_garbage(s: AggregatorSubject, phase: int, exchange: Exchange, name: str, lie: bytes) -> Iterator[str]:
    if lie == exchange.replies.get("2"):
        return
    script = Script(tamper=lambda number, client, reply: lie if (number, client) == (phase, "2") else reply)
    others = [client for client in COHORT if client != "2"]
    when = f"with {name} from one client in phase {phase + 1}"
    try:
        played = s.play(script)
    except Exception as error:
        yield f"{when}: {said(error)}"
        return
    perhaps = others if exchange.trains else COHORT
    yield from (f"{when}: {text}" for text in s.unexplained(played, others, perhaps))


def _bad_vectors(good: Arrays) -> Mapping[str, Arrays]:
    nan = {**good, "delta": np.where(np.arange(good["delta"].size) == 1, np.nan, good["delta"]).astype(np.float32)}
    return {"a NaN": nan, "a vector that is too short": {**good, "delta": good["delta"][:-1]}}


def _add_integers(checks: Checks) -> None:
    @checks.add(
        "integers",
        "Integer vectors are summed exactly, or the round is refused.",
        why="A transform may map updates to a lattice (shared-scale quantisation, discrete noise); integers are "
        "added exactly, and never rounded again.",
        todo="Add integers as integers, or raise flctl.ProtocolError for a dtype that the sum does not support.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        rng = np.random.default_rng(2)
        words = {
            client: {
                **{n: rng.integers(-_WORD, _WORD, size).astype(np.int32) for n, size in LAYOUT.items()},
                WEIGHT: one,
            }
            for client, one in ((client, np.array([3.0])) for client in COHORT)
        }
        result = play(s.make, words, LAYOUT).result if s.honest else None
        if result is not None:
            for name, vector in result.arrays.items():
                exact = np.sum([v[name].astype(np.int64) for v in words.values()], axis=0)
                if not np.array_equal(vector, exact):
                    yield f"'{name}' of integers is not their exact sum"


def _add_ring(checks: Checks) -> None:
    @checks.add(
        "ring",
        "Vectors whose names end in flctl.RING are summed exactly, modulo 2^ring if the aggregator declares a ring; "
        "or the round is refused.",
        why="Distributed noise consists of integers around zero, and a single value may exceed any bound: only the "
        "sum has to fit.",
        todo="Add the integers modulo your ring, and return the sum within [-2^(w-1), 2^(w-1)).",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        rng, name = np.random.default_rng(6), "noise" + RING
        layout = {**LAYOUT, name: 30}
        vectors = {
            client: {**vector, name: rng.integers(-(1 << 40), 1 << 40, 30), WEIGHT: np.array([1.0])}
            for client, vector in (s.vectors() if s.honest else {}).items()
        }
        result = play(s.make, vectors, layout).result if vectors else None
        if result is not None:
            found, ring = result.arrays[name], s.make().ring
            exact = np.sum([vector[name] for vector in vectors.values()], axis=0)
            if ring is not None and ring < 64:
                half = 1 << (ring - 1)
                exact = (exact + half) % (1 << ring) - half
            if found.dtype.kind not in "iu" or not np.array_equal(found, exact):
                yield f"'{name}' is not the exact sum" + ("" if ring is None else f" modulo 2^{ring}")


def _add_hides(checks: Checks) -> None:
    @checks.add(
        "hides",
        "If `hides` is True, no message to the server contains a part of a vector, or a weight, in the clear.",
        why="hides = True promises that the server learns only the sum; strategies, metrics and reports rely on it.",
        todo="Mask or encrypt vectors and weights before they leave the client; or leave hides False.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        if s.component.hides and s.component.transparent:
            yield "it is transparent, so the server may read clients' messages"
        for number, exchange in enumerate(s.honest.exchanges if s.component.hides else (), 1):
            for client, reply in exchange.replies.items():
                yield from (
                    f"client {client}'s reply in phase {number} holds part of its '{name}' as {np.dtype(kind).name}"
                    for name, kind in _leaks(s.vectors()[client], reply)
                )


def _leaks(vector: Arrays, reply: bytes) -> Iterator[tuple[str, type[Any]]]:
    for name, values in vector.items():
        for kind in (np.float32, np.float64, np.float16):
            plain = values.astype(kind).tobytes()
            starts = range(0, max(len(plain) - _SECRET, 0) + 1, np.dtype(kind).itemsize)
            pieces = (plain[start : start + _SECRET] for start in starts)
            if any(len(piece) == _SECRET and piece in reply for piece in pieces):
                yield name, kind


def _add_purity(checks: Checks) -> None:
    @checks.add(
        "self",
        "Neither `server` nor `client` keeps state on the object or changes its arguments.",
        why="One object serves all rounds and clients, and each worker process has its own object; only the memory "
        "that `client` returns is kept.",
        todo="Keep a round's state in local variables of `server`, and a client's state in the memory that `client` "
        "returns.",
    )
    def find(s: AggregatorSubject) -> Iterator[str]:
        shared = s.make()
        before, vectors = remembered(shared), s.vectors() if s.honest else {}
        first, second = (play(lambda: shared, vectors, LAYOUT) for _ in range(2))
        kept = [name for name, value in remembered(shared).items() if difference(before.get(name), value)]
        yield from (f"a round stored self.{name}" for name in kept)
        yield from (f"a client changed its vector: {changed}" for changed in first.changed[:1])
        if first.result is not None:
            found = second.result and s.apart(second.result, first.result)
            yield from [f"a second round with the same vectors: {found}"] if found else []
