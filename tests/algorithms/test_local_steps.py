"""Local steps that a transform makes: sums of rows' own gradients, and runs through them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import flctl
from flctl.errors import IncompatibleError
from flctl.executors.batches import batches
from flctl.executors.layer_chain import chain_of
from flctl.executors.loss_heads import head_for
from flctl.executors.per_example_steps import row_gradients
from flctl.executors.shards import LocalJob
from flctl.models import MODELS
from flctl.models.flat_model import FlatModel
from flctl.models.model import DataSpec
from flctl.models.tasks import task_for
from flctl.testing.parts import here
from flctl.testing.trial import Trial

IMAGES, TABLE, TEXT = ("classification", (1, 8, 8), 10), ("classification", (6,), 3), ("next-character", (7,), 11)
SHIPPED = {
    "logreg": (IMAGES, {}, ("rows-chain", "rows-vmap")),
    "linear": (("regression", (6,), 1), {}, ("rows-chain", "rows-vmap")),
    "mlp": (("binary", (6,), 1), {"activation": "tanh"}, ("rows-chain", "rows-vmap")),
    "2nn": (TABLE, {}, ("rows-chain", "rows-vmap")),
    "cnn": (IMAGES, {"channels": [4, 8], "hidden": 16}, ("rows-vmap",)),
    "resnet": (IMAGES, {"width": 4, "blocks": [1, 1]}, ("rows-vmap",)),
    "char-lstm": (TEXT, {"hidden": 8, "embedding": 4}, ("rows-loop",)),
}


def model_of(name):
    (kind, shape, outputs), options, ways = SHIPPED[name]
    torch.manual_seed(3)
    built = next(model for model in MODELS if model.name == name).from_options(options)
    return FlatModel(built.build(DataSpec(kind, shape, outputs))), task_for(kind), shape, outputs, ways


def rows_of(task, shape, outputs, count):
    generator = torch.Generator().manual_seed(4)
    if task.name == "next-character":
        codes = torch.randint(outputs, (2, count, *shape), generator=generator)
        codes[1, 0, 3:] = -1
        return codes[0], codes[1]
    x = torch.randn(count, *shape, generator=generator)
    if task.name == "regression":
        return x, torch.randn(count, generator=generator)
    return x, torch.randint(max(outputs, 2), (count,), generator=generator)


def one_by_one(model, task, x, y, bound):
    """The clipped sum by the definition: a backward pass for each row."""
    total = torch.zeros(model.params.numel(), dtype=torch.float64)
    for row in range(len(x)):
        grad = model.gradient(task.loss(model.module(x[row : row + 1]), y[row : row + 1])).double()
        total += grad * min(1.0, bound / float(grad.norm()))
    return total


def clipped(bound):
    return lambda norms: bound / np.maximum(norms, bound)


def ways_of(name):
    model, task, shape, outputs, ways = model_of(name)
    chain = chain_of(model.module)
    return model, task, shape, outputs, [row_gradients(way, model, task, chain, head_for(task)) for way in ways]


def test_every_shipped_model_is_among_those_that_are_tried():
    assert {model.name for model in MODELS} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_clipped_sums_are_those_of_one_backward_pass_for_each_row(name):
    model, task, shape, outputs, gradients = ways_of(name)
    x, y = rows_of(task, shape, outputs, 7)
    alone = torch.stack([one_by_one(model, task, x[k : k + 1], y[k : k + 1], 1e9) for k in range(7)])
    bound = float(alone.norm(dim=1).median())  # some rows are clipped, and some are not
    expected = one_by_one(model, task, x, y, bound)
    for way in gradients:
        assert torch.allclose(way.total(x, y, clipped(bound)), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(way.total(x[:0], y[:0], clipped(bound)), torch.zeros_like(expected))


@pytest.mark.parametrize("name", ["logreg", "mlp", "2nn", "cnn", "resnet"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38, 1e20, 1e-42, 0.0])
def test_no_row_adds_more_than_the_bound_and_none_spoils_others(name, value):
    _, task, shape, outputs, gradients = ways_of(name)
    x, y = rows_of(task, shape, outputs, 5)
    x[2] = value
    others = [0, 1, 3, 4]
    for way in gradients:
        without, together = (way.total(x[r], y[r], clipped(0.25)) for r in (others, [0, 1, 2, 3, 4]))
        assert torch.isfinite(together).all()
        assert float((together - without).norm()) <= 0.25 * (1 + 1e-4)


@pytest.mark.parametrize("way", ["rows-vmap", "rows-loop"])
def test_rows_are_taken_in_parts_that_fit(way, monkeypatch):
    from flctl.executors import per_example_gradients as module

    model, task, shape, outputs, _ = model_of("cnn")
    x, y = rows_of(task, shape, outputs, 7)
    expected = one_by_one(model, task, x, y, 0.5)
    monkeypatch.setattr(module, "TOGETHER_BYTES", 3 * 12 * model.params.numel())
    monkeypatch.setattr(module, "_COLUMNS", 100)
    found = row_gradients(way, model, task, None, None).total(x, y, clipped(0.5))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


class Ordinary(flctl.LocalSteps):
    """The batches and mean gradients of ordinary training."""

    def __init__(self, ctx):
        self.ctx = ctx
        self.size = 1

    def batches(self):
        for rows in batches(self.ctx.rows, self.ctx.local, self.key()):
            self.size = len(rows)
            yield rows

    def key(self):
        from flctl.executors.batches import local_keys

        ctx = self.ctx
        return local_keys(ctx.run.config.seed, ctx.round, ctx.run.partition.client_ids.take(np.array([ctx.number])))[0]

    def factors(self, norms):
        return np.ones_like(norms)

    def gradient(self, total):
        return total / self.size


PLUGIN = """
import flctl
import numpy as np
from test_local_steps import Ordinary

