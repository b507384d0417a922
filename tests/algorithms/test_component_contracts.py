"""What components of others may get wrong: it is stopped with a sentence, and in the same way by every engine."""

import json

import numpy as np
import pytest
from support import ScriptedEngine, checkpoint_digests, flctl, make_run, train_run

from flctl import Aggregator, Strategy, hookimpl, wire
from flctl.algorithms.aggregator import Phase
from flctl.algorithms.aggregators.accumulators import SumAccumulator, UpdateIntake
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import PluginError, RoundFailedError
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.types import WEIGHT, Failure

PLUGIN = """
import sys
import numpy as np
import flctl

class Wayward(flctl.Strategy):
    "Does on a client what `way` says."
    name = "wayward"
    class Config(flctl.Strategy.Config):
        way: str = "none"
    def adjust(self, grad, params, work, memory):
        if self.config.way == "tensors":
            work.params["params"].add_(0.01)
            return grad + 0.1 * (params - work.params["params"])
        return grad
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        if self.config.way == "exit":
            sys.exit(0)
        if self.config.way == "long":
            raise RuntimeError("x" * 2_000_000 + "\\x1b[31m")
        if self.config.way == "mutate":
            work.params["params"][:] += 1
        if self.config.way == "flat":
            arrays = {"delta": arrays["delta"].reshape(1, -1)}
        if self.config.way == "integers":
            arrays, weight = {"delta": np.ones(arrays["delta"].size, np.int64)}, 0.5
        if self.config.way == "memory":
            memory = {"m": np.array(["text"])}
        if self.config.way == "weight":
            weight = None
        if self.config.way == "talk":
            print("noise")
            arrays["delta"] = arrays["delta"] + np.float32(len(sys.stdin.read()))
        return arrays, weight, memory

@flctl.hookimpl
def flctl_strategies():
    return [Wayward]
"""
WRONG = {
    "exit": "SystemExit: 0",
    "long": "RuntimeError: xxx",
    "mutate": "read-only",
    "flat": "expected one dimension",
    "integers": "expected a whole number",
    "memory": "returned client memory with 'm' of shape",
    "weight": "weight is None",
}


@pytest.fixture
def wayward(tmp_path):
    file = tmp_path / "wayward.py"
    file.write_text(PLUGIN)
    return f"plugins=[{file.as_posix()}]"


class Offer:
    """A plugin with these strategies and aggregators."""

    def __init__(self, strategies=(), aggregators=()):
        self.strategies, self.aggregators = strategies, aggregators

    @hookimpl
    def flctl_strategies(self):
        return self.strategies

    @hookimpl
    def flctl_aggregators(self):
        return self.aggregators


def registry_of(**offered):
    """A registry that has these classes too: strategies=[...], aggregators=[...]."""
    registry = Registry()
    registry.add(Offer(**offered), "test")
    return registry


@pytest.mark.parametrize("way", WRONG)
def test_a_client_that_breaks_the_contract_is_a_failed_client(toy, tmp_path, wayward, way):
    with pytest.raises(RoundFailedError, match=WRONG[way]) as caught:
        train_run(toy, tmp_path / "run", wayward, f"strategy={{name: wayward, way: {way}}}")
    assert len(caught.value.message) < 700
    assert caught.value.message.isprintable()


@pytest.mark.slow
def test_engines_agree_on_code_that_changes_tensors_reads_or_mutates(toy, tmp_path, wayward):
    """The tensors of one client are not the next one's, whether or not the same process trains both."""
    chosen = (wayward, "strategy={name: wayward, way: tensors}", "rounds=2")
    train_run(toy, tmp_path / "one", *chosen)
    train_run(toy, tmp_path / "two", *chosen, "engine={name: pool, workers: 2}")
    assert checkpoint_digests(tmp_path / "one") == checkpoint_digests(tmp_path / "two")


@pytest.mark.slow
def test_code_in_a_worker_that_reads_standard_input_finds_its_end(toy, tmp_path, wayward):
    pooled = (wayward, "strategy={name: wayward, way: talk}", "rounds=1", "engine={name: pool, workers: 1}")
    train_run(toy, tmp_path / "pool", *pooled)
    train_run(toy, tmp_path / "plain", "rounds=1")
    assert checkpoint_digests(tmp_path / "pool") == checkpoint_digests(tmp_path / "plain")


