"""`check_transform`: our transforms pass, and for each check a transform that breaks it is told so."""

import dataclasses
import os

import numpy as np
import pytest
from pydantic import Field
from support import slow_but
from support.conformance import caught, unmutated

from flctl import Aggregate, IncompatibleError, LocalSteps, Transform
from flctl.plugins.registry import Registry
from flctl.testing import check_transform
from flctl.testing.transform.contract import TRANSFORM
from flctl.testing.transform.subject import TransformSubject
from flctl.testing.trial import Trial

OPTIONS = {"clip": {"norm": 1.0}}
"""Those without which a transform cannot be made."""


@pytest.mark.parametrize("name", slow_but(sorted(Registry().offers("transform")), "clip", "topk", "quantise", "dp"))
def test_every_transform_of_ours_keeps_the_contract(name):
    passed = check_transform(Registry().get("transform", name), OPTIONS.get(name), processes=False)
    assert passed.checks == TRANSFORM.ids


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(Registry().offers("transform")))
def test_every_transform_of_ours_gives_the_same_bits_in_worker_processes(name):
    assert check_transform(Registry().get("transform", name), OPTIONS.get(name)).notes == ()


def mapped(update, change):
    return dataclasses.replace(update, arrays={name: change(vector) for name, vector in update.arrays.items()})


class Sparse(Transform):
    """Keeps each value with probability `keep`, scaled so that its mean stays; noise on the sum; a count as state."""

    name = "sparse"

    class Config(Transform.Config):
        keep: float = Field(0.5, gt=0, le=1)
        noise: float = 1e-3

    def init(self, layout):
        return {"rounds": np.zeros(1, np.float32)}

    def broadcast(self, state):
        return {"rounds": state["rounds"]}

    def on_client(self, update, ctx):
        return mapped(
            update, lambda v: (v * (ctx.rng.random(v.size) < self.config.keep) / self.config.keep).astype(np.float32)
        )

    def on_server(self, aggregate, state, ctx):
        noisy = {
            name: (v + ctx.rng.normal(0, self.config.noise, v.size)).astype(np.float32)
            for name, v in aggregate.arrays.items()
        }
        return dataclasses.replace(aggregate, arrays=noisy), {"rounds": state["rounds"] + 1}


class Lattice(Transform):
    """Whole numbers on the way, with weights of one: a sum of them is exact."""

    name = "lattice"

    def on_client(self, update, ctx):
        coded = mapped(update, lambda v: np.clip(np.rint(v * 1000), -(2**20), 2**20).astype(np.int32))
        return dataclasses.replace(coded, weight=float(round(update.weight)))

    def on_server(self, aggregate, state, ctx):
        arrays = {name: (v / 1000).astype(np.float32) for name, v in aggregate.arrays.items()}
        return dataclasses.replace(aggregate, arrays=arrays), state


class Sees(Transform):
    """Clips each update when it arrives."""

    name = "sees"

    def on_arrival(self, update, ctx):
        return mapped(update, lambda v: np.clip(v, -1, 1))


class Signs(Transform):
    """Signs and one size for each vector, with what was not sent added to the next update."""

    name = "signs"

    def sends(self, layout):
        return {**layout, **{f"{name}.size": 1 for name in layout}}

    def remembers(self, layout):
        return {f"rest.{name}": length for name, length in layout.items()}

    def on_client(self, update, ctx):
        codes = {}
        for name, vector in update.arrays.items():
            whole = vector + ctx.memory[f"rest.{name}"]
            codes[name] = np.where(whole < 0, -1, 1).astype(np.int8)
            codes[f"{name}.size"] = np.array([np.abs(whole).mean() if whole.size else 0], np.float32)
        return dataclasses.replace(update, arrays=codes)

    def decode(self, vectors, ctx):
        signs = {name: np.sign(vectors[name]).astype(np.float32) for name in ctx.layout}
        return {name: sign * np.float32(vectors[f"{name}.size"][0]) for name, sign in signs.items()}

    def keeps(self, given, sent, arrived, ctx):
        return {f"rest.{n}": given.arrays[n] + ctx.memory[f"rest.{n}"] - arrived[n] for n in given.arrays}


