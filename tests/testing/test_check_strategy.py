"""`check_strategy`: our strategies pass, and for each check a strategy that breaks it is told so."""

import dataclasses
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ConfigDict, Field, field_validator
from support import prefork, slow_but
from support.conformance import COMMON, caught, only, unmutated

from flctl import IncompatibleError, Options, Strategy
from flctl.plugins.registry import Registry
from flctl.testing import ConformanceError, check_strategy
from flctl.testing.conformance import conform
from flctl.testing.strategy.contract import STRATEGY
from flctl.testing.strategy.subject import StrategySubject
from flctl.testing.trial import Trial

OPTIONS = {"fltrust": {"root": "0"}}
"""Those without which a strategy cannot be made."""


def strategies():
    return sorted(Registry().offers("strategy"))


@pytest.mark.parametrize("name", slow_but(strategies(), "fedavg", "fedadam", "scaffold", "fedper", "krum"))
def test_every_strategy_of_ours_keeps_the_contract(name):
    component = Registry().get("strategy", name)
    passed = check_strategy(component, OPTIONS.get(name), processes=False)
    assert set(passed.checks) == set(STRATEGY.ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", strategies())
def test_every_strategy_of_ours_gives_the_same_bits_in_worker_processes(name):
    component = Registry().get("strategy", name)
    passed = check_strategy(component, OPTIONS.get(name), skip=[which for which in STRATEGY.ids if which not in NEEDED])
    assert "processes" in passed.checks
    assert passed.notes == ()


NEEDED = ("class", "options", "trains", "processes")


class Sound(Strategy):
    """Uses all that there is: options, state, memory, broadcast, an own vector, adjust and combine's absence."""

    name = "sound"

    class Config(Strategy.Config):
        pull: float = Field(0.1, ge=0)

    def init(self, params):
        return {"rounds": np.zeros(1, np.float32), "mean": np.zeros_like(params["params"])}

    def broadcast(self, state):
        return {"mean": state["mean"]}

    def sends(self, layout):
        return {**super().sends(layout), "steps": 1}

    def remembers(self, layout):
        return {"past": layout["params"]}

    def adjust(self, grad, params, work, memory):
        return grad + self.config.pull * (params - work.params["params"]) + 0.01 * work.extra["mean"]

    def report(self, local, work, memory):
        arrays, weight, _ = super().report(local, work, memory)
        past = memory["past"]
        kept = np.float32(0.5) * (past + arrays["delta"])
        return {**arrays, "delta": kept, "steps": np.array([local.steps], np.float32)}, weight, {"past": kept}

    def step(self, params, aggregate, state, ctx):
        new, state = super().step(params, aggregate, state, ctx)
        mean = new["params"] - params["params"]
        return new, {**state, "rounds": state["rounds"] + 1, "mean": mean}


class Median(Strategy):
    """The median, which reads each update."""

    name = "median"

    def combine(self, updates):
        return {"delta": np.median([update.arrays["delta"] for update in updates], axis=0)}


class Mutant(Strategy):
    """FedAvg, until a subclass breaks something."""

    name = "mutant"


class ShortSends(Mutant):
    def sends(self, layout):
        return {"delta": float(layout["params"])}


class ChangesLayout(Mutant):
    def sends(self, layout):
        layout["own"] = 1
        return super().sends(layout)


class Extra(Mutant):
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {**arrays, "own": np.ones(3, np.float32)}, weight, memory


class Square(Mutant):
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {**arrays, "delta": arrays["delta"][None]}, weight, memory


class NegativeWeight(Mutant):
    def report(self, local, work, memory):
        arrays, _, memory = super().report(local, work, memory)
        return arrays, -1.0, memory


class Pair(Mutant):
    def report(self, local, work, memory):
        return super().report(local, work, memory)[:2]


class Wide(Mutant):
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {**arrays, "delta": arrays["delta"].astype(np.float64)}, weight, memory


class PerStep(Mutant):
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {**arrays, "delta": arrays["delta"] / np.float32(local.steps)}, weight, memory


class BadMemory(Mutant):
    def report(self, local, work, memory):
        arrays, weight, _ = super().report(local, work, memory)
        return arrays, weight, {"seen": np.ones(3, bool)}


class Unannounced(Mutant):
    def report(self, local, work, memory):
        arrays, weight, _ = super().report(local, work, memory)
        return arrays, weight, {"past": arrays["delta"]}


class Remembering(Mutant):
    def remembers(self, layout):
        return {"past": layout["params"]}

    def report(self, local, work, memory):
        arrays, weight, _ = super().report(local, work, memory)
        return arrays, weight, {"past": arrays["delta"]}


class Digits(Remembering):
    def report(self, local, work, memory):
        arrays, weight, kept = super().report(local, work, memory)
        return arrays, weight, {"past": kept["past"] / np.float64(3)}


class LongStart(Remembering):
    def first(self, work):
        return {"past": np.ones(2, np.float32)}


class Newcomer(Remembering):
    """Tells a new client by the round, not by what it remembers."""

    def first(self, work):
        return {"past": np.full(work.params["params"].size, work.round, np.float32)}

    def report(self, local, work, memory):
        arrays, weight, kept = super().report(local, work, memory)
        factor = np.float32(0.5) if (memory["past"] == 1).all() and not self.told else np.float32(1)
        self.told = True
        return {**arrays, "delta": arrays["delta"] * factor}, weight, kept

    told = False


class Doubles(Mutant):
    def adjust(self, grad, params, work, memory):
        return grad.double()


class Infinite(Mutant):
    def adjust(self, grad, params, work, memory):
        return grad / 0.0


class Normalises(Mutant):
    def adjust(self, grad, params, work, memory):
        return grad / torch.linalg.vector_norm(grad)


class InPlace(Mutant):
    def report(self, local, work, memory):
        local.delta["params"][0] = 0
        return super().report(local, work, memory)


class InPlaceTensor(Mutant):
    def adjust(self, grad, params, work, memory):
        work.params["params"].add_(1e-3)
        return grad


class Counts(Mutant):
    calls = 0

    def step(self, params, aggregate, state, ctx):
        self.calls += 1
        new, state = super().step(params, aggregate, state, ctx)
        return {**new, "params": new["params"] * np.float32(1 - 0.1 * self.calls)}, state


class Dice(Mutant):
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        noise = np.random.normal(0, 1e-3, arrays["delta"].size).astype(np.float32)
        return {**arrays, "delta": arrays["delta"] + noise}, weight, memory


class Misspelt(Mutant):
    server: ClassVar[dict[str, str]] = {"optimiser": "adam"}


class PlainState(Mutant):
    def init(self, params):
        return {"rounds": 0}


class NoStep(Mutant):
    def step(self, params, aggregate, state, ctx):
        return params


class ShortModel(Mutant):
    def step(self, params, aggregate, state, ctx):
        new, state = super().step(params, aggregate, state, ctx)
        return {**new, "params": new["params"][:-1]}, state


class Scalar(Mutant):
    def combine(self, updates):
        return {"delta": np.ones(1, np.float32)}


class First(Mutant):
    def combine(self, updates):
        return {"delta": updates[0].arrays["delta"]}


class NeedsAll(Mutant):
    def combine(self, updates):
        return {"delta": np.mean([updates[place].arrays["delta"] for place in range(9)], axis=0)}


class Divides(Mutant):
    def step(self, params, aggregate, state, ctx):
        return {**params, "params": params["params"] + aggregate.arrays["delta"] / np.float32(aggregate.weight)}, state


class SumNotMean(Mutant):
    def step(self, params, aggregate, state, ctx):
        return {**params, "params": params["params"] + np.float32(0.001) * aggregate.arrays["delta"]}, state


class ByDistance(Mutant):
    def combine(self, updates):
        rows = np.stack([update.arrays["delta"] for update in updates])
        distance = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
        weights = (1 / distance) / (1 / distance).sum()
        return {"delta": (weights[:, None] * rows).sum(axis=0).astype(np.float32)}


class NoBuffers(Mutant):
    def step(self, params, aggregate, state, ctx):
        if aggregate.weight == 0:
            return params, state
        return {"params": params["params"] + aggregate.mean("delta")}, state


class NeedsNine(Mutant):
    def step(self, params, aggregate, state, ctx):
        if aggregate.count != 9:
            raise ValueError(f"{aggregate.count} of 9")
        return super().step(params, aggregate, state, ctx)


class SeesAll(Mutant):
    def check(self, run):
        if run.aggregator.hides:
            raise IncompatibleError("needs to see more than a sum")


class Raises(Mutant):
    def report(self, local, work, memory):
        raise RuntimeError("not today")


class Process(Mutant):
    """Depends on the process that it runs in."""

    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {**arrays, "delta": arrays["delta"] * np.float32(1 + (os.getpid() % 997) * 1e-4)}, weight, memory


MUTANTS = {
    "trains": [(Raises, ["not today", "client '0' failed"])],
    "sends": [(ShortSends, "it returned {'delta':"), (ChangesLayout, "it changed its argument")],
    "report": [
        (Extra, "the update has the vectors {'delta': 15, 'own': 3}, expected {'delta': 15}"),
        (Square, "'delta' of shape (1, 15)"),
        (NegativeWeight, "the weight is -1.0"),
        (Pair, "it returned tuple, expected (arrays, weight, memory)"),
    ],
    "precision": [(Wide, "'delta' is float64, the model is float32")],
    "idle-client": [(PerStep, "with 0 steps and no change, ['delta'] is not finite")],
    "memory": [
        (BadMemory, "the returned client memory has 'seen' of shape (3,) and dtype bool"),
        (Unannounced, "the returned client memory has the vectors {'past': 15}, expected {}"),
        (Digits, "the client memory 'past' is float64, and loses digits"),
        (LongStart, "the initial client memory has the vectors {'past': 2}, expected {'past': 15}"),
    ],
    "first-round": [(Newcomer, "with the memory from first [0]['delta'] differs by up to")],
    "adjust": [(Doubles, "it returned torch.float64"), (Infinite, "not finite for a gradient that is")],
    "elementwise": [(Normalises, "row 1 of [4, 15] differs from that client alone")],
    "inputs": [
        (InPlace, "report changed argument 1: delta['params'] differs by"),
        (InPlaceTensor, "adjust changed argument 3: params['params'] differs by"),
    ],
    "self": [(Counts, "step stored self.calls")],
    "deterministic": [(Dice, "report: [0]['delta'] differs by")],
    "presets": [(Misspelt, ["optimiser", "Extra inputs are not permitted"])],
    "state": [(PlainState, "init returned int under 'rounds'")],
    "checkpoint": [(Counts, "step in round 2: [0]['params'] differs by")],
    "step": [
        (NoStep, "it returned dict, expected (params, state)"),
        (ShortModel, "the model has the vectors {'params': 14}, expected {'params': 15}"),
    ],
    "combine": [(Scalar, "it returned the vectors {'delta': 1}, expected {'delta': 15}")],
    "order": [(First, "in another order 'delta' differs by")],
    "dropout": [(NeedsAll, "IndexError"), (NeedsNine, "ValueError: 8 of 9")],
    "nobody": [(Divides, "without updates 'params' has values that are NaN")],
    "weight-scale": [(SumNotMean, "with weights scaled by 8 'params' differs by")],
    "finite": [(ByDistance, "with updates of zeros 'params' has values that are NaN")],
    "buffers": [(NoBuffers, ["a model with the vectors {'params'", "buffers"])],
    "lost": [(NeedsNine, "ValueError: 7 of 9")],
    "hidden": [(SeesAll, "needs to see more than a sum")],
    "resume": [(Counts, "after a resume the checkpoint's model differ")],
    "processes": [(Process, "in two worker processes the checkpoint's model differ")],
}


def subject(component, directory, options=None, processes=False):
    return StrategySubject(component, options or {}, Trial(directory), processes=processes)


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(STRATEGY, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases if which != "processes"],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, which, mutant, words):
    caught(STRATEGY, subject(mutant, tmp_path), which, words)


