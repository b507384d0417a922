"""`check_aggregator`: ours pass, and for each check an aggregator that breaks it is told so."""

import struct
from typing import ClassVar

import numpy as np
import pytest
from support import slow_but
from support.aggregators import RollCall
from support.conformance import caught, unmutated

from flctl import Aggregate, Aggregator, Phase, ProtocolError, wire
from flctl.algorithms.aggregators.plain import PlainAggregator
from flctl.plugins.registry import Registry
from flctl.testing import check_aggregator
from flctl.testing.aggregator.contract import AGGREGATOR
from flctl.testing.aggregator.subject import AggregatorSubject
from flctl.testing.trial import Trial


@pytest.mark.parametrize("name", slow_but(sorted(Registry().offers("aggregator")), "plain"))
def test_every_aggregator_of_ours_keeps_the_contract(name):
    assert check_aggregator(Registry().get("aggregator", name), processes=False).checks == AGGREGATOR.ids


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(Registry().offers("aggregator")))
def test_every_aggregator_of_ours_sums_alike_in_worker_processes(name):
    assert check_aggregator(Registry().get("aggregator", name)).notes == ()


class Masked(Aggregator):
    """Vectors under masks that cancel when everybody answers; fewer are refused. A toy: the masks are no secret."""

    name = "masked"
    hides: ClassVar[bool] = True
    SCALE: ClassVar[float] = 2.0**24

    def server(self, ctx):
        message = ",".join(ctx.cohort).encode()
        replies = dict((yield Phase(dict.fromkeys(ctx.cohort, message), trains=True)))
        size = sum(ctx.layout.values())
        if set(replies) != set(ctx.cohort) or any(len(reply) != 8 * size for reply in replies.values()):
            raise ProtocolError(f"{len(replies)} of {len(ctx.cohort)} answered as they should")
        total = sum((np.frombuffer(reply, np.uint64) for reply in replies.values()), np.zeros(size, np.uint64))
        values, at, vectors = total.view(np.int64) / self.SCALE, 0, {}
        for name, length in ctx.layout.items():
            vectors[name], at = values[at : at + length], at + length
        weight = vectors.pop("weight")
        return Aggregate({n: v.astype(np.float32) for n, v in vectors.items()}, float(weight[0]), len(replies))

    def client(self, memory, message, vector, ctx):
        values = np.concatenate([part.astype(np.float64) for part in vector.values()])
        if not np.isfinite(values).all() or any(part.dtype.kind != "f" for part in vector.values()):
            raise ProtocolError("only finite fractions can be masked")
        words = np.rint(values * self.SCALE).astype(np.int64).view(np.uint64)
        cohort = message.decode().split(",")
        place = cohort.index(ctx.client_id)
        for number, sign in ((place, 1), ((place + 1) % len(cohort), -1)):
            mask = np.random.default_rng([ctx.round, number]).integers(0, 2**63, words.size).astype(np.uint64)
            words = words + mask if sign > 0 else words - mask
        return b"", words.tobytes()


@pytest.mark.parametrize("component", [RollCall, Masked])
def test_sound_aggregators_pass(component):
    assert check_aggregator(component, tolerance=1e-4, processes=False).checks == AGGREGATOR.ids


@pytest.mark.slow
@pytest.mark.parametrize("component", [RollCall, Masked])
def test_sound_aggregators_pass_in_worker_processes_too(component):
    assert check_aggregator(component, tolerance=1e-4).notes == ()


class Mutant(PlainAggregator):
    """The plain sum, until a subclass breaks something."""

    name = "mutant"
    transparent = False


class Texts(Mutant):
    def client(self, memory, message, vector, ctx):
        return "", b""


class NoPhase(Mutant):
    def server(self, ctx):
        yield list(ctx.cohort)


class Stranger(Mutant):
    def server(self, ctx):
        yield Phase({"nobody": b""}, trains=True)
        return ctx.total().aggregate()


class ForEver(Mutant):
    def server(self, ctx):
        while True:
            yield Phase(dict.fromkeys(ctx.cohort, b""), trains=False)

    def client(self, memory, message, vector, ctx):
        return b"", b""


