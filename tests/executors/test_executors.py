"""Every executor against training one client after another, which is the oracle."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from support import Given, make_run, prefork
from torch import nn

from flctl.data.dataset import Dataset
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, DivergenceError
from flctl.executors.batches import local_keys
from flctl.executors.layer_chain import Dense, chain_of
from flctl.executors.loss_heads import head_for
from flctl.executors.sequential import single_thread, train
from flctl.executors.sgd_recurrence import recurrence
from flctl.executors.shards import LocalJob, Shards
from flctl.executors.shared import Rule, train_shared
from flctl.executors.stacked import ChainGradient, train_stacked
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.server.rounds import Rounds
from flctl.types import LocalWork

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@pytest.fixture(autouse=True)
def _one_thread():
    single_thread()


@dataclass
class Rows:
    """A partition in memory: what `Shards` reads of one."""

    x: np.ndarray
    y: np.ndarray
    bounds: np.ndarray

    def train_sizes(self, clients):
        return self.bounds[clients, 1] - self.bounds[clients, 0]

    def train_starts(self, clients):
        return self.bounds[clients, 0]

    def train(self, client):
        start, stop, _ = self.bounds[client]
        return self.x[start:stop], self.y[start:stop]

    def empty(self):
        return self.x[:0], self.y[:0]

    def take(self, rows, into):
        into[0][:], into[1][:] = self.x[rows], self.y[rows]


def shards(sizes, features, task, classes, seed=0, limits=None):
    rng = np.random.default_rng(seed)
    ends = np.cumsum(sizes)
    bounds = np.stack([ends - sizes, ends, ends], axis=1)
    x = rng.standard_normal((int(ends[-1]) + 1, *features), np.float32)
    y = {
        "classification": lambda: rng.integers(0, classes, len(x)),
        "binary": lambda: rng.integers(0, 2, len(x)),
        "regression": lambda: rng.standard_normal(len(x)).astype(np.float32),
    }[task]()
    clients = np.arange(len(sizes))
    data = Shards(Rows(x, y, bounds), clients, local_keys(seed, 1, clients.astype(str)))
    return data if limits is None else replace(data, limits=np.array(limits[: len(sizes)]))


def network(inputs, hidden, outputs, activation="relu", bias=True, seed=0):
    torch.manual_seed(seed)
    layers, width = [nn.Flatten()], inputs
    for units in hidden:
        layers += [nn.Linear(width, units, bias=bias), ACTIVATIONS[activation]()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, outputs, bias=bias))


def one_by_one(module, task, data, local, adjust=None):
    model = FlatModel(module)
    start = model.read()
    found = []
    for place in range(len(data.clients)):
        model.load(start)
        try:
            limit = data.limit(place)
            found.append(train(model, task, LocalJob(*data.one(place), local, data.keys[place], most=limit), adjust))
        except DivergenceError:
            reject()
    return found


def tame(found):
    """The oracle's results, where training does not run away: that doubles any rounding at each step."""
    assume(all(np.abs(trained.delta["params"]).max() < 100 for trained in found))
    return found