@pytest.mark.slow
def test_what_depends_on_its_process_is_told_so(tmp_path):
    ((mutant, words),) = MUTANTS["processes"]
    caught(STRATEGY, subject(mutant, tmp_path, processes=True), "processes", words)


@pytest.mark.parametrize("component", [Sound, Median])
def test_sound_strategies_pass(component):
    passed = check_strategy(component, {"pull": 0.2} if component is Sound else None, processes=False)
    assert passed.checks == STRATEGY.ids


@pytest.mark.slow
@pytest.mark.parametrize("component", [Sound, Median])
def test_sound_strategies_pass_in_worker_processes_too(component):
    assert check_strategy(component).notes == ()


def test_a_class_of_a_function_is_tried_in_this_process_only():
    class Local(Strategy):
        """Cannot be imported elsewhere."""

        name = "local"

    passed = check_strategy(Local, skip=[which for which in STRATEGY.ids if which not in NEEDED])
    assert passed.notes == ("not tested in other processes: its class cannot be imported there",)


def make(**body):
    return type("Made", (Strategy,), {"__doc__": "Made here.", "name": "made", "__module__": __name__, **body})


class Unvalidated(Options):
    share: float = "half"


class Growing(Options):
    count: int = 1

    @field_validator("count")
    @classmethod
    def _grow(cls, value):
        return value + 1


