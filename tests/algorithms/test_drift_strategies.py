"""Strategies that correct the drift of clients: by hand, against plain numpy, and in whole runs."""

import numpy as np
import pytest
import torch
from support import Given, checkpoint_digests, make_run, toy_dataset, train_run, untimed_lines
from support import played as play

from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.algorithms.strategy import StepContext
from flctl.errors import IncompatibleError
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.types import Aggregate, LocalWork, Trained, Work

DELTAS = (([1, 0, 2], 10, 2), ([-1, 4, 0], 30, 4))
"""(change, rows, steps) of two clients, for the numbers by hand."""


def make(name, **options):
    return Registry().get("strategy", name).from_options(options)


def one_round(strategy, examples, clients):
    """w = (1, 2, 3), lr 0.5, `DELTAS`, and a third client that is not asked: the model, the state, what each keeps."""
    params = {"params": np.array([1, 2, 3], np.float32)}
    state, sums, weights, kept = strategy.init(params), {}, 0.0, []
    for delta, rows, steps in DELTAS:
        work = Work(1, params, strategy.broadcast(state), {}, LocalWork(lr=0.5), strategy.sends({"params": 3}))
        memory = {name: np.zeros(n, np.float32) for name, n in strategy.remembers({"params": 3}).items()}
        trained = Trained({"params": np.array(delta, np.float32)}, 0.5, rows, steps)
        vectors, weight, remembered = strategy.report(trained, work, memory)
        sums = {name: sums.get(name, 0) + weight * vector for name, vector in vectors.items()}
        weights, kept = weights + weight, [*kept, remembered]
    ctx = StepContext(1, 0, ServerOptimizer(), clients=clients, examples=examples)
    new, state = strategy.step(params, Aggregate(sums, weights, 2), state, ctx)
    return new["params"], state, kept


def test_scaffold_by_hand():
    """c_a = -(1, 0, 2) / (2 * 0.5), c_b = -(-1, 4, 0) / (4 * 0.5); c = (10 c_a + 30 c_b) / 60; w as fedavg's."""
    new, state, kept = one_round(make("scaffold"), examples=60, clients=3)
    np.testing.assert_allclose([one["control"] for one in kept], [[-1, 0, -2], [0.5, -2, 0]])
    np.testing.assert_allclose(state["control"], [5 / 60, -1, -1 / 3], rtol=1e-6)
    np.testing.assert_allclose(new, [0.5, 5.0, 3.5])


def test_scaffold_of_its_paper_by_hand():
    """All alike: c = (c_a + c_b) / 3, and w moves by the plain mean (0, 2, 1)."""
    new, state, _ = one_round(make("scaffold", weighted=False), examples=60, clients=3)
    np.testing.assert_allclose(state["control"], [-1 / 6, -2 / 3, -2 / 3], rtol=1e-6)
    np.testing.assert_allclose(new, [1, 4, 4])


def test_feddyn_by_hand():
    """g_k = -0.5 delta_k; h = -0.5 (0, 4, 2) / 3; w + (0, 2, 1) - h / 0.5."""
    new, state, kept = one_round(make("feddyn", alpha=0.5), examples=60, clients=3)
    np.testing.assert_allclose([one["gradient"] for one in kept], [[-0.5, 0, -1], [0.5, -2, 0]])
    np.testing.assert_allclose(state["h"], [0, -2 / 3, -1 / 3], rtol=1e-6)
    np.testing.assert_allclose(new, [1, 2 + 2 + 4 / 3, 3 + 1 + 2 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("scaffold", [2.0 - 0.5 + 3.0, -1.0 - 1.0 - 1.0]), ("feddyn", [2.0 - 0.5 + 0.1 * 3, -1.0 - 1.0 + 0.1 * -2])],
)
def test_the_gradient_is_corrected_for_one_client_and_for_stacked_ones(name, expected):
    """grad - c_k + c, and grad - g_k + alpha (w - w_t), at grad (2, -1), own (0.5, 1), c (3, -1), w - w_t (3, -2)."""
    strategy = make(name)
    work = Work(
        1, {"params": torch.tensor([1.0, 1.0])}, {"control": torch.tensor([3.0, -1.0])}, {}, LocalWork(), {"delta": 2}
    )
    (kept,) = strategy.remembers({"params": 2})
    grad, weights, own = torch.tensor([2.0, -1.0]), torch.tensor([4.0, -1.0]), torch.tensor([0.5, 1.0])
    found = strategy.adjust(grad.clone(), weights, work, {kept: own})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    stacked = strategy.adjust(grad.repeat(2, 1), weights.repeat(2, 1), work, {kept: torch.stack([own, own + 1])})
    np.testing.assert_allclose(stacked, [expected, np.subtract(expected, 1)], rtol=1e-6)


def test_the_first_round_of_scaffold_is_fedavg_bit_for_bit(toy, tmp_path):
    alike = ("rounds=1", "local.epochs=3", "engine.executor=sequential")
    models = {}
    for name in ("fedavg", "scaffold"):
        train_run(toy, tmp_path / name, f"strategy={name}", *alike)
        found = checkpoint_digests(tmp_path / name)
        models[name] = {file: digest for file, digest in found.items() if "model" in file}
    assert models["fedavg"] == models["scaffold"]


@pytest.mark.parametrize("key", ["optimizer=adam", "optimizer=adamw", "momentum=0.9"])
def test_scaffold_refuses_local_steps_that_are_not_gradients(toy, tmp_path, key):
    with pytest.raises(IncompatibleError, match=r"scaffold computes gradients from the delta of plain sgd"):
        make_run(toy, tmp_path / "run", "strategy=scaffold", f"local.{key}")


