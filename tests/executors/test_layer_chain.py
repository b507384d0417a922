"""Chains of layers and loss heads, against the modules and the losses that they describe."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from flctl.executors.layer_chain import ACTIVATIONS, Activation, Chain, Convolution, Dense, Flat, MaxPool, chain_of
from flctl.executors.loss_heads import head_for
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for


def small():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, (5, 3), (2, 1), padding=(2, 1), bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(12, 4), nn.Identity(), nn.GELU("tanh"), nn.Dropout(0.0)),
        nn.Linear(4, 2),
    )


def test_a_chain_names_each_layer_and_where_its_parameters_lie():
    """Conv 3 x 1 x 5 x 3 = 45 weights; linear 4 x 12 = 48 and 4; linear 2 x 4 = 8 and 2: 107 in all."""
    assert chain_of(small()) == Chain(
        (
            Convolution(slice(0, 45), None, 1, 3, (5, 3), (2, 1), (2, 1)),
            Activation("relu"),
            MaxPool((2, 2)),
            Flat(),
            Dense(slice(45, 93), slice(93, 97), 12, 4),
            Activation("gelu-tanh"),
            Dense(slice(97, 105), slice(105, 107), 4, 2),
        ),
        107,
    )


def evaluated(chain, params, x):
    """The chain's outputs by torch's functions, from what the chain says alone."""

    def bias(layer):
        return None if layer.bias is None else params[layer.bias]

    for layer in chain.layers:
        match layer:
            case Dense():
                x = functional.linear(x, params[layer.weight].view(layer.outputs, layer.inputs), bias(layer))
            case Convolution():
                weight = params[layer.weight].view(layer.outputs, layer.inputs, *layer.kernel)
                x = functional.conv2d(x, weight, bias(layer), layer.stride, layer.padding)
            case MaxPool():
                x = functional.max_pool2d(x, layer.kernel)
            case Flat():
                x = x.flatten(1)
            case Activation():
                x = ACTIVATIONS[layer.name].forward(x)
    return x


FITTING = {
    "nested": (small(), (1, 7, 5)),
    "linear": (nn.Linear(5, 3), (5,)),
    "linear without bias": (nn.Linear(5, 3, bias=False), (5,)),
    "flatten twice": (nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.Flatten(), nn.Sigmoid()), (2, 3)),
    "one activation twice": (nn.Sequential(nn.Linear(3, 3), act := nn.Tanh(), nn.Linear(3, 2), act), (3,)),
    "same": (nn.Sequential(nn.Conv2d(2, 3, (3, 5), padding="same"), nn.GELU(), nn.Flatten()), (2, 4, 6)),
    "valid": (nn.Sequential(nn.Conv2d(2, 3, (2, 3), padding="valid"), nn.MaxPool2d((1, 2))), (2, 4, 6)),
}


@pytest.mark.parametrize("name", FITTING)
def test_a_chain_computes_what_its_module_computes(name):
    module, shape = FITTING[name]
    model, x = FlatModel(copy.deepcopy(module)), torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    chain = chain_of(model.module)
    expected = model.module(x)
    assert torch.equal(evaluated(chain, model.params, x), expected)
    assert chain.parameters == model.params.numel()
    assert chain.shapes(shape)[-1] == expected.shape[1:]


def test_shapes_are_those_after_each_layer_or_none_where_a_layer_does_not_fit():
    """7 x 5, padded to 11 x 7, kernel 5 x 3, stride 2 x 1: 4 x 5; its pool drops the last column: 2 x 2."""
    chain = chain_of(small())
    assert chain.shapes((1, 7, 5)) == ((3, 4, 5), (3, 4, 5), (3, 2, 2), (12,), (4,), (4,), (2,))
    for wrong in ((2, 7, 5), (1, 1, 1), (1, 20, 5), (7, 5), (12,), ()):
        assert chain.shapes(wrong) is None
    assert chain_of(nn.Linear(3, 2)).shapes((4, 3)) is None


def test_only_linear_layers_and_activations_make_a_dense_chain():
    assert chain_of(nn.Linear(2, 2)).dense
    assert chain_of(nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Flatten(), nn.ReLU(), nn.Linear(2, 1))).dense
    assert not chain_of(small()).dense
    assert not chain_of(nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 1))).dense


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    return module


def with_hook(register):
    module = nn.Sequential(nn.Linear(3, 3))
    getattr(module[0], register)(lambda *arguments: None)
    return module


def frozen():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[0].bias.requires_grad_(False)
    return module


def extra_parameter():
    module = nn.Sequential(nn.Linear(3, 3))
    module.scale = nn.Parameter(torch.ones(()))
    return module


def hooked_parameter():
    module = nn.Linear(3, 3)
    module.weight.register_hook(lambda grad: 2 * grad)
    return module


def replaced_forward():
    module = nn.Linear(3, 3)
    module.forward = lambda x: x
    return module


def buffer():
    module = nn.Linear(3, 3)
    module.register_buffer("count", torch.zeros(()))
    return module


def repeated():
    return nn.Sequential(layer := nn.Linear(3, 3), layer)


LINEAR = nn.Linear(3, 3)
OTHERS = {
    "subclass": lambda: nn.Sequential(Doubled(3, 3)),
    "tied": tied,
    "repeated": repeated,
    "forward hook": lambda: with_hook("register_forward_hook"),
    "forward pre-hook": lambda: with_hook("register_forward_pre_hook"),
    "backward hook": lambda: with_hook("register_full_backward_hook"),
    "backward pre-hook": lambda: with_hook("register_full_backward_pre_hook"),
    "hook of a sequence": lambda: nn.Sequential(with_hook("register_forward_hook"), nn.Linear(3, 3)),
    "parametrised": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))),
    "frozen": frozen,
    "extra parameter": extra_parameter,
    "hook of a parameter": hooked_parameter,
    "replaced forward": replaced_forward,
    "buffer": buffer,
    "float64": lambda: nn.Linear(3, 3, dtype=torch.float64),
    "dropout": lambda: nn.Sequential(LINEAR, nn.Dropout(0.5)),
    "batch norm": lambda: nn.Sequential(LINEAR, nn.BatchNorm1d(3, affine=False, track_running_stats=False)),
    "leaky": lambda: nn.Sequential(LINEAR, nn.LeakyReLU()),
    "flatten from 2": lambda: nn.Sequential(LINEAR, nn.Flatten(2)),
    "groups": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "dilation": lambda: nn.Conv2d(4, 4, 3, dilation=2),
    "circular": lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "uneven same": lambda: nn.Conv2d(4, 4, 2, padding="same"),
    "overlapping pool": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(3, 2)),
    "padded pool": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, padding=1)),
    "ceil pool": lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2, ceil_mode=True)),
    "module list": lambda: nn.ModuleList([LINEAR]),
    "empty": nn.Sequential,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_exactly_a_plain_list_of_known_layers_is_no_chain(name):
    assert chain_of(OTHERS[name]()) is None


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_gradients_are_those_of_autograd(name):
    torch.manual_seed(0)
    z = torch.cat([torch.randn(2, 5, 7).flatten(), torch.tensor([0.0, -0.0, 30.0, -30.0])]).requires_grad_()
    function, module = (
        ACTIVATIONS[name],
        {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "gelu": nn.GELU()}.get(name, nn.GELU("tanh")),
    )
    h, d = module(z), torch.randn(z.shape)
    (expected,) = torch.autograd.grad(h, z, d)
    ours = function.forward(z.detach())
    assert torch.equal(ours, h)
    behind = ours if function.from_output else z.detach()
    assert torch.equal(function.backward(d, behind, ours), expected)


# Heads.


def targets(kind, shape, classes, generator):
    if kind == "classification":
        return torch.randint(classes, shape, generator=generator)
    return torch.randint(2, shape, generator=generator) if kind == "binary" else torch.randn(shape, generator=generator)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["classification", "binary", "regression"]),
    leading=st.lists(st.integers(1, 3), max_size=2),
    rows=st.integers(1, 6),
    classes=st.integers(1, 5),
    scale=st.sampled_from([1.0, 30.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_each_rows_loss_and_gradient_are_the_tasks_own(kind, leading, rows, classes, scale, seed):
    """Autograd of Task.loss of one row alone is the oracle; of all rows, for the mean."""
    generator = torch.Generator().manual_seed(seed)
    task, columns = task_for(kind), classes if kind == "classification" else 1
    outputs = scale * torch.randn(*leading, rows, columns, generator=generator)
    y = targets(kind, (*leading, rows), columns, generator)
    losses, grad = head_for(task)(outputs.clone(), y)
    assert (losses.shape, grad.shape) == (y.shape, outputs.shape)
    flat, codes = outputs.view(-1, columns).requires_grad_(), y.view(-1)
    each = torch.stack([task.loss(row[None], code[None]) for row, code in zip(flat, codes, strict=True)])
    assert torch.isfinite(losses).all()
    torch.testing.assert_close(losses.view(-1), each.detach(), rtol=1e-5, atol=1e-6)
    (expected,) = torch.autograd.grad(each.sum(), flat, retain_graph=True)
    torch.testing.assert_close(grad.view(-1, columns), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.mean(), task.loss(flat, codes).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["classification", "binary", "regression"])
def test_a_head_leaves_its_arguments_alone(kind):
    outputs, y = torch.randn(4, 1), torch.zeros(4, dtype=torch.float32 if kind == "regression" else torch.int64)
    before = outputs.clone(), y.clone()
    head_for(task_for(kind))(outputs, y)
    assert torch.equal(outputs, before[0])
    assert torch.equal(y, before[1])


def test_there_is_no_head_for_next_character():
    assert head_for(task_for("next-character")) is None