@pytest.mark.slow
def test_what_a_client_prints_stays_out_of_the_result(toy, tmp_path, wayward):
    chosen = ["-o", "model=logreg", "-o", "strategy={name: wayward, way: talk}", "-o", wayward]
    out = str(tmp_path / "run")
    result = flctl("train", str(toy.path), "--rounds", "1", "--clients-per-round", "2", *chosen, "--out", out, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["ok"]
    assert "noise" in result.stderr


class Wrong(Strategy):
    """A server half that returns something odd."""

    name = "wrong"

    class Config(Strategy.Config):
        way: str

    def step(self, params, aggregate, state, ctx):
        way, (new, state) = self.config.way, super().step(params, aggregate, state, ctx)
        if way == "short":
            return {"params": new["params"][:-1]}, state
        if way == "list":
            return {"params": list(new["params"])}, state
        if way == "number":
            return new, {"count": 3.0}
        params["params"][:] += 1
        return params, state


class Broadcasts(Strategy):
    """Combines into one value, which numpy would spread over the whole model."""

    name = "broadcasts"

    def combine(self, updates):
        return {"delta": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    ("way", "said"),
    [("short", "a model with the vectors"), ("list", "list under 'params'"), ("number", "float under 'count'")],
)
def test_a_step_that_breaks_the_contract_is_named(toy, tmp_path, way, said):
    chosen = f"strategy={{name: wrong, way: {way}}}"
    with pytest.raises(PluginError, match=said):
        train_run(toy, tmp_path / "run", chosen, registry=registry_of(strategies=[Wrong]))


def test_a_step_cannot_change_the_model_in_place(toy, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        train_run(toy, tmp_path / "run", "strategy={name: wrong, way: place}", registry=registry_of(strategies=[Wrong]))


def test_a_combine_of_the_wrong_length_is_refused(toy, tmp_path):
    with pytest.raises(PluginError, match=r"'broadcasts' combined the vectors \{'delta': 1\}"):
        train_run(toy, tmp_path / "run", "strategy=broadcasts", registry=registry_of(strategies=[Broadcasts]))


class Phases(Aggregator):
    """Greets all, of which it reads `read` answers; trains; asks each one back. Clients check what they remember."""

    name = "phases"

    class Config(Aggregator.Config):
        read: int = 0

    def server(self, ctx):
        if not ctx.cohort:
            return ctx.total().aggregate()
        greeted = yield Phase(dict.fromkeys(reversed(ctx.cohort), b"greet"), trains=False)
        for _, (client, message) in zip(range(self.config.read), greeted, strict=False):
            assert (client, message) == (ctx.cohort[0], b"hello")
        vectors = dict((yield Phase(dict.fromkeys(ctx.cohort, b"train"), trains=True)))
        total = ctx.total()
        for client, message in (yield Phase(dict.fromkeys(vectors, b"finish"), trains=False)):
            assert message == b"done"
            total.add(client, vectors[client])
        return total.aggregate()

    def client(self, memory, message, vector, ctx):
        expected = {b"greet": b"", b"train": b"greet", b"finish": b"train"}[message]
        if memory != expected:
            raise ValueError(f"remembers {memory!r}, expected {expected!r}")
        reply = wire.pack("vector", arrays=vector) if vector is not None else b"done" if memory else b"hello"
        return message, reply


@pytest.mark.parametrize("read", [0, 1])
def test_phases_take_place_whatever_the_aggregator_reads_of_them(toy, tmp_path, read):
    """Also in the next round, in which no client remembers the last phase of the round before."""
    chosen = f"aggregator={{name: phases, read: {read}}}"
    train_run(toy, tmp_path / "run", chosen, "rounds=3", registry=registry_of(aggregators=[Phases]))
    train_run(toy, tmp_path / "plain", "rounds=3")
    models = [
        {name: digest for name, digest in checkpoint_digests(tmp_path / run).items() if "model" in name}
        for run in ("run", "plain")
    ]
    assert models[0] == models[1]


def test_a_client_that_drops_out_between_phases_is_left_out_once(toy, tmp_path):
    chosen = ("aggregator=phases", "cohort.sampling=all", "engine.max_failures=1")
    run, _ = make_run(toy, tmp_path / "run", *chosen, registry=registry_of(aggregators=[Phases]))
    lost = str(toy.client_ids[1])
    engine = ScriptedEngine(InProcessEngine(), {lost: Failure("deadline", "gone")})
    with engine.open(run):
        rounds = Rounds(run, engine)
        _, report = rounds.play(rounds.initial(), last=lambda seconds: False)
    assert set(report.failed) == {lost}
    assert report.answered == toy.clients - 1


def test_an_aggregator_may_end_an_empty_round_without_a_phase(toy, tmp_path):
    rare = ("aggregator=phases", "cohort.sampling=poisson", "cohort.rate=1e-9", "rounds=1")
    result = train_run(toy, tmp_path / "run", *rare, registry=registry_of(aggregators=[Phases]))
    assert result.rounds == 1


class Strange(Aggregator):
    """A server half that yields or returns something odd."""

    name = "strange"

    class Config(Aggregator.Config):
        way: str

    def server(self, ctx):
        if self.config.way == "yields":
            yield None
        if self.config.way == "stranger":
            yield Phase({"nobody": b""}, trains=True)

    def client(self, memory, message, vector, ctx):
        return None, None


@pytest.mark.parametrize(
    ("way", "said"), [("yields", "expected a Phase"), ("returns", "expected an Aggregate"), ("stranger", "nobody")]
)
def test_an_aggregator_that_breaks_the_contract_is_named(toy, tmp_path, way, said):
    chosen = f"aggregator={{name: strange, way: {way}}}"
    with pytest.raises(PluginError, match=said):
        train_run(toy, tmp_path / "run", chosen, registry=registry_of(aggregators=[Strange]))


@pytest.mark.parametrize("first", [np.int32, np.float16, np.float32])
def test_the_dtype_of_one_client_does_not_cost_another_its_digits(first):
    total = SumAccumulator(UpdateIntake({"delta": 1, WEIGHT: 1}))
    for client, (dtype, value) in enumerate(((first, 2), (np.float32, 0.25), (np.float32, 70000))):
        vectors = {"delta": np.array([value], dtype), WEIGHT: np.ones(1)}
        total.add(str(client), wire.pack("vector", arrays=vectors))
    assert total.aggregate().arrays["delta"].tolist() == [70002.25]