SIZES = st.lists(st.integers(0, 13), min_size=1, max_size=5)
HIDDEN = st.lists(st.integers(1, 9), max_size=2)
PLAIN = {"batch_size": st.integers(0, 6), "epochs": st.integers(1, 2), "drop_last": st.booleans()}
SGD = st.builds(
    LocalWork,
    lr=st.sampled_from([0.05, 0.3]),
    momentum=st.sampled_from([0.0, 0.9]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    clip_norm=st.none() | st.sampled_from([0.1, 1.0]),
    **PLAIN,
)
STEPS = st.builds(LocalWork, steps=st.integers(1, 5), batch_size=st.integers(0, 6))
NESTEROV = st.builds(LocalWork, momentum=st.just(0.8), nesterov=st.just(True), weight_decay=st.just(0.05), **PLAIN)
ADAM = st.builds(LocalWork, optimizer=st.sampled_from(["adam", "adamw"]), lr=st.just(0.01), **PLAIN)
LIMITS = st.none() | st.lists(st.integers(0, 6), min_size=5, max_size=5)
TASKS = st.sampled_from([("classification", 4), ("binary", 1), ("regression", 1)])


def equal(updates, expected, tolerance=2e-5):
    """The same facts, changes, norms and sum as the oracle's."""
    facts = updates.facts
    assert not facts.failures
    np.testing.assert_allclose(facts.loss, [e.loss for e in expected], rtol=1e-4, atol=1e-5)
    assert facts.examples.tolist() == [e.examples for e in expected]
    assert facts.steps.tolist() == [e.steps for e in expected]
    change = np.stack([e.delta["params"] for e in expected]).astype(np.float64)
    norms, factors = updates.norms(), np.linspace(0.5, 2.0, len(expected))
    np.testing.assert_allclose(norms, np.linalg.norm(change, axis=1), rtol=1e-3, atol=5e-5)
    np.testing.assert_allclose(updates.sum(factors)["params"], factors @ change, rtol=1e-3, atol=tolerance * 5)
    found = np.stack([e.delta["params"] for e in updates.results()])
    np.testing.assert_allclose(found, change, rtol=1e-3, atol=tolerance)
    places, rows = updates.block()
    np.testing.assert_allclose(rows["params"], change[places], rtol=1e-3, atol=tolerance)


@settings(deadline=None, max_examples=60)
@given(SIZES, HIDDEN, TASKS, st.sampled_from(sorted(ACTIVATIONS)), st.booleans(), SGD | STEPS | NESTEROV | ADAM, LIMITS)
def test_stacked_clients_train_as_alone(sizes, hidden, kind, activation, bias, local, limits):
    name, outputs = kind
    task, data = task_for(name), shards(sizes, (3, 2), name, outputs, limits=limits)
    module = network(6, hidden, outputs, activation, bias)
    params = FlatModel(module).params.clone()
    gradient = ChainGradient(chain_of(module), head_for(task))
    expected = tame(one_by_one(module, task, data, local))
    equal(train_stacked(params, data, local, gradient, None), expected)


@settings(deadline=None, max_examples=100)
@given(SIZES, HIDDEN, TASKS, st.sampled_from(sorted(ACTIVATIONS)), SGD | STEPS | NESTEROV, LIMITS, st.data())
def test_clients_that_share_their_start_train_as_alone(sizes, hidden, kind, activation, local, limits, draw):
    name, outputs = kind
    task, data = task_for(name), shards(sizes, (6,), name, outputs, limits=limits)
    module = network(6, hidden, outputs, activation)
    chain = chain_of(module)
    dense = [place for place, layer in enumerate(chain.links) if isinstance(layer, Dense)]
    low_rank = frozenset(place for place in dense if draw.draw(st.booleans()))
    params = FlatModel(module).params.clone()
    pull = draw.draw(st.sampled_from([0.0, 0.5])) if local.clip_norm is None else 0.0
    start = params.clone()
    adjust = (lambda grad, w: grad + pull * (w - start)) if pull else None
    expected = tame(one_by_one(module, task, data, local, adjust))
    equal(train_shared(chain, head_for(task), params, data, Rule(local, pull), low_rank), expected)


@pytest.mark.parametrize("kind", ["stacked", "shared"])
def test_clients_whose_numbers_overflow_fail_alone(kind):
    task, data = task_for("regression"), shards([4, 6, 5], (6,), "regression", 1)
    data.partition.x[4:10] *= np.float32(1e25)
    module, local = network(6, [5], 1), LocalWork(batch_size=2, epochs=2)
    params = FlatModel(module).params.clone()
    if kind == "stacked":
        found = train_stacked(params, data, local, ChainGradient(chain_of(module), head_for(task)), None)
    else:
        found = train_shared(chain_of(module), head_for(task), params, data, Rule(local), frozenset({0, 2}))
    assert list(found.facts.failures) == [1]
    assert found.facts.failures[1].kind == "non-finite"
    honest = [one_by_one(module, task, data, local)[0] for data in (shards([4, 6, 5], (6,), "regression", 1),)]
    total = found.sum(np.ones(3))["params"]
    assert np.isfinite(total).all()
    np.testing.assert_allclose(found.results()[0].delta["params"], honest[0].delta["params"], rtol=1e-3, atol=1e-5)
    assert found.results()[1] is None
    assert found.norms()[1] == 0


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rows_that_cancel_do_not_hide_how_long_an_update_is(scale, decay):
    """Large rows of which every third undoes two others: a norm from their products would be mostly rounding. What is
    clipped by its norm must be no longer in the sum."""
    task, data = task_for("regression"), shards([64, 5], (200,), "regression", 1)
    rows = data.partition
    rows.x[:40] *= np.float32(scale)
    rows.x[40:60] = rows.x[:20] + rows.x[20:40]
    rows.y[:40], rows.y[40:60], rows.x[60:64] = 1, -1, 0
    rows.y[0] += 10 / scale
    module, local = network(200, [], 1), LocalWork(lr=1.0, batch_size=0, weight_decay=decay)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    params = FlatModel(module).params.clone()
    found = train_shared(chain_of(module), head_for(task), params, data, Rule(local), frozenset({0}))
    summed = np.linalg.norm(found.sum(np.array([1.0, 0.0]))["params"].astype(np.float64))
    assert found.norms()[0] == pytest.approx(summed, rel=2**-11)
    places, block = found.block()
    lengths = np.linalg.norm(block["params"].astype(np.float64), axis=1)
    np.testing.assert_allclose(found.norms()[places], lengths, rtol=2**-11)


def test_the_recurrence_of_momentum_by_hand():
    """w1 = w0 - lr g0; w2 = w1 - lr (m g0 + g1): beta is (1 + m, 1) after two steps."""
    alpha, beta = recurrence(LocalWork(lr=0.1, momentum=0.5), 2)
    assert alpha.tolist() == [1, 1, 1]
    np.testing.assert_allclose(beta.numpy(), [[0, 0], [1, 0], [1.5, 1]], rtol=1e-6)


def test_the_recurrence_of_weight_decay_by_hand():
    """w1 = (1 - lr d) w0 - lr g0; w2 = (1 - lr d)^2 w0 - lr ((1 - lr d) g0 + g1), at lr d = 0.02."""
    alpha, beta = recurrence(LocalWork(lr=0.1, weight_decay=0.2), 2)
    np.testing.assert_allclose(alpha.numpy(), [1, 0.98, 0.9604], rtol=1e-6)
    np.testing.assert_allclose(beta.numpy(), [[0, 0], [1, 0], [0.98, 1]], rtol=1e-6)


MODELS = {
    "logreg": ("model=logreg", "tabular"),
    "mlp": ("model.name=mlp", "tabular"),
    "2nn": ("model=2nn", "image"),
    "cnn": ("model.name=cnn", "image"),
    "resnet": ("model.name=resnet", "image"),
    "char-lstm": ("model=char-lstm", "text"),
}
"""Each shipped classifier with data that it takes; `linear` is the chain of one layer above."""


def _dataset(kind):
    rng = np.random.default_rng(5)
    classes = ("a", "b", "c")
    if kind == "text":
        codes = rng.integers(0, 3, (60, 6))
        return Dataset("text", "next-character", codes[:, :-1].astype(np.int32), codes[:, 1:].astype(np.int32), classes)
    shape = (4,) if kind == "tabular" else (1, 8, 8)
    x = rng.standard_normal((60, *shape)).astype(np.float32)
    return Dataset(kind, "classification", x, rng.integers(0, 3, 60), classes)


def _round(partition, path, *overrides):
    named = ("cohort.sampling=all", "rounds=1", "local.batch_size=4", "local.lr=0.05", "eval.every=0", *overrides)
    run, _ = make_run(partition, path, *named)
    engine = InProcessEngine()
    with engine.open(run):
        rounds = Rounds(run, engine)
        state, report = rounds.play(rounds.initial(), last=lambda seconds: False)
    return state.params["params"] - rounds.initial().params["params"], report


SMALL = {"resnet": ("model.width=4", "model.blocks=[1]"), "cnn": ("model.channels=[2, 3]", "model.hidden=8")}
DENSE = {"shared", "stacked", "fused", "vmap"}
CAN = {"cnn": {"fused", "vmap"}, "resnet": {"vmap"}, "char-lstm": set()}


@pytest.mark.parametrize(
    "work", [(), ("local.optimizer=adam", "local.lr=0.001"), ("local.momentum=0.9", "local.clip_norm=0.5")]
)
@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_trains_alike_by_every_executor_that_can(name, work, tmp_path):
    model, kind = MODELS[name]
    owner = [0] * 7 + [1] * 20 + [2] * 3 + [3] * 30
    partition = write_partition(
        tmp_path / "p", _dataset(kind), Given(owner), PartitionSpec(clients=4, test_fraction=0.0, seed=1)
    )
    named = (model, *SMALL.get(name, ()), *work)
    expected, told = _round(partition, tmp_path / "oracle", *named, "engine.executor=sequential")
    can = CAN.get(name, DENSE) - ({"shared"} if work[:1] == ("local.optimizer=adam",) else set())
    for executor in sorted(DENSE - can):
        with pytest.raises(ConfigError, match="cannot train this run"):
            _round(partition, tmp_path / executor, *named, f"engine.executor={executor}")
    for executor in sorted(can):
        change, report = _round(partition, tmp_path / executor, *named, f"engine.executor={executor}")
        np.testing.assert_allclose(change, expected, rtol=2e-3, atol=2e-5)
        assert report.loss == pytest.approx(told.loss, rel=1e-4)
        assert (report.examples, report.bytes_up) == (told.examples, told.bytes_up)


NO_COMPILER = """
import sys
import torch
from torch import nn
from flctl.executors.loss_heads import head_for
from flctl.executors.vmapped import VmapGradient
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for

model = FlatModel(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)))
params, out = model.params.expand(2, -1).clone(), torch.zeros(2, model.params.numel())
x, y, share = torch.ones(2, 5, 4), torch.zeros(2, 5, dtype=torch.int64), torch.full((2, 5), 0.2)
VmapGradient(model, head_for(task_for("classification")))(params, x, y, share, out)
print(bool(out.any()), "torch._dynamo" in sys.modules)
"""


def test_gradients_under_vmap_do_not_import_the_compiler_of_torch():
    """It takes seconds to import, in every worker process."""
    assert prefork.run([sys.executable, "-c", NO_COMPILER], check=True).stdout == "True False\n"
