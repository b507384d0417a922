"""Every registered strategy holds what the base class promises; new ones are tested by existing."""

import numpy as np
import pytest
import torch
from support import train_run

from flctl.registry import Registry
from flctl.server import ServerOptimizer
from flctl.strategy import StepContext, Strategy
from flctl.trainer import Trained
from flctl.types import Aggregate, ClientUpdate, LocalWork, Work

STRATEGIES = sorted(Registry().offers("strategy"))
CTX = StepContext(round=1, seed=0, server=ServerOptimizer())


def update(client: str, delta: list[float], weight: float) -> ClientUpdate:
    return ClientUpdate(client, {"delta": np.array(delta, np.float32)}, weight)


@pytest.fixture(params=STRATEGIES)
def strategy(request) -> Strategy:
    return Registry().get("strategy", request.param).from_options()


def test_two_clients_and_three_weights_by_hand():
    """w = (1, 2, 3); deltas (1, 0, 2) of 10 rows and (-1, 4, 0) of 30: mean (-0.5, 3, 0.5)."""
    fedavg = Registry().get("strategy", "fedavg").from_options()
    clients = [update("a", [1, 0, 2], 10), update("b", [-1, 4, 0], 30)]
    total = sum(c.weight * c.arrays["delta"] for c in clients)
    params = {"params": np.array([1, 2, 3], np.float32)}
    new, _ = fedavg.step(params, Aggregate({"delta": total}, 40.0, 2), {}, CTX)
    np.testing.assert_allclose(new["params"], [0.5, 5.0, 3.5])
    np.testing.assert_allclose(fedavg.combine(clients)["delta"], [-0.5, 3.0, 0.5])


def test_median_by_hand():
    median = Registry().get("strategy", "fedmedian").from_options()
    clients = [update("a", [1, 0, 9], 1), update("b", [2, 5, -9], 100), update("c", [3, 4, 0], 1)]
    np.testing.assert_allclose(median.combine(clients)["delta"], [2.0, 4.0, 0.0])


def test_proximal_term_by_hand():
    """grad + mu (w - w_t) = (1, 1) + 0.5 ((3, 2) - (1, 2)), for one client and for two stacked."""
    prox = Registry().get("strategy", "fedprox").from_options({"proximal_mu": 0.5})
    anchor = {"params": torch.tensor([1.0, 2.0])}
    work = Work(1, anchor, {}, {}, LocalWork(), {"delta": 2})
    one = prox.adjust(torch.ones(2), torch.tensor([3.0, 2.0]), work, {})
    torch.testing.assert_close(one, torch.tensor([2.0, 1.0]))
    stacked = prox.adjust(torch.ones(2, 2), torch.tensor([[3.0, 2.0], [1.0, 0.0]]), work, {})
    torch.testing.assert_close(stacked, torch.tensor([[2.0, 1.0], [1.0, 0.0]]))


def test_fedprox_without_pull_is_fedavg_bit_for_bit(toy, tmp_path):
    one = train_run(toy, tmp_path / "a", "strategy=fedavg", "local.epochs=2")
    other = train_run(toy, tmp_path / "b", "strategy.name=fedprox", "strategy.proximal_mu=0", "local.epochs=2")
    assert one.summary["final"] == other.summary["final"]


def test_fedprox_stays_nearer_to_the_global_model(toy, tmp_path):
    free = train_run(toy, tmp_path / "a", "rounds=1", "local.epochs=20", "strategy=fedavg")
    held = train_run(
        toy, tmp_path / "b", "rounds=1", "local.epochs=20", "strategy.name=fedprox", "strategy.proximal_mu=5"
    )
    assert held.summary["final"]["test_loss"] > free.summary["final"]["test_loss"]


def test_a_report_fits_what_the_strategy_says_it_sends(strategy):
    trained = Trained({"params": np.ones(5, np.float32), "buffers": np.ones(2, np.float32)}, 0.5, 7, 1)
    layout = {"params": 5, "buffers": 2}
    work = Work(1, {"params": np.zeros(5, np.float32)}, {}, {}, LocalWork(), strategy.sends(layout))
    arrays, weight, _ = strategy.report(trained, work, {})
    assert {name: a.size for name, a in arrays.items()} == dict(strategy.sends(layout))
    assert weight == 7.0


def test_nobody_answering_changes_nothing(strategy):
    params = {"params": np.arange(3, dtype=np.float32)}
    state = strategy.init(params)
    new, _ = strategy.step(params, Aggregate({"delta": np.zeros(3, np.float32)}, 0.0, 0), state, CTX)
    np.testing.assert_array_equal(new["params"], params["params"])


def test_combining_does_not_depend_on_the_order_of_clients(strategy):
    rng = np.random.default_rng(1)
    clients = [update(str(i), rng.normal(size=4).tolist(), float(i + 1)) for i in range(6)]
    np.testing.assert_allclose(
        strategy.combine(clients)["delta"], strategy.combine(clients[::-1])["delta"], rtol=1e-5, atol=1e-6
    )


def test_it_trains(strategy, toy, tmp_path):
    result = train_run(toy, tmp_path / "run", f"strategy.name={strategy.name}", "rounds=6", "local.epochs=3")
    assert result.status == "finished"
    assert result.summary["best"]["value"] > 0.5


def test_presets_of_the_server_can_be_overridden(toy, tmp_path):
    preset = train_run(toy, tmp_path / "a", "strategy=fedadam")
    changed = train_run(toy, tmp_path / "b", "strategy=fedadam", "server.lr=0.5")
    assert "lr: 0.01" in (tmp_path / "a" / "config.yaml").read_text()
    assert preset.summary["final"] != changed.summary["final"]
