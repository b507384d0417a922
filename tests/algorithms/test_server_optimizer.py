"""Server optimisers against numbers worked out by hand and against torch."""

import numpy as np
import pytest
import torch

from flctl.algorithms.server_optimizer import ServerOptimizer

W = np.array([1.0, -2.0, 0.5], np.float32)
D = np.array([0.5, 0.25, -1.0], np.float32)


def run(optimizer: ServerOptimizer, deltas: list[np.ndarray]) -> np.ndarray:
    weights, state = W, {}
    for delta in deltas:
        weights, state = optimizer.step(weights, delta, state)
    return weights


def test_sgd_at_one_adds_the_mean_delta():
    np.testing.assert_array_equal(run(ServerOptimizer(), [D]), W + D)


def test_momentum_by_hand():
    # m1 = D, m2 = 0.5 D + D; w = W + 2 (D + 1.5 D)
    found = run(ServerOptimizer("momentum", lr=2.0, momentum=0.5), [D, D])
    np.testing.assert_allclose(found, W + 5.0 * D, rtol=1e-6)


def test_adagrad_by_hand():
    # v1 = tau^2 + D^2, m1 = D
    found = run(ServerOptimizer("adagrad", lr=0.1, tau=0.5), [D])
    np.testing.assert_allclose(found, W + 0.1 * D / (np.sqrt(0.25 + D**2) + 0.5), rtol=1e-6)


def test_yogi_by_hand():
    # v0 = 0.25: where D^2 is above it, v grows by (1 - beta_2) D^2, else it shrinks by that.
    optimizer = ServerOptimizer("yogi", lr=1.0, beta_1=0.0, beta_2=0.9, tau=0.5)
    v = 0.25 - 0.1 * D**2 * np.sign(0.25 - D**2)
    np.testing.assert_allclose(run(optimizer, [D]), W + D / (np.sqrt(v) + 0.5), rtol=1e-6)


def test_adam_is_torchs_adam_without_bias_correction():
    """torch corrects the bias by lr_t = lr sqrt(1 - b2^t) / (1 - b1^t); undone here, with v from 0, both agree."""
    optimizer = ServerOptimizer("adam", lr=0.01, beta_1=0.9, beta_2=0.99, tau=1e-6)
    rng = np.random.default_rng(0)
    deltas = [rng.normal(size=3).astype(np.float32) for _ in range(20)]
    weights, state = W, {"server.v": np.zeros(3, np.float32)}
    parameter = torch.nn.Parameter(torch.tensor(W))
    oracle = torch.optim.Adam([parameter], betas=(0.9, 0.99), eps=1e-6)
    for step, delta in enumerate(deltas, 1):
        weights, state = optimizer.step(weights, delta, state)
        correction = np.sqrt(1 - 0.99**step)
        oracle.param_groups[0].update(lr=0.01 * (1 - 0.9**step) / correction, eps=1e-6 / correction)
        parameter.grad = -torch.tensor(delta)
        oracle.step()
    np.testing.assert_allclose(weights, parameter.detach().numpy(), rtol=1e-4)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "yogi"])
def test_slots_stay_float32_and_a_zero_delta_from_the_start_moves_nothing(name):
    weights, state = ServerOptimizer(name).step(W, np.zeros(3, np.float32), {})
    np.testing.assert_array_equal(weights, W)
    assert all(slot.dtype == np.float32 for slot in state.values())
    assert weights.dtype == np.float32