class TrainsTwice(Mutant):
    def server(self, ctx):
        yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
        return (yield from super().server(ctx))


class Fails(Mutant):
    def client(self, memory, message, vector, ctx):
        raise KeyError("no key")


class NotASum(Mutant):
    def server(self, ctx):
        yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
        return {"delta": np.zeros(3)}


class Mean(Mutant):
    def server(self, ctx):
        aggregate = yield from super().server(ctx)
        count = np.float32(max(aggregate.count, 1))
        return Aggregate({n: v / count for n, v in aggregate.arrays.items()}, aggregate.weight, aggregate.count)


class Uncounted(Mutant):
    def server(self, ctx):
        aggregate = yield from super().server(ctx)
        return Aggregate(aggregate.arrays, aggregate.weight, 1)


class NeedsNine(Mutant):
    def server(self, ctx):
        if 0 < len(ctx.cohort) < 9:
            raise ValueError("too few")
        return (yield from super().server(ctx))


class Rescales(Mutant):
    """Makes up for the lost, as if they had said what the others say."""

    def server(self, ctx):
        aggregate = yield from super().server(ctx)
        factor = np.float32(len(ctx.cohort) / max(aggregate.count, 1))
        return Aggregate({n: v * factor for n, v in aggregate.arrays.items()}, aggregate.weight, aggregate.count)


class NeedsSome(Mutant):
    def server(self, ctx):
        replies = list((yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)))
        total = ctx.total()
        total.add(*replies[0])
        for reply in replies[1:]:
            total.add(*reply)
        return total.aggregate()


class OwnSum(Mutant):
    """Adds whatever comes, by itself."""

    def server(self, ctx):
        replies = yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
        total, weight, count = np.zeros(sum(ctx.layout.values()) - 1, np.float32), 0.0, 0
        for _, reply in replies:
            (share,) = struct.unpack("<d", reply[:8])
            total, weight, count = total + np.frombuffer(reply[8:], np.float32), weight + share, count + 1
        vectors, at = {}, 0
        for name, length in ctx.layout.items():
            if name != "weight":
                vectors[name], at = total[at : at + length], at + length
        return Aggregate(vectors, weight, count)

    def client(self, memory, message, vector, ctx):
        parts = [part.astype(np.float32).tobytes() for name, part in vector.items() if name != "weight"]
        return b"", struct.pack("<d", float(vector["weight"][0])) + b"".join(parts)


class SwallowsNaN(Mutant):
    def client(self, memory, message, vector, ctx):
        kept = {name: np.nan_to_num(part) for name, part in vector.items()}
        return b"", wire.pack("vector", arrays=kept)


class Pretends(Mutant):
    hides: ClassVar[bool] = True


class PretendsInHalves(Pretends):
    def client(self, memory, message, vector, ctx):
        return b"", wire.pack("vector", arrays={name: part.astype(np.float16) for name, part in vector.items()})


class Remembers(Mutant):
    def client(self, memory, message, vector, ctx):
        self.last = ctx.client_id
        return super().client(memory, message, vector, ctx)


class InPlace(Mutant):
    def client(self, memory, message, vector, ctx):
        vector["delta"] += 1
        return super().client(memory, message, vector, ctx)


class Drifts(Mutant):
    rounds: ClassVar[list[int]] = []

    def server(self, ctx):
        self.rounds.append(ctx.round)
        aggregate = yield from super().server(ctx)
        factor = np.float32(1 + 0.1 * len(self.rounds))
        return Aggregate({n: v * factor for n, v in aggregate.arrays.items()}, aggregate.weight, aggregate.count)


class Drops(Mutant):
    """Leaves out the client with the most rows, but only of a model's size."""

    def server(self, ctx):
        replies = yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)
        total = ctx.total()
        for client, message in replies:
            if client != "8" or ctx.layout["delta"] == 40:
                total.add(client, message)
        return total.aggregate()


class DropsUnseen(Drops):
    transparent = True


class NoSuchRing(Mutant):
    ring = 20
    """It adds up exactly instead."""


class PretendsOpenly(Mutant):
    hides: ClassVar[bool] = True
    transparent = True