def played(run, rounds):
    """The state after so many rounds, the cohort of each, and what each client that took part remembers."""
    server, state, cohorts = play(run, rounds)
    memory, known = server.memory.read(np.arange(run.partition.clients), rounds + 1)
    return state, cohorts, {name: rows[known] for name, rows in memory.items()}


def gradient(weights, x, y):
    """Of the mean loss of softmax regression, in float64."""
    w, b = weights[: 3 * x.shape[1]].reshape(3, -1), weights[3 * x.shape[1] :]
    p = np.exp(x @ w.T + b)
    p /= p.sum(1, keepdims=True)
    p -= np.eye(3)[y]
    return np.concatenate([(p.T @ x / len(y)).ravel(), p.mean(0)])


def rows_of(partition):
    return [(x.astype(np.float64), y) for x, y in map(partition.train, range(partition.clients))]


LR, STEPS = 0.2, 3
CHOSEN = (f"local={{steps: {STEPS}, batch_size: 0, lr: {LR}}}", "cohort.clients=4", "seed=5")


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("executor", ["stacked", "sequential"])
def test_scaffold_is_that_of_plain_numpy(toy, tmp_path, weighted, executor):
    chosen = (f"strategy={{name: scaffold, weighted: {weighted}}}", f"engine.executor={executor}")
    run, _ = make_run(toy, tmp_path / "run", *chosen, *CHOSEN)
    state, cohorts, memory = played(run, 3)
    w = run.build_model().read()["params"].astype(np.float64)
    data, c, own = rows_of(toy), np.zeros_like(w), {}
    share = np.array([len(y) for _, y in data], float) if weighted else np.ones(len(data))
    for cohort in cohorts:
        moves, total = np.zeros_like(w), np.zeros_like(w)
        for k in cohort:
            v, before = w.copy(), own.get(k, np.zeros_like(w))
            for _ in range(STEPS):
                v -= LR * (gradient(v, *data[k]) - before + c)
            own[k] = before - c + (w - v) / (STEPS * LR)
            moves += share[k] * (v - w)
            total += share[k] * (own[k] - before)
        w, c = w + moves / share[cohort].sum(), c + total / share.sum()
    np.testing.assert_allclose(state.params["params"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.strategy["control"], c, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(memory["control"], [own[k] for k in sorted(own)], rtol=1e-3, atol=1e-5)
    mean = sum(share[k] * own[k] for k in own) / share.sum()
    np.testing.assert_allclose(state.strategy["control"], mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("executor", ["stacked", "sequential"])
def test_feddyn_is_that_of_plain_numpy(toy, tmp_path, executor):
    alpha = 0.3
    chosen = (f"strategy={{name: feddyn, alpha: {alpha}}}", f"engine.executor={executor}")
    run, _ = make_run(toy, tmp_path / "run", *chosen, *CHOSEN)
    state, cohorts, memory = played(run, 3)
    w = run.build_model().read()["params"].astype(np.float64)
    data, h, own = rows_of(toy), np.zeros_like(w), {}
    for cohort in cohorts:
        ends = []
        for k in cohort:
            v, before = w.copy(), own.get(k, np.zeros_like(w))
            for _ in range(STEPS):
                v -= LR * (gradient(v, *data[k]) - before + alpha * (v - w))
            own[k] = before - alpha * (v - w)
            ends.append(v)
        h = h - alpha / len(data) * sum(end - w for end in ends)
        w = np.mean(ends, axis=0) - h / alpha
    np.testing.assert_allclose(state.params["params"], w, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.strategy["h"], h, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(memory["gradient"], [own[k] for k in sorted(own)], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_worker_processes_give_the_same_bits(toy, tmp_path, name):
    chosen = (f"strategy={name}", "local.epochs=2", "cohort.clients=6")
    train_run(toy, tmp_path / "one", *chosen)
    train_run(toy, tmp_path / "two", *chosen, "engine.workers=2")
    assert checkpoint_digests(tmp_path / "one") == checkpoint_digests(tmp_path / "two")
    assert untimed_lines(tmp_path / "one") == untimed_lines(tmp_path / "two")


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """Clients of 20 and of 60 rows, most of them of one class."""
    owner = np.repeat(np.arange(6), [20, 60] * 3)
    data = toy_dataset(len(owner))
    order = np.argsort((data.y + np.random.default_rng(0).integers(0, 4, len(owner)) // 3) % 3, kind="stable")
    owners = np.empty(len(owner), np.int64)
    owners[order] = owner
    path = tmp_path_factory.mktemp("skewed") / "parts"
    return write_partition(path, data, Given(owners), PartitionSpec(clients=6, test_fraction=0.0, seed=3))


@pytest.mark.parametrize(
    ("strategy", "weighted"),
    [("scaffold", True), ("{name: scaffold, weighted: false}", False), ("{name: feddyn, alpha: 0.3}", False)],
)
def test_it_stands_still_where_the_whole_gradient_is_zero_and_fedavg_elsewhere(skewed, tmp_path, strategy, weighted):
    """What it is for: many local steps on data that differ, and yet the minimum of the mean of the clients' losses
    (weighted by their rows, or not), which fedavg misses. A little weight decay makes it one point."""
    data = rows_of(skewed)
    share = np.array([len(y) if weighted else 1 for _, y in data], float)
    share /= share.sum()

    def slope(chosen):
        local = "local={steps: 10, batch_size: 0, lr: 0.3, weight_decay: 0.1}"
        run, _ = make_run(skewed, tmp_path / chosen.split()[-1], f"strategy={chosen}", local, "cohort.sampling=all")
        w = played(run, 40)[0].params["params"].astype(np.float64)
        return np.linalg.norm(sum(p * (gradient(w, *rows) + 0.1 * w) for p, rows in zip(share, data, strict=True)))

    assert slope(strategy) < 1e-3
    assert slope("fedavg") > 1e-2