class Loose(Strategy.Config):
    model_config = ConfigDict(extra="ignore")


class Needy(Strategy.Config):
    root: str


COMMON_MUTANTS = {
    "class": [(3, {}, "3 is not a class"), (dict, {}, "is not a class"), (Strategy, {}, "found Strategy itself")],
    "name": [
        (make(name="Trimmed Mean"), {}, "the name is 'Trimmed Mean'"),
        (make(name="a/b"), {}, "the name is 'a/b'"),
        (make(name=7), {}, "name is 7"),
        (type("Heir", (Median,), {"__doc__": "x"}), {}, "it inherits the name 'median' of Median"),
    ],
    "docstring": [(make(__doc__=None), {}, "no docstring"), (make(__doc__="  \n "), {}, "no docstring")],
    "options": [
        (make(Config=Needy), {}, "root: Field required"),
        (make(Config=dict), {}, "which does not extend flctl.Options"),
        (Sound, {"pull": -1}, "pull: Input should be greater than or equal to 0"),
        (Sound, {"pool": 1}, "pool: Extra inputs are not permitted"),
    ],
    "strict": [(make(Config=Loose), {}, "Config.model_config['extra'] is 'ignore', expected 'forbid'")],
    "recorded": [
        (make(Config=Unvalidated), {}, "share: Input should be a valid number"),
        (make(Config=Growing), {"count": 1}, '{"count": 2} came back as {"count":3}'),
    ],
}


