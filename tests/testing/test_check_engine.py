"""`check_engine`: ours pass, and for each check an engine that breaks it is told so."""

import dataclasses
import subprocess
import sys
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
from support import prefork
from support.conformance import caught, unmutated

from flctl import Failure, Reply, wire
from flctl.engines.engine import Lost
from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.testing import check_engine
from flctl.testing.engine import subject
from flctl.testing.engine.contract import ENGINE
from flctl.testing.engine.subject import EngineSubject
from flctl.testing.trial import Trial


@pytest.mark.slow
def test_the_engine_in_one_process_keeps_the_contract():
    assert check_engine(InProcessEngine).checks == ENGINE.ids


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pool_keeps_the_contract(started_workers):
    prefork.start_server()  # a process that appears in the middle of a check would count as left behind
    assert check_engine(PoolEngine).checks == ENGINE.ids


@pytest.mark.slow
def test_the_pool_leaves_none_of_the_processes_that_it_starts(started_workers):
    """Only those are children of this process, of which the check knows."""
    others = [which for which in ENGINE.ids if which not in ("class", "options", "end")]
    assert "end" in check_engine(PoolEngine, skip=others).checks


class Mutant(InProcessEngine):
    """In this process, until a subclass breaks something."""

    name = "mutant"
    gathers = False


class Backwards(Mutant):
    def clients(self):
        return list(super().clients())[::-1]


class Skips(Mutant):
    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            if client != "4":
                yield client, answer


class Twice(Mutant):
    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            yield from [(client, answer)] * (2 if client == "4" else 1)


class Everyone(Mutant):
    def exchange(self, requests, deadline=None):
        yield from super().exchange(requests, deadline)
        if len(requests) < 9:
            yield "1", Failure("exception", "not asked")


class Swaps(Mutant):
    def exchange(self, requests, deadline=None):
        answers = list(super().exchange(requests, deadline))
        clients = [client for client, _ in answers]
        yield from zip(clients, [answer for _, answer in answers[::-1]], strict=True)


class Naked(Mutant):
    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            yield client, getattr(answer, "message", answer)


class Forgets(Mutant):
    def exchange(self, requests, deadline=None):
        self._memories.clear()
        yield from super().exchange(requests, deadline)


class NeverForgets(Mutant):
    def exchange(self, requests, deadline=None):
        self._round = next((request.round for request in requests.values()), 0)
        yield from super().exchange(requests, deadline)


class LetsOut(Mutant):
    def exchange(self, requests, deadline=None):
        for client, request in requests.items():
            yield client, self._runtime.reply(client, request, b"")[0]


class SaysNothing(Mutant):
    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            yield client, Failure("exception", "") if isinstance(answer, Failure) else answer


class Waits(Mutant):
    def exchange(self, requests, deadline=None):
        yield from super().exchange(requests, None)


class LateToo(Mutant):
    def exchange(self, requests, deadline=None):
        for client, answer in super().exchange(requests, deadline):
            yield client, answer
            if isinstance(answer, Failure):
                yield client, Reply(b"late")


class SkipsChunk(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        for place, answer in super().gather(work, chunks, keep_individual, deadline):
            if place != 2:
                yield place, answer


class Heavier(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        for place, answer in super().gather(work, chunks, keep_individual, deadline):
            yield place, dataclasses.replace(answer, weights=answer.weights + 1)


class OwnForm(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        for place, answer in super().gather(work, chunks, keep_individual, deadline):
            yield place, dict(answer.vectors)


class LosesChunk(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        for place, answer in super().gather(work, chunks, keep_individual, deadline):
            failed = getattr(answer, "failed", None)
            yield place, Lost(Failure("exception", "one failed")) if failed else answer


class NeverLate(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        yield from super().gather(work, chunks, keep_individual, None)


class Blames(InProcessEngine):
    def gather(self, work, chunks, keep_individual, deadline=None):
        answers = list(super().gather(work, chunks, keep_individual, deadline))
        wrong = any(answer.failed for _, answer in answers if not isinstance(answer, Lost))
        for place, answer in answers:
            yield place, Lost(Failure("exception", "one failed")) if wrong and place else answer


class Swallows(Mutant):
    @contextmanager
    def open(self, run):
        with super().open(run):
            try:
                yield self
            except Exception:
                return


class Leaks(Mutant):
    left: ClassVar[list[subprocess.Popen]] = []

    @contextmanager
    def open(self, run):
        self.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        with super().open(run):
            yield self


class Meddles(Mutant):
    """Changes what clients say, by more the more often it was opened."""

    opened: ClassVar[list[str]] = []

    @contextmanager
    def open(self, run):
        self.opened.append("once")
        with super().open(run):
            yield self

    def exchange(self, requests, deadline=None):
        factor = np.float32(1 + 0.01 * len(self.opened))
        for client, answer in super().exchange(requests, deadline):
            if isinstance(answer, Reply):
                vectors = dict(wire.unpack(answer.message, "vector").arrays)
                vectors["delta"] = vectors["delta"] * factor
                yield client, Reply(wire.pack("vector", arrays=vectors), answer.metrics)
            else:
                yield client, answer


MUTANTS = {
    "clients": [(Backwards, "it lists ['8', '7'")],
    "answers": [
        (Skips, "of 9 requests these had a wrong number of answers: {'4': 0}"),
        (Twice, "{'4': 2}"),
        (Everyone, "of 5 requests these had a wrong number of answers: {'1': 1}"),
        (Swaps, "the answer of client 0 differs from its answer in one process"),
        (Naked, "client 0's answer is bytes, expected a Reply or a Failure"),
    ],
    "memory": [
        (Forgets, "in two: the answer of client 0 differs"),
        (NeverForgets, "in four: the answer of client 0 differs"),
    ],
    "exceptions": [
        (LetsOut, "RuntimeError: raised on purpose"),
        (SaysNothing, "expected a Failure with a message"),
    ],
    "deadline": [(Waits, "a client that slept 2 s with a deadline of 0.5 s returned Reply("), (LateToo, "{'2': 2}")],
    "gather": [
        (SkipsChunk, "of 3 chunks these had a wrong number of answers: {0: 1, 1: 1}"),
        (Heavier, "chunk 0 differs from its result in one process: weights differs by up to 1"),
        (OwnForm, "chunk 0 is dict, expected Gathered"),
    ],
    "gather-failures": [
        (LosesChunk, "when one client raises and one exits: their chunk is Lost("),
        (NeverLate, "when one client sleeps: the late chunk is Gathered("),
        (Blames, "other chunks are incomplete: only [] are complete"),
    ],
    "end": [(Swallows, "by an exception, it suppressed the exception"), (Leaks, "these remain: process ")],
    "trains": [(Meddles, "with this engine weights differ by up to")],
    "repeats": [(Meddles, "in a second run the checkpoint's model differ")],
}


@pytest.fixture(autouse=True)
def _no_child_is_left(monkeypatch):
    monkeypatch.setattr(subject, "GRACE", 0.5)
    yield
    while Leaks.left:
        process = Leaks.left.pop()
        process.kill()
        process.wait()


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(ENGINE, MUTANTS) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, which, mutant, words):
    caught(ENGINE, EngineSubject(mutant, {}, Trial(tmp_path)), which, words)
