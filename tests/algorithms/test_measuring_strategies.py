"""Strategies for which clients measure the global model on all of their rows before they train."""

import numpy as np
import pytest
import torch
from support import checkpoint_digests, make_run, train_run

from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.algorithms.strategy import StepContext
from flctl.client.local_training import LocalTraining
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import IncompatibleError
from flctl.executors.sequential import measure
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.types import Aggregate, LocalWork, Start, Trained, Work

CTX = StepContext(round=1, seed=0, server=ServerOptimizer(), clients=2, examples=20)


def make(name, **options):
    return Registry().get("strategy", name).from_options(options)


def play(run, rounds):
    """The model after so many rounds, and the strategy's state."""
    with InProcessEngine().open(run) as engine:
        server = Rounds(run, engine or InProcessEngine())
        state = server.initial()
        for _ in range(rounds):
            state, _ = server.play(state, last=lambda seconds: False)
    return state


def oracle(weights, x, y):
    """(loss, gradient) of softmax regression in numpy and float64."""
    w, b = weights[: 3 * x.shape[1]].reshape(3, -1), weights[3 * x.shape[1] :]
    logits = x @ w.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    p -= np.eye(3)[y]
    return loss, np.concatenate([(p.T @ x / len(y)).ravel(), p.mean(0)])


def shards(toy):
    return [(x.astype(np.float64), y) for x, y in map(toy.train, range(toy.clients))]


def test_qfedavg_by_hand():
    """q = 1, lr = 0.5. a: loss 2, delta (1, 0), 10 rows: h = 2 + 1 / 0.5 = 4. b: loss 1, delta (0, 2), 30 rows:
    h = 1 + 4 / 0.5 = 9. w + (10 (2, 0) + 30 (0, 2)) / (10 * 4 + 30 * 9)."""
    fair, sums = make("qfedavg", q=1), {"delta": np.zeros(2), "h": np.zeros(1)}
    for loss, delta, rows in ((2.0, [1, 0], 10), (1.0, [0, 2], 30)):
        trained = Trained({"params": np.array(delta, np.float32)}, 9.0, rows, 1, start=Start(loss, None))
        vectors, weight, _ = fair.report(trained, Work(1, {}, {}, {}, LocalWork(lr=0.5), {}), {})
        sums = {name: sums[name] + weight * vectors[name] for name in sums}
    new, _ = fair.step({"params": np.ones(2, np.float32)}, Aggregate(sums, 40.0, 2), {}, CTX)
    np.testing.assert_allclose(new["params"], [1 + 20 / 310, 1 + 60 / 310], rtol=1e-6)
    assert not fair.reads_each


def test_qfedavg_of_losses_that_are_zero_stays_finite():
    for q in (0.0, 0.2, 1.0, 5.0):
        trained = Trained({"params": np.ones(2, np.float32)}, 0.0, 10, 1, start=Start(0.0, None))
        vectors, weight, _ = make("qfedavg", q=q).report(trained, Work(1, {}, {}, {}, LocalWork(), {}), {})
        sums = {name: weight * vector for name, vector in vectors.items()}
        new, _ = make("qfedavg", q=q).step({"params": np.ones(2, np.float32)}, Aggregate(sums, 10.0, 1), {}, CTX)
        assert np.isfinite(new["params"]).all()


def test_a_round_of_qfedavg_is_that_of_its_paper(toy, tmp_path):
    """One full-batch step each, so that delta_k = -lr grad F_k: everything follows from losses and gradients."""
    q, lr = 2.0, 0.3
    chosen = (f"strategy={{name: qfedavg, q: {q}}}", "local.batch_size=0", f"local.lr={lr}", "cohort.sampling=all")
    run, _ = make_run(toy, tmp_path / "run", *chosen)
    start = run.build_model().read()["params"].astype(np.float64)
    up, down = np.zeros_like(start), 0.0
    for x, y in shards(toy):
        loss, gradient = oracle(start, x, y)
        change = gradient  # Delta w_k = L (w - w_k), L = 1 / lr
        up += len(y) * loss**q * change
        down += len(y) * (q * loss ** (q - 1) * change @ change + loss**q / lr)
    np.testing.assert_allclose(play(run, 1).params["params"], start - up / down, rtol=1e-5, atol=1e-6)


def test_qfedavg_lifts_the_client_of_greatest_loss():
    """Two clients pull to opposite sides; the worse off wins as q grows."""
    places = []
    for q in (0, 1, 5):
        fair, sums = make("qfedavg", q=q), {"delta": 0.0, "h": 0.0}
        for loss, delta in ((3.0, 0.1), (0.5, -0.1)):
            trained = Trained({"params": np.array([delta], np.float32)}, 0.0, 10, 1, start=Start(loss, None))
            vectors, weight, _ = fair.report(trained, Work(1, {}, {}, {}, LocalWork(lr=1.0), {}), {})
            sums = {name: sums[name] + weight * vectors[name] for name in sums}
        places.append(
            float(fair.step({"params": np.zeros(1, np.float32)}, Aggregate(sums, 20.0, 2), {}, CTX)[0]["params"][0])
        )
    assert places[0] == pytest.approx(0, abs=1e-6)
    assert places[0] < places[1] < places[2] < 0.1