def test_for_every_check_of_all_kinds_something_is_known_that_breaks_it():
    assert tuple(COMMON_MUTANTS) == COMMON


@pytest.mark.parametrize(
    ("which", "component", "options", "words"),
    [(which, *case) for which, cases in COMMON_MUTANTS.items() for case in cases],
)
def test_what_breaks_a_check_of_all_kinds_is_told_so(tmp_path, which, component, options, words):
    caught(STRATEGY, subject(component, tmp_path, options), which, words)


def test_everything_that_is_wrong_is_told_at_once_and_explained():
    class Worse(Counts):
        def adjust(self, grad, params, work, memory):
            return grad / torch.linalg.vector_norm(grad)

    with pytest.raises(ConformanceError) as caught_error:
        check_strategy(Worse, processes=False)
    error = caught_error.value
    ids = [failed.check.id for failed in error.failures]
    assert ids == ["name", "docstring", "elementwise", "self", "deterministic", "checkpoint", "resume"]
    text = str(error)
    assert text.startswith(
        f"strategy 'mutant' (class {Worse.__qualname__} of {__name__}) fails 7 of {len(STRATEGY.ids)}"
    )
    for number, failed in enumerate(error.failures, 1):
        assert f"\n{number}. {failed.check.claim}" in text
    assert text.count("found:") >= 7
    assert (text.count("why:"), text.count("do:")) == (7, 7)


def test_a_strategy_that_does_not_train_is_told_why_and_not_all_that_follows():
    with pytest.raises(ConformanceError) as caught_error:
        check_strategy(Raises, processes=False, skip=["docstring", "name"])
    assert [failed.check.id for failed in caught_error.value.failures] == ["trains"]


def test_skipped_checks_are_not_asked_and_unknown_ones_are_refused():
    passed = check_strategy(SumNotMean, processes=False, skip=["weight-scale", "docstring", "name"])
    assert "weight-scale" not in passed.checks
    with pytest.raises(ValueError, match=r"no check 'weight-scael' to skip\. Did you mean 'weight-scale'"):
        check_strategy(SumNotMean, skip=["weight-scael"])


def test_the_trial_takes_what_the_strategy_needs():
    class Poisson(Strategy):
        """Wants Poisson sampling."""

        name = "poisson-only"

        def check(self, run):
            if run.config.cohort.sampling != "poisson":
                raise IncompatibleError("poisson-only needs poisson sampling")

    ids = [which for which in STRATEGY.ids if which not in NEEDED]
    with pytest.raises(ConformanceError, match="poisson-only needs poisson sampling"):
        check_strategy(Poisson, processes=False, skip=ids)
    check_strategy(Poisson, run=["cohort.sampling=poisson", "cohort.rate=0.9"], processes=False, skip=ids)


def test_global_states_are_left_as_they_were():
    import random

    torch.set_num_threads(2)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    check_strategy(Median, processes=False)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_the_kit_does_not_need_pytest_nor_import_torch_at_once():
    program = (
        "import sys, flctl.testing; print('pytest' in sys.modules, 'hypothesis' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_failures_read_well_without_pytest():
    program = (
        "import flctl\nfrom flctl.testing import check_partitioner\n"
        "class S(flctl.Partitioner):\n    name = 's'\n    def assign(self, rows, clients, rng):\n        return 3\n"
        "check_partitioner(S)\n"
    )
    done = prefork.run([sys.executable, "-c", program])
    assert done.returncode == 1
    assert "ConformanceError: partitioner 's' (class S of __main__) fails" in done.stderr
    assert "the class has no docstring" in done.stderr
    assert "it returned int, expected an Assignment" in done.stderr


def test_replays_take_dataclasses_apart(tmp_path):
    """dataclasses.replace in a strategy is no change of its argument."""

    class Replaces(Strategy):
        """Replaces the loss."""

        name = "replaces"

        def report(self, local, work, memory):
            return super().report(dataclasses.replace(local, loss=0.0), work, memory)

    asked = ("inputs", "self", "deterministic")
    assert conform(only(STRATEGY, *asked), subject(Replaces, tmp_path), "x").checks == asked
