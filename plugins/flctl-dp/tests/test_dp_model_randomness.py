"""Random numbers and state inside a model are part of the mechanism: dp-examples refuses them."""

import json

import numpy as np
import pytest
import torch
from flctl import IncompatibleError
from flctl.executors.per_example_steps import row_gradients
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.testing.trial import Trial

from flctl_dp.mechanisms.poisson_steps import PoissonSteps, row_bound
from flctl_dp.noise.entropy import secure_words
from flctl_dp.noise.lattice import Lattice

RANDOM = """
import numpy, random, torch
from torch import nn

class Numpy(nn.Module):
    def forward(self, x):
        return x * float(numpy.random.rand())

class Python(nn.Module):
    def forward(self, x):
        return x + random.random()

class Remembering(nn.Module):
    def forward(self, x):
        shifted = x - getattr(self, "last", 0.0)
        self.last = x.detach().mean()
        return shifted

class Small(nn.Module):
    # two passes are equal with probability 0.999
    def forward(self, x):
        return x + (torch.rand(()) < 0.0005)

class Often(nn.Module):
    # draws, and gives the same whatever it drew
    def forward(self, x):
        return x + 0 * torch.bernoulli(torch.full((1,), 0.5))

def net(layer):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), layer, nn.Linear(5, 3))

def dropout(data): return net(nn.Dropout(0.1))
def gaussian(data): return net(nn.RReLU())
def by_numpy(data): return net(Numpy())
def by_python(data): return net(Python())
def remembering(data): return net(Remembering())
def small(data): return net(Small())
def often(data): return net(Often())
def plain(data): return net(nn.Dropout(0.0))
"""


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "net.py").write_text(RANDOM)
    return Trial(tmp_path, "rounds=1", "local.batch_size=4", f"transforms.dp-examples={json.dumps({})}")


@pytest.mark.parametrize("way", ["rows-vmap", "rows-loop"])
@pytest.mark.parametrize("left_out", [0, 11])
def test_dropout_would_let_one_row_move_the_sum_beyond_the_clipping_norm(way, left_out):
    """The attack that the refusal is for: without row 0, every later row has the mask of another place."""
    torch.manual_seed(2)
    net = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(32, 3))
    model, task, clip = FlatModel(net), task_for("classification"), 0.5
    gradients, sigma = row_gradients(way, model, task, None, None), 2.0 * clip
    steps = PoissonSteps(12, 1, 12, row_bound(clip, 2.0, model.params.numel()), sigma, secure_words())
    x, y, every = torch.randn(12, 6) * 30, torch.randint(3, (12,)), torch.arange(12)
    cells = []
    for rows in (every, every[every != left_out]):
        torch.default_generator.manual_seed(5)  # as a client's training starts, from the run's seed
        cells.append(np.rint(gradients.total(x[rows], y[rows], steps.factors).numpy() / Lattice(sigma).cell))
    moved = np.linalg.norm(cells[0] - cells[1]) * Lattice(sigma).cell
    assert (moved > clip) == (left_out == 0)


@pytest.mark.parametrize("name", ["dropout", "gaussian", "by_numpy", "by_python", "remembering", "small", "often"])
def test_models_whose_output_depends_on_more_than_the_row_are_refused(trial, name):
    with pytest.raises(IncompatibleError, match=r"random numbers|depends on the rows before"):
        trial.prepare(f"model={(trial.directory / 'net.py').as_posix()}:{name}")


@pytest.mark.parametrize("model", ["{name: mlp, dropout: 0.1}", "{name: mlp, dropout: 0.001}"])
def test_built_in_models_with_dropout_are_refused(trial, model):
    with pytest.raises(IncompatibleError, match="draws random numbers") as refused:
        trial.prepare(f"model={model}")
    assert "dropout" in refused.value.hint


@pytest.mark.parametrize("model", ["mlp", "logreg", "net"])
def test_models_without_randomness_are_accepted(trial, model):
    path = f"{(trial.directory / 'net.py').as_posix()}:plain" if model == "net" else model
    trial.prepare(f"model={path}")
