"""The contract of engines."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flctl.engines.engine import Engine, Lost
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import counted
from flctl.testing import parts
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, conform, said
from flctl.testing.engine.subject import PATIENCE, Answers, EngineSubject, alive, left_behind, plan_of, requests, within
from flctl.testing.examples import or_examples
from flctl.testing.runs import close, same_bits
from flctl.testing.temporary import temporary_directory
from flctl.testing.trial import Trial
from flctl.testing.values import difference
from flctl.types import ClientId, Failure, Gathered, Reply, Request, RoundPlan

__all__ = ["ENGINE", "check_engine"]

_SLEEP, _DEADLINE = 2.0, 0.5


def _all() -> Checks:
    checks = component_checks("engine")
    _add_clients(checks)
    _add_answers(checks)
    _add_memory(checks)
    _add_failures(checks)
    _add_gather(checks)
    _add_end(checks)
    _add_trains(checks)
    return checks


def check_engine(
    engine: type[Engine],
    options: Mapping[str, Any] | None = None,
    *,
    run: Sequence[str] = (),
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that an engine keeps the contract of `flctl.Engine`; returns the names of the checks that ran.

    Opens it on runs of nine clients, with clients that raise, exit and sleep, and trains with it; takes as long as the
    engine takes to start, a dozen times. `run` and `skip` are as in `check_strategy`. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        subject = EngineSubject(engine, or_examples(options, engine), Trial(Path(directory), *run))
        return conform(ENGINE, subject, title_of(engine, "engine"), skip)


def _add_clients(checks: Checks) -> None:
    @checks.add(
        "clients",
        "Once open, it lists all clients of the partition in order.",
        why="Cohorts are drawn from this list.",
        todo="Return run.partition.client_ids.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        with s.opened() as (engine, run):
            found, expected = list(engine.clients()), list(run.partition.client_ids)
        if found != expected:
            yield f"it lists {found[:12]}, expected {expected[:12]}"


def _add_answers(checks: Checks) -> None:
    @checks.add(
        "answers",
        "It yields exactly one answer for each requested client, the client's own, for any set and order of requests.",
        why="A round needs one answer for each request: a missing answer blocks it, and a second one counts a client "
        "twice.",
        todo="Yield (client, answer) once for each key of requests, with the result of ClientRuntime.answer.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        with s.opened() as (engine, run):
            everyone = requests(run)
            some = {client: everyone[client] for client in list(everyone)[::-2]}
            for asked in (everyone, some, {}):
                yield from _answer_faults(list(engine.exchange(asked)), asked, s.expected)


def _answer_faults(
    answers: Answers, asked: Mapping[ClientId, Request], expected: Mapping[ClientId, bytes] | None
) -> Iterator[str]:
    counts = Counter(client for client, _ in answers)
    wrong = {
        client: counts.get(client, 0) for client in {**asked, **counts} if counts.get(client, 0) != (client in asked)
    }
    if wrong:
        yield f"of {counted(len(asked), 'request')} these had a wrong number of answers: {wrong}"
    for client, answer in answers:
        if not isinstance(answer, Reply | Failure):
            yield f"client {client}'s answer is {type(answer).__name__}, expected a Reply or a Failure"
        elif expected is not None and isinstance(answer, Failure):
            yield f"client {client} failed: {answer.message}"
        elif expected is not None and isinstance(answer, Reply) and answer.message != expected.get(client):
            yield f"the answer of client {client} differs from its answer in one process"


def _add_memory(checks: Checks) -> None:
    @checks.add(
        "memory",
        "An aggregator's client memory is available in the round's next phase, and deleted in the next round.",
        why="A protocol of several phases needs it; a key that is used in two rounds reveals both updates.",
        todo="Keep the memory that ClientRuntime.answer returns for the same client and round, and pass it back once.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        with s.opened(f"aggregator={parts.here('Remembering')}") as (engine, run):
            clients = list(run.partition.client_ids)
            said_before = b""
            for number, word in ((1, b"one"), (1, b"two"), (1, b"three"), (2, b"four")):
                expected = b"" if word == b"four" else said_before
                answers = list(engine.exchange({c: Request(number, None, word + c.encode()) for c in clients}))
                messages = {c: expected + c.encode() if expected else b"" for c in clients}
                yield from (f"in {word.decode()}: {text}" for text in _answer_faults(answers, messages, messages))  # type: ignore[arg-type]
                said_before = word


def _add_failures(checks: Checks) -> None:
    @checks.add(
        "exceptions",
        "A client that raises or exits is yielded as a Failure with the reason, and does not affect other clients.",
        why="Clients run third-party code. An error that ends the engine ends the run for all clients.",
        todo="Use ClientRuntime.answer, which catches both, or yield Failure('exception', message).",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        with s.opened(_trap({"2": "raise", "5": "exit"})) as (engine, run):
            asked = requests(run)
            answers = list(engine.exchange(asked))
            again = list(engine.exchange(requests(run, 2)))
        yield from _trapped(answers, asked, s)
        yield from (f"in the round after: {text}" for text in _answer_faults(again, asked, None))

    @checks.add(
        "deadline",
        "A client past the deadline is yielded as a Failure; each request has one answer.",
        why="A round must not wait for the slowest client forever.",
        todo="Yield Failure('deadline', ...) for a client past it, and do not let its late answer follow.",
    )
    def find_deadline(s: EngineSubject) -> Iterator[str]:
        with s.opened(_trap({"2": "sleep"})) as (engine, run):
            asked = requests(run)
            answers = list(engine.exchange(asked, _DEADLINE))
        yield from _answer_faults(answers, asked, None)
        slow = dict(answers).get("2")
        if not (isinstance(slow, Failure) and slow.kind == "deadline"):
            yield f"a client that slept {_SLEEP:g} s with a deadline of {_DEADLINE:g} s returned {slow!r:.100}"


def _trap(ways: Mapping[str, str]) -> str:
    return f"transforms={json.dumps({parts.here('Trap'): {'ways': dict(ways), 'seconds': _SLEEP}})}"


def _trapped(answers: Answers, asked: Mapping[ClientId, Request], s: EngineSubject) -> Iterator[str]:
    for client, way in (("2", "raises"), ("5", "exits")):
        answer = dict(answers).get(client)
        if not isinstance(answer, Failure) or not answer.message:
            yield f"for a client that {way} it returned {answer!r:.100}, expected a Failure with a message"
    others = {client: request for client, request in asked.items() if client not in ("2", "5")}
    yield from _answer_faults([item for item in answers if item[0] not in ("2", "5")], others, s.expected)


def _add_gather(checks: Checks) -> None:
    @checks.add(
        "gather",
        "If `gathers` is True, each chunk has one answer, equal to that of an engine in one process.",
        why="With gathers = True a round requests chunks of clients instead of clients, and sums the answers.",
        todo="Yield (position, gathered) once for each chunk, with the result of ClientRuntime.gather; or leave "
        "gathers False.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        if not s.component.gathers:
            return
        with s.opened() as (engine, run), InProcessEngine().open(run) as here:
            plan = plan_of(run)
            for each in (False, True):
                for chunks in (_chunks(plan, 4), _chunks(plan, 1)[::-1], []):
                    expected = dict(here.gather(plan.work, chunks, each))
                    yield from _gather_faults(list(engine.gather(plan.work, chunks, each)), expected)

    @checks.add(
        "gather-failures",
        "If `gathers` is True, a client that raises or exits is listed in `failed`, and a chunk past the deadline is "
        "Lost.",
        why="Clients run third-party code, and a round must not wait for the slowest client forever.",
        todo="Use ClientRuntime.gather, which records failed clients; yield Lost(Failure('deadline', ...)) for a "
        "late chunk.",
    )
    def find_failures(s: EngineSubject) -> Iterator[str]:
        for ways in ({"0": "raise", "2": "exit"}, {"2": "sleep"}) if s.component.gathers else ():
            with s.opened(_trap(ways)) as (engine, run):
                plan = plan_of(run)
                late = "sleep" in ways.values()
                answers = list(engine.gather(plan.work, _chunks(plan, 3), False, _DEADLINE if late else None))
            what = "one client sleeps" if late else "one client raises and one exits"
            yield from (f"when {what}: {text}" for text in _spared(answers, late=late))


def _chunks(plan: RoundPlan, size: int) -> list[Any]:
    return [plan.numbers[start : start + size] for start in range(0, len(plan.numbers), size)]


def _gather_faults(answers: list[tuple[int, Any]], expected: Mapping[int, Any]) -> Iterator[str]:
    counts = Counter(chunk_index for chunk_index, _ in answers)
    if counts != Counter(expected.keys()):
        yield f"of {counted(len(expected), 'chunk')} these had a wrong number of answers: {dict(counts)}"
    for chunk_index, answer in answers:
        if not isinstance(answer, Gathered):
            yield f"chunk {chunk_index} is {type(answer).__name__}, expected Gathered"
        elif chunk_index in expected:
            one, other = (dataclasses.replace(each, seconds={}) for each in (expected[chunk_index], answer))
            differs = difference(one, other)
            yield from [f"chunk {chunk_index} differs from its result in one process: {differs}"] if differs else []


def _spared(answers: list[tuple[int, Any]], *, late: bool) -> Iterator[str]:
    """Yields faults of three chunks, the first of which holds clients 0 and 2, which fail, or 2, which is late."""
    if sorted(chunk_index for chunk_index, _ in answers) != [0, 1, 2]:
        yield f"of 3 chunks these had answers: {sorted(chunk_index for chunk_index, _ in answers)}"
        return
    chunks = dict(answers)
    if late:
        found = chunks[0].failure.kind if isinstance(chunks[0], Lost) else repr(chunks[0])
        yield from [] if found == "deadline" else [f"the late chunk is {found:.100}, expected it Lost by its deadline"]
        return
    if not (isinstance(chunks[0], Gathered) and sorted(chunks[0].failed) == [0, 2]):
        yield f"their chunk is {chunks[0]!r:.100}, expected clients 0 and 2 in `failed`"
    whole = [
        chunk_index
        for chunk_index in (1, 2)
        if isinstance(chunks[chunk_index], Gathered) and len(chunks[chunk_index].numbers) == 3
    ]
    yield from [] if whole == [1, 2] else [f"other chunks are incomplete: only {whole} are complete"]


class _OnPurposeError(Exception):
    pass


def _add_end(checks: Checks) -> None:
    @checks.add(
        "end",
        "Leaving its context ends all its processes and threads, also within an exchange, and propagates an exception.",
        why="Ctrl-C, a failed round and the end of a run leave the context; remaining processes would occupy memory "
        "and ports.",
        todo="Clean up in a `finally` around the yield, and suppress no exception.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        run = s.run()
        before = alive()
        for reason in ("after an exchange", "within an exchange"):
            try:
                raised = within(PATIENCE, partial(_leave, s, run, reason))
            except TimeoutError as error:
                yield f"left {reason}, {error}"
                return
            if not isinstance(raised, _OnPurposeError):
                yield f"left {reason} by an exception, " + (
                    f"it raised {said(raised)}" if raised else "it suppressed the exception"
                )
            left = left_behind(before)
            yield from [f"left {reason}, these remain: {', '.join(sorted(left))}"] if left else []


def _leave(s: EngineSubject, run: Any, reason: str) -> None:
    with s.make().open(run) as engine:
        answers = engine.exchange(requests(run))
        for _ in answers:
            if reason == "within an exchange":
                break
        raise _OnPurposeError


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "A run with it has the results of a run in one process, apart from rounding.",
        why="The place where clients run affects the duration of a run, never its results. Engines that train whole "
        "chunks give identical bits; engines that train single clients differ in the order of sums.",
        todo="Pass requests on unchanged; train each client with the run's objects, in one thread.",
    )
    def find(s: EngineSubject) -> Iterator[str]:
        yield from close(s.trained, s.trial.train("engine=inprocess"), "with this engine")

    @checks.add(
        "repeats",
        "A second run with it is identical, bit for bit.",
        why="Results must not depend on the speed of workers.",
        todo="Yield answers in any order, but let no result depend on the worker or on the clients that it trained "
        "before.",
    )
    def find_again(s: EngineSubject) -> Iterator[str]:
        yield from same_bits(s.trained, s.train(), "in a second run")


ENGINE = _all()