class RunFails(Mutant):
    def server(self, ctx):
        replies = list((yield Phase(dict.fromkeys(ctx.cohort, b""), trains=True)))
        if ctx.layout["delta"] != 40 and len(replies) < 9:
            raise KeyError("who?")
        total = ctx.total()
        for client, message in replies:
            total.add(client, message)
        return total.aggregate()


class Process(Mutant):
    """Depends on the way that vectors come to it: within a process, or from a worker."""

    def client(self, memory, message, vector, ctx):
        factor = np.float32(1.5 if vector["delta"].flags.writeable else 1)
        return super().client(memory, message, {**vector, "delta": vector["delta"] * factor}, ctx)


MUTANTS = {
    "phases": [
        (Texts, "client returned str and bytes, expected memory and reply as bytes"),
        (NoPhase, "the server yielded list, expected a Phase"),
        (Stranger, "the server has messages for ['nobody'], which are not in the cohort"),
        (ForEver, "the server does not end within 64 phases"),
        (TrainsTwice, "2 phases with trains=True, expected one"),
        (Fails, "client 0 raised KeyError: 'no key'"),
        (NotASum, "the server returned dict, expected an Aggregate"),
    ],
    "sum": [(Mean, "values differ by up to"), (Uncounted, "it counts 1 client, expected 9")],
    "small-cohorts": [(NeedsNine, "ValueError: too few")],
    "dropout": [(Rescales, "with 0 lost in phase 1: the sum is not that of an allowed set of clients: values differ")],
    "nobody": [(NeedsSome, "IndexError")],
    "repeated": [(OwnSum, "it counts 11 clients, expected 9")],
    "garbage": [(OwnSum, ["with nothing from one client in phase 1: error: unpack", "half of its reply"])],
    "bad-vector": [(SwallowsNaN, "with a NaN: the sum is not that of an allowed set of clients: it counts 9")],
    "integers": [(OwnSum, "'delta' of integers is not their exact sum")],
    "ring": [
        (OwnSum, "'noise:ring' is not the exact sum"),
        (NoSuchRing, "'noise:ring' is not the exact sum modulo 2^20"),
    ],
    "hides": [
        (Pretends, ["client 0's reply in phase 1 holds part of its 'delta' as float32", "'weight' as float64"]),
        (PretendsOpenly, "it is transparent"),
        (PretendsInHalves, "client 0's reply in phase 1 holds part of its 'delta' as float16"),
    ],
    "self": [
        (Remembers, "a round stored self.last"),
        (InPlace, "a client changed its vector: delta differs by up to 1"),
        (Drifts, "a second round with the same vectors: values differ"),
    ],
    "trains": [(Drops, "in contrast to the plain sum, weights differ by up to")],
    "transparent": [(DropsUnseen, "in contrast to vectors added up in the worker, weights differ")],
    "lost": [(RunFails, "KeyError: 'who?'")],
    "processes": [(Process, "in contrast to one process, weights differ")],
}


def subject(component, directory, processes=False):
    return AggregatorSubject(component, {}, Trial(directory), processes=processes, tolerance=1e-5)


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(AGGREGATOR, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases if which != "processes"],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, which, mutant, words):
    caught(AGGREGATOR, subject(mutant, tmp_path), which, words)


@pytest.mark.slow
def test_what_depends_on_the_process_of_training_is_told_so(tmp_path):
    ((mutant, words),) = MUTANTS["processes"]
    caught(AGGREGATOR, subject(mutant, tmp_path, processes=True), "processes", words)


def test_a_tolerance_that_is_promised_is_held_to(tmp_path):
    class Coarse(OwnSum):
        """Sends vectors in halves: 11 bits of a value."""

        name = "coarse"

        def client(self, memory, message, vector, ctx):
            memory, reply = super().client(memory, message, vector, ctx)
            values = np.frombuffer(reply[8:], np.float32).astype(np.float16).astype(np.float32)
            return memory, reply[:8] + values.tobytes()

    caught(AGGREGATOR, subject(Coarse, tmp_path / "a"), "sum", "the tolerance 1e-05")
    loose = AggregatorSubject(Coarse, {}, Trial(tmp_path / "b"), processes=False, tolerance=1e-3)
    assert loose.apart(loose.honest.result, loose.sum_of(loose.vectors())) is None
