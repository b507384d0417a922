"""Local optimisers against torch.optim, step by step."""

from dataclasses import replace

import pytest
import torch

from flctl.errors import ConfigError
from flctl.executors.optimizers import OPTIMIZERS, optimizer_for
from flctl.types import LocalWork

ORACLES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CASES = [
    LocalWork(lr=0.1),
    LocalWork(lr=0.1, weight_decay=0.01),
    LocalWork(lr=0.05, momentum=0.9),
    LocalWork(lr=0.05, momentum=0.9, weight_decay=0.01),
    LocalWork(lr=0.05, momentum=0.9, nesterov=True),
    LocalWork(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    LocalWork(optimizer="adam", lr=0.01),
    LocalWork(optimizer="adam", lr=0.01, weight_decay=0.1, beta_1=0.8, beta_2=0.95, eps=1e-6),
    LocalWork(optimizer="adamw", lr=0.01),
    LocalWork(optimizer="adamw", lr=0.01, weight_decay=0.1),
]


def oracle(local, params):
    options = {"lr": local.lr, "weight_decay": local.weight_decay}
    if local.optimizer == "sgd":
        return torch.optim.SGD([params], momentum=local.momentum, nesterov=local.nesterov, **options)
    return ORACLES[local.optimizer]([params], betas=(local.beta_1, local.beta_2), eps=local.eps, **options)


@pytest.mark.parametrize("local", CASES, ids=lambda w: f"{w.optimizer}-m{w.momentum}-n{w.nesterov}-wd{w.weight_decay}")
def test_fifty_steps_equal_torch(local):
    generator = torch.Generator().manual_seed(3)
    expected = torch.randn(40, generator=generator)
    params, target = expected.clone(), torch.randn(40, generator=generator)
    ours, theirs = optimizer_for(local), oracle(local, expected)
    for _ in range(50):
        noise = torch.randn(40, generator=generator)
        ours.step(params, params - target + noise)
        expected.grad = expected - target + noise
        theirs.step()
    torch.testing.assert_close(params, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("local", CASES[2::2], ids=lambda w: f"{w.optimizer}-m{w.momentum}-n{w.nesterov}")
def test_stacked_clients_step_as_each_alone(local):
    generator = torch.Generator().manual_seed(4)
    stacked = torch.randn(3, 8, generator=generator)
    alone = [row.clone() for row in stacked]
    together, each = optimizer_for(local), [optimizer_for(local) for _ in alone]
    for _ in range(5):
        grad = torch.randn(3, 8, generator=generator)
        for one, row, part in zip(each, alone, grad.clone(), strict=True):
            one.step(row, part)
        together.step(stacked, grad)
    assert torch.equal(stacked, torch.stack(alone))


def test_every_optimizer_has_an_oracle():
    assert OPTIMIZERS.keys() == ORACLES.keys() == {case.optimizer for case in CASES}


def test_an_unknown_optimizer_and_nesterov_without_momentum_are_refused():
    with pytest.raises(ConfigError, match="unknown optimizer 'lion'"):
        optimizer_for(LocalWork(optimizer="lion"))
    with pytest.raises(ConfigError, match="nesterov needs momentum"):
        optimizer_for(replace(CASES[0], nesterov=True))