def test_mime_lite_is_centralised_momentum_where_nothing_is_local(toy, tmp_path):
    """One full-batch step on all clients: m <- (1 - b) g + b m after w <- w - lr ((1 - b) g + b m)."""
    beta, lr = 0.8, 0.5
    chosen = (f"strategy={{name: mime-lite, momentum: {beta}}}", "local.batch_size=0", f"local.lr={lr}")
    run, _ = make_run(toy, tmp_path / "run", *chosen, "cohort.sampling=all")
    w = run.build_model().read()["params"].astype(np.float64)
    m, parts = np.zeros_like(w), shards(toy)
    for _ in range(4):
        rows = sum(len(y) for _, y in parts)
        g = sum(len(y) / rows * oracle(w, x, y)[1] for x, y in parts)
        m = (1 - beta) * g + beta * m
        w = w - lr * m
    state = play(run, 4)
    np.testing.assert_allclose(state.params["params"], w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.strategy["momentum"], m, rtol=1e-4, atol=1e-6)


def test_mime_lite_steps_along_the_momentum_for_one_client_and_for_stacked_ones():
    mime, momentum = make("mime-lite", momentum=0.75), {"momentum": torch.tensor([4.0, 0.0])}
    work = Work(1, {}, momentum, {}, LocalWork(), {})
    torch.testing.assert_close(
        mime.adjust(torch.tensor([1.0, 2.0]), torch.zeros(2), work, {}), torch.tensor([3.25, 0.5])
    )
    stacked = mime.adjust(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.zeros(2, 2), work, {})
    torch.testing.assert_close(stacked, torch.tensor([[3.25, 0.5], [3.0, 0.0]]))


@pytest.mark.parametrize("chosen", ["name: qfedavg, q: 0", "name: mime-lite, momentum: 0"])
def test_without_their_idea_they_are_fedavg(toy, tmp_path, chosen):
    plain = train_run(toy, tmp_path / "plain", "local.epochs=2").summary["final"]
    found = train_run(toy, tmp_path / "run", f"strategy={{{chosen}}}", "local.epochs=2").summary["final"]
    assert found["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "key"), [("qfedavg", "optimizer=adam"), ("mime-lite", "optimizer=adam"), ("mime-lite", "momentum=0.9")]
)
def test_local_settings_that_break_their_promise_are_refused(toy, tmp_path, name, key):
    with pytest.raises(IncompatibleError, match=name):
        make_run(toy, tmp_path / "run", f"strategy={name}", f"local.{key}")


@pytest.mark.parametrize("executor", ["stacked", "vmap", "sequential", "fused"])
@pytest.mark.parametrize("batch", [0, 7])
@pytest.mark.parametrize("limit", [1, 400, 1 << 22])
def test_every_executor_measures_the_mean_over_all_rows(toy, tmp_path, monkeypatch, executor, batch, limit):
    """Whatever the batches, and however few clients are in memory at once."""
    monkeypatch.setattr("flctl.executors.initial_gradients._FLOATS", limit)
    chosen = ("strategy=mime-lite", f"local.batch_size={batch}", f"engine.executor={executor}", "local.steps=1")
    run, _ = make_run(toy, tmp_path / "run", *chosen)
    runtime = LocalTraining(run)
    params = run.build_model().read()
    work = Work(1, params, {}, {}, run.config.local.amount(), {})
    numbers = np.array([7, 0, 3, 9])
    found = runtime.executor.measure(work, runtime._shards(numbers, work, 0), gradient=True)
    for start, (x, y) in zip(found, [shards(toy)[k] for k in numbers], strict=True):
        loss, slope = oracle(params["params"].astype(np.float64), x, y)
        assert start.loss == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(start.gradient, slope, rtol=1e-4, atol=1e-6)
    (alone,) = runtime.executor.measure(work, runtime._shards(numbers[:1], work, 0), gradient=False)
    assert alone.loss == pytest.approx(found[0].loss, rel=1e-5)
    assert alone.gradient is None


def test_what_is_measured_is_without_dropout_and_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)
    )
    model, rng = FlatModel(net), np.random.default_rng(0)
    x, y = rng.normal(size=(2500, 4)).astype(np.float32), rng.integers(0, 3, 2500)
    before = model.read()
    found = measure(model, task_for("classification"), x, y, gradient=True)
    net.eval()
    loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
    assert found.loss == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(found.gradient, model.gradient(loss), rtol=1e-4, atol=1e-6)
    for name, vector in model.read().items():
        np.testing.assert_array_equal(vector, before[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qfedavg", "mime-lite"])
def test_executors_and_worker_processes_agree(toy, tmp_path, name):
    chosen = (f"strategy={name}", "local.epochs=2", "cohort.clients=6", "model=mlp")
    final = {}
    for executor in ("auto", "sequential"):
        found = train_run(toy, tmp_path / executor, *chosen, f"engine.executor={executor}").summary["final"]
        final[executor] = found["test_loss"]
    assert final["auto"] == pytest.approx(final["sequential"], rel=1e-4)
    train_run(toy, tmp_path / "two", *chosen, "engine.workers=2")
    assert checkpoint_digests(tmp_path / "auto") == checkpoint_digests(tmp_path / "two")