class RowByRow(Transform):
    """One row a step, its gradient as it is."""

    name = "row-by-row"

    def steps(self, ctx):
        return OneRow(ctx)


class OneRow(LocalSteps):
    def __init__(self, ctx):
        self.ctx = ctx

    def batches(self):
        return [np.array([place % self.ctx.rows]) for place in range(self.ctx.steps)]

    def factors(self, norms):
        return np.ones_like(norms)

    def gradient(self, total):
        return total


@pytest.mark.parametrize("component", [Sparse, Sees, Signs, RowByRow])
def test_sound_transforms_pass(component):
    assert check_transform(component, processes=False).checks == TRANSFORM.ids


def test_a_lattice_passes_but_for_updates_beyond_it():
    """Of 10^6 it gives what its range holds, and that is finite."""
    assert check_transform(Lattice, processes=False).checks == TRANSFORM.ids


class Mutant(Transform):
    """The identity, until a subclass breaks something."""

    name = "mutant"


class NoLayout(Mutant):
    def sends(self, layout):
        return list(layout)


class Half(Mutant):
    def on_client(self, update, ctx):
        return mapped(update, lambda v: v[: (v.size + 1) // 2])


class Renames(Mutant):
    def on_client(self, update, ctx):
        return dataclasses.replace(update, client_id="someone")


class Logarithm(Mutant):
    def on_client(self, update, ctx):
        with np.errstate(all="ignore"):
            return mapped(update, np.log)


class WordsOfAnyWeight(Mutant):
    def on_client(self, update, ctx):
        return dataclasses.replace(mapped(update, lambda v: v.astype(np.int32)), weight=update.weight / 3)


class Normalises(Mutant):
    def on_client(self, update, ctx):
        return mapped(update, lambda v: (v / np.linalg.norm(v)).astype(np.float32))


class ByTheLargest(Mutant):
    def factors(self, norms, broadcast):
        return 1 / (1 + norms / norms.max()) if norms.max() > 0 else np.ones_like(norms)


class ByZero(Mutant):
    def factors(self, norms, broadcast):
        return 1 / norms


class OneForAll(Mutant):
    def factors(self, norms, broadcast):
        return np.float64(0.5)


class TwoWays(Mutant):
    def factors(self, norms, broadcast):
        return np.full_like(norms, 0.5)

    def on_client(self, update, ctx):
        return update


class Coded(Mutant):
    """Sends thousandths, as a code."""

    def on_client(self, update, ctx):
        return mapped(update, lambda v: v * np.float32(1000))

    def decode(self, vectors, ctx):
        return {name: vectors[name] / np.float32(1000) for name in ctx.layout}


class DecodesHalf(Coded):
    def decode(self, vectors, ctx):
        return {name: vector[1:] for name, vector in super().decode(vectors, ctx).items()}


class DecodesNothing(Coded):
    def decode(self, vectors, ctx):
        return {name: vector / np.float32(0) for name, vector in super().decode(vectors, ctx).items()}


class Bent(Coded):
    linear = True

    def decode(self, vectors, ctx):
        return {name: np.sign(vector) for name, vector in super().decode(vectors, ctx).items()}


class Largest(Mutant):
    """Sends the largest value of each vector, and its place."""

    def sends(self, layout):
        return {f"{name}.{part}": 1 for name in layout for part in ("place", "value")}

    def on_client(self, update, ctx):
        codes = {}
        for name, vector in update.arrays.items():
            place = np.argmax(vector)
            codes |= {f"{name}.place": np.array([place]), f"{name}.value": vector[place : place + 1]}
        return dataclasses.replace(update, arrays=codes)

    def decode(self, vectors, ctx):
        whole = {name: np.zeros(length, np.float32) for name, length in ctx.layout.items()}
        for name, vector in whole.items():
            vector[vectors[f"{name}.place"]] = vectors[f"{name}.value"]
        return whole


class KeepsRest(Mutant):
    def remembers(self, layout):
        return {"rest": layout["delta"]}

    def keeps(self, given, sent, arrived, ctx):
        return {"rest": given.arrays["delta"] - arrived["delta"]}


class KeepsOther(KeepsRest):
    def keeps(self, given, sent, arrived, ctx):
        return {"other": np.zeros(1, np.float32)}


class KeepsDigits(KeepsRest):
    def keeps(self, given, sent, arrived, ctx):
        return {"rest": given.arrays["delta"] / np.float64(3)}


class OnlyTheSum(Mutant):
    def on_server(self, aggregate, state, ctx):
        return aggregate


class Short(Mutant):
    def on_server(self, aggregate, state, ctx):
        return dataclasses.replace(aggregate, arrays={n: v[:1] for n, v in aggregate.arrays.items()}), state


class Recounts(Mutant):
    def on_server(self, aggregate, state, ctx):
        return dataclasses.replace(aggregate, count=1), state


class DividesByCount(Mutant):
    def on_server(self, aggregate, state, ctx):
        count = np.float32(aggregate.count)
        return Aggregate({n: v / count for n, v in aggregate.arrays.items()}, aggregate.weight, aggregate.count), state


class ArrivesShort(Mutant):
    def on_arrival(self, update, ctx):
        return mapped(update, lambda v: v[:-1])


class PlainState(Mutant):
    def init(self, layout):
        return {"bound": 1.0}


class SwappedBytes(Mutant):
    def init(self, layout):
        return {"bound": np.ones(1, ">f4")}

    def broadcast(self, state):
        return dict(state)


class Mean(Mutant):
    def on_server(self, aggregate, state, ctx):
        weight = np.float32(aggregate.weight or 1)
        return dataclasses.replace(aggregate, arrays={n: v / weight for n, v in aggregate.arrays.items()}), state


class InPlace(Mutant):
    def on_client(self, update, ctx):
        for vector in update.arrays.values():
            vector *= np.float32(0.5)
        return update


class Counts(Mutant):
    rounds = 0

    def on_server(self, aggregate, state, ctx):
        self.rounds += 1
        factor = np.float32(1 / self.rounds)
        return dataclasses.replace(aggregate, arrays={n: v * factor for n, v in aggregate.arrays.items()}), state


class Dice(Mutant):
    def on_client(self, update, ctx):
        return mapped(update, lambda v: v + np.random.normal(0, 1e-3, v.size).astype(np.float32))


class Raises(Mutant):
    def on_client(self, update, ctx):
        raise RuntimeError("not today")


class SeesAll(Mutant):
    def check(self, run):
        if run.aggregator.hides:
            raise IncompatibleError("needs to see more than a sum")


class NeedsAll(Mutant):
    def on_server(self, aggregate, state, ctx):
        if aggregate.count < ctx.asked:
            raise ValueError(f"{aggregate.count} of {ctx.asked}")
        return aggregate, state


class Process(Mutant):
    """Depends on the process that it runs in."""

    def on_client(self, update, ctx):
        return mapped(update, lambda v: v * np.float32(1 + (os.getpid() % 997) * 1e-4))


MUTANTS = {
    "sends": [(NoLayout, "it returned ['delta']")],
    "on-client": [
        (Half, "the update has the vectors {'delta': 6}, expected {'delta': 12}"),
        (Renames, "the client is 'someone', expected '0'"),
        (Logarithm, "values that are NaN or infinite"),
        (WordsOfAnyWeight, "the update has integer vectors and the weight 2.66"),
    ],
    "zeros": [(Normalises, "for zeros the update has values that are NaN or infinite")],
    "factors": [
        (ByTheLargest, "the factor of a norm depends on the other norms"),
        (ByZero, "for the norms [0.0, 1e-12, 0.5, 1.0, 3.0, 1000000.0] it returned [inf,"),
        (OneForAll, "it returned 0.5"),
        (TwoWays, "on_client does not multiply by the factor 0.5"),
    ],
    "on-server": [
        (OnlyTheSum, "expected (Aggregate, state)"),
        (Short, "of 1 update the aggregate has the vectors {'delta': 1}, expected {'delta': 12}"),
        (Recounts, "of 2 updates the count is 1"),
    ],
    "nobody": [(DividesByCount, "of 0 updates the aggregate has values that are NaN")],
    "on-arrival": [(ArrivesShort, "the update has the vectors {'delta': 11}, expected {'delta': 12}")],
    "state": [(PlainState, "init returned float under 'bound'")],
    "checkpoint": [(SwappedBytes, "after a checkpoint")],
    "decode": [
        (DecodesHalf, "it returned the vectors {'delta': 11}, expected {'delta': 12}"),
        (DecodesNothing, "values that are NaN or infinite"),
    ],
    "linear": [(Bent, "of three clients 'delta' differs by up to")],
    "bad-codes": [(Largest, ["with 'delta.place' of the largest int32: IndexError", "of random bytes: IndexError"])],
    "memory": [
        (KeepsOther, "returned client memory with the vectors {'other': 1}, expected {'rest': 12}"),
        (KeepsDigits, "in round 1 'rest' is float64, and loses digits"),
    ],
    "equal-updates": [(Mean, "'delta' of four equal updates differs from that of one by up to")],
    "inputs": [(InPlace, "on_client changed argument 1: arrays['delta'] differs by")],
    "self": [(Counts, "on_server stored self.rounds")],
    "deterministic": [(Dice, "on_client: arrays['delta'] differs by")],
    "trains": [(Raises, "not today")],
    "hidden": [(SeesAll, "needs to see more than a sum")],
    "lost": [(NeedsAll, "ValueError: 7 of 9")],
    "resume": [(Counts, "after a resume the checkpoint's model differ")],
    "processes": [(Process, "in two worker processes the checkpoint's model differ")],
}


class NoSteps(Mutant):
    def steps(self, ctx):
        return None


def stepping(**methods):
    """A transform whose steps are those of `OneRow`, with other methods."""
    steps = type("Steps", (OneRow,), methods)
    return type("Stepping", (Mutant,), {"name": "stepping", "steps": lambda self, ctx: steps(ctx)})


MUTANTS["steps"] = [
    (NoSteps, "it returned NoneType"),
    (stepping(batches=lambda self: [np.zeros(1, np.int64)] * 9), "it makes 9 steps, expected at most 5"),
    (stepping(batches=lambda self: [np.array([self.ctx.rows])]), "expected int64 indices in [0, 1"),
    (stepping(batches=lambda self: [np.array([0.5])]), "a step uses the rows [0.5]"),
    (stepping(factors=lambda self, norms: norms - np.inf), "it returned the factors [-inf"),
    (stepping(factors=lambda self, norms: norms / (1 + norms.max())), "depends on the other norms"),
    (stepping(gradient=lambda self, total: total[:1]), "has the shape (1,)"),
]


def subject(component, directory, processes=False):
    return TransformSubject(component, {}, Trial(directory), processes=processes)


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(TRANSFORM, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases if which != "processes"],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, which, mutant, words):
    caught(TRANSFORM, subject(mutant, tmp_path), which, words)


@pytest.mark.slow
def test_what_depends_on_its_process_is_told_so(tmp_path):
    ((mutant, words),) = MUTANTS["processes"]
    caught(TRANSFORM, subject(mutant, tmp_path, processes=True), "processes", words)


def test_what_no_run_can_use_is_told_once():
    """The checks of whole runs are not asked when the first of them failed."""
    from flctl.testing import ConformanceError

    with pytest.raises(ConformanceError) as caught_error:
        check_transform(Raises, processes=False, skip=["name", "docstring"])
    ids = [failed.check.id for failed in caught_error.value.failures]
    assert "trains" in ids
    assert not {"hidden", "lost", "resume", "processes"} & set(ids)