class Stepping(flctl.Transform):
    '''Steps like those that it takes the place of.'''
    name = "stepping"

    def steps(self, ctx):
        assert (ctx.batch_size, ctx.steps) == (min(4, ctx.rows), -(-ctx.rows // 4)), ctx
        return Ordinary(ctx)

class Stuck(flctl.Transform):
    '''No steps at all.'''
    name = "stuck"

    def steps(self, ctx):
        return 3

class Beyond(flctl.Transform):
    '''Rows that are not there.'''
    name = "beyond"

    def steps(self, ctx):
        steps = Ordinary(ctx)
        steps.batches = lambda: [np.array([ctx.rows])]
        return steps
"""


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "steps.py").write_text(PLUGIN)
    return Trial(tmp_path, "local.batch_size=4")


def stepping(trial, name="Stepping"):
    return f"transforms=['{(trial.directory / 'steps.py').as_posix()}:{name}']"


@pytest.mark.parametrize(
    "more",
    [
        ["local.lr=0.2"],
        ["local.momentum=0.9", "local.nesterov=true", "local.weight_decay=0.01"],
        ["local.optimizer=adam", "local.lr=0.01"],
        ["local.clip_norm=0.3"],
        ["strategy=fedprox", "strategy.proximal_mu=0.5"],
        ["strategy=scaffold"],
        ["strategy=fednova", "local.momentum=0.5"],
        ["model=mlp", "model.hidden=[5]"],
        ["aggregator=" + here("Hiding")],
    ],
    ids=" ".join,
)
def test_steps_like_the_ordinary_ones_give_the_ordinary_model(trial, more):
    """The rows' gradients, added up and divided by their number, are that of the mean loss."""
    expected = trial.train(*more)
    found = trial.train(stepping(trial), *more)
    assert np.allclose(found.weights, expected.weights, rtol=1e-4, atol=1e-5)


def test_a_run_says_how_it_trains_and_measures_no_loss(trial):
    from flctl.server.training import train

    run, directory = trial.prepare(stepping(trial))
    assert run.execution.executor == "rows-chain"
    assert "makes the local steps" in run.execution.why
    assert run.execution.alone
    assert set(run.execution.others) == {"shared", "stacked", "fused", "vmap", "sequential"}
    train(run, directory)
    assert [line["loss"] for line in directory.lines()] == [None, None]
    assert directory.lines()[0]["examples"] > 0


@pytest.mark.slow
def test_the_bits_are_the_same_in_worker_processes_and_after_a_resume(trial):
    plain = trial.train(stepping(trial))
    assert trial.train(stepping(trial), "engine={name: pool, workers: 2}").digests == plain.digests
    assert trial.train_in_two(stepping(trial)).digests == plain.digests


@pytest.mark.parametrize("name", ["Stuck", "Beyond"])
def test_steps_that_are_none_fail_the_client(trial, name):
    with pytest.raises(flctl.RoundFailedError, match="expected"):
        trial.train(stepping(trial, name))


NORMED = """
import torch

def net(data):
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
"""


def test_models_that_mix_rows_are_refused(trial):
    (trial.directory / "net.py").write_text(NORMED)
    with pytest.raises(IncompatibleError, match="mix rows"):
        trial.prepare(stepping(trial), f"model={(trial.directory / 'net.py').as_posix()}:net")


def test_two_that_make_the_steps_are_refused(trial):
    file = (trial.directory / "steps.py").as_posix()
    with pytest.raises(IncompatibleError, match="each make"):
        trial.prepare(f"transforms=['{file}:Stepping', '{file}:Stuck']")


def test_an_executor_that_cannot_is_refused_with_the_reason(trial):
    with pytest.raises(flctl.ConfigError, match="per-example gradients"):
        trial.prepare(stepping(trial), "engine={name: inprocess, executor: sequential}")


def test_models_whose_rows_depend_on_those_before_are_refused(trial):
    """A mask of dropout follows the row's position in the batch: one row more changes all later gradients."""
    with pytest.raises(IncompatibleError, match="draws random numbers"):
        trial.prepare(stepping(trial), "model=mlp", "model.dropout=0.5")


def test_an_empty_step_moves_by_what_the_transform_says():
    from flctl.executors.per_example_steps import train_by_rows
    from flctl.types import LocalWork

    class Nobody(Ordinary):
        def batches(self):
            return [np.zeros(0, np.int64)] * 3

        def gradient(self, total):
            assert not total.any()
            return total + 2.0

    model = FlatModel(nn.Linear(2, 1))
    task = task_for("regression")
    way = row_gradients("rows-loop", model, task, None, None)
    rows = np.ones((4, 2), np.float32), np.ones(4, np.float32)
    trained = train_by_rows(model, way, LocalJob(*rows, LocalWork(lr=0.1), np.uint64(1), most=2), Nobody(None))
    assert np.allclose(trained.delta["params"], -0.4)
    assert (trained.steps, trained.examples) == (2, 4)
    assert math.isnan(trained.loss)
