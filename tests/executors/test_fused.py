"""The hand-written step against autograd in float64, to the bit against itself, and by hand where values tie."""

import copy
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support import prefork
from torch import nn

from flctl.executors.fused import FusedStep, unsupported
from flctl.executors.layer_chain import chain_of
from flctl.executors.loss_heads import head_for
from flctl.executors.sequential import single_thread
from flctl.models.flat_model import FlatModel
from flctl.models.images import Cnn
from flctl.models.mlp import TwoNN
from flctl.models.model import DataSpec
from flctl.models.tasks import task_for

KINDS = ("classification", "binary", "regression")


@pytest.fixture(autouse=True)
def _one_thread():
    single_thread()


def step_of(model, kind="classification"):
    return FusedStep(model, chain_of(model.module), head_for(task_for(kind)))


def batch(shape, rows, kind="classification", classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, *shape, generator=generator)
    if kind == "regression":
        return x, torch.randn(rows, generator=generator)
    return x, torch.randint(2 if kind == "binary" else classes, (rows,), generator=generator)


def by_autograd(module, x, y, kind, dtype=torch.float64):
    """The flat gradient in float64, and the loss, computed in `dtype`."""
    module = copy.deepcopy(module).to(dtype)
    task = task_for(kind)
    loss = task.loss(module(x.to(dtype)), y.to(dtype) if kind == "regression" else y)
    grads = torch.autograd.grad(loss, list(module.parameters()))
    return torch.cat([grad.flatten() for grad in grads]).double(), loss.item()


def assert_step_is_gradient_descent(module, x, y, kind="classification", lr=0.25):
    """Both ways to call the step. Each tensor of the gradient is compared on its own scale; where terms cancel, the
    error may be a few times what autograd's own is in float32."""
    model = FlatModel(module)
    start = model.params.clone()
    expected, expected_loss = by_autograd(module, x, y, kind)
    step = step_of(model, kind)
    grad, loss = step.gradient(x, y)
    assert torch.equal(model.params, start)
    assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
    sizes, rounding = [p.numel() for p in module.parameters()], 1e-6 * expected.abs().max().item()
    errors = (by_autograd(module, x, y, kind, torch.float32)[0] - expected).abs()
    for ours, theirs, error in zip(*(part.split(sizes) for part in (grad.double(), expected, errors)), strict=True):
        bound = max(1e-5 * theirs.abs().max().item() + rounding, 4 * error.max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)
    moved = start - lr * grad
    assert step.descend(x, y, lr) == loss
    torch.testing.assert_close(model.params, moved, rtol=1e-6, atol=1e-6 * (1 + lr * grad.abs().max().item()))
    return grad


# Any chain.

ACTS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "gelu-tanh": lambda: nn.GELU("tanh")}


@st.composite
def blocks(draw, activations):
    """A convolution, and an activation and a pool in either order, or less."""
    layer = {
        "outputs": draw(st.sampled_from([1, 2, 3, 8, 10])),
        "kernel": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "stride": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "padding": draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        "bias": draw(st.booleans()),
    }
    act = draw(st.none() | st.sampled_from(activations))
    pool = draw(st.none() | st.sampled_from([(2, 2), (3, 3), (1, 2), (3, 2)]))
    return layer, act, pool, draw(st.booleans())


@st.composite
def plans(draw, activations):
    return {
        "shape": draw(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(3, 11), st.integers(3, 11))),
        "blocks": draw(st.lists(blocks(activations), max_size=2)),
        "hidden": draw(st.none() | st.tuples(st.integers(1, 6), st.sampled_from(activations), st.booleans())),
        "kind": draw(st.sampled_from(KINDS)),
        "rows": draw(st.integers(1, 5)),
        "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }


def features(plan):
    """The layers before the last one; discards plans whose images shrink to nothing."""
    layers, shape = [], plan["shape"]
    for sizes, act, pool, pool_first in plan["blocks"]:
        rest = [*([ACTS[act]()] if act else []), *([nn.MaxPool2d(pool)] if pool else [])]
        convolution = nn.Conv2d(
            shape[0], sizes["outputs"], sizes["kernel"], sizes["stride"], sizes["padding"], bias=sizes["bias"]
        )
        layers += [convolution, *(reversed(rest) if pool_first else rest)]
        shapes = chain_of(nn.Sequential(*layers)).shapes(plan["shape"])
        assume(shapes is not None)
        shape = shapes[-1]
    width = int(np.prod(shape))
    layers.append(nn.Flatten())
    if plan["hidden"]:
        units, act, bias = plan["hidden"]
        layers += [nn.Linear(width, units, bias=bias), ACTS[act]()]
        width = units
    return layers, width


def network(plan):
    torch.manual_seed(plan["seed"])
    layers, width = features(plan)
    return nn.Sequential(*layers, nn.Linear(width, 3 if plan["kind"] == "classification" else 1, bias=plan["bias"]))


def on_a_grid(module, x):
    """Whole numbers for inputs and all weights but the last layer's, which shrinks what comes to it: until there every
    sum is exact in whichever order, so that equal values tie in every implementation alike."""
    x = x.round()
    for parameter in [p for layer in module[:-1] for p in layer.parameters()]:
        parameter.data = (2 * torch.randn_like(parameter)).round().clamp(-2, 2)
    with torch.no_grad():
        module[-1].weight.div_(1 + module[:-1](x).abs().max())
    return x


BLOCKED = {
    "shape": (3, 9, 8),
    "blocks": [
        ({"outputs": 32, "kernel": (5, 5), "stride": (1, 1), "padding": (2, 2), "bias": True}, "relu", (2, 2), False),
        ({"outputs": 40, "kernel": (5, 5), "stride": (1, 1), "padding": (2, 2), "bias": True}, "relu", (2, 2), False),
    ],
    "hidden": (5, "relu", True),
    "kind": "classification",
    "rows": 3,
    "bias": True,
    "seed": 1,
}


@settings(deadline=None, max_examples=60)
@given(plan=plans(["relu"]))
@example(plan=BLOCKED)
def test_gradients_through_relu_and_pooling_are_those_of_autograd_with_ties_and_all(plan):
    module = network(plan)
    x, y = batch(plan["shape"], plan["rows"], plan["kind"], seed=plan["seed"])
    assert_step_is_gradient_descent(module, on_a_grid(module, x), y, plan["kind"])


@settings(deadline=None, max_examples=60)
@given(plan=plans(sorted(ACTS)))
def test_gradients_through_any_activation_are_those_of_autograd(plan):
    assert_step_is_gradient_descent(
        network(plan), *batch(plan["shape"], plan["rows"], plan["kind"], seed=plan["seed"]), plan["kind"]
    )


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 14, 9)])
@pytest.mark.parametrize("rows", [1, 10])
def test_the_cnn_and_the_2nn_descend_as_autograd_does(shape, rows):
    for architecture in (Cnn(), TwoNN()):
        torch.manual_seed(rows)
        data = DataSpec(task="classification", shape=shape, outputs=10)
        grad = assert_step_is_gradient_descent(architecture.build(data), *batch(shape, rows, classes=10))
        assert grad.count_nonzero() > grad.numel() / 20


def test_several_steps_of_different_sizes_stay_on_the_path_of_autograd():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 9), nn.GELU(), nn.Linear(9, 3)
    )
    ours, theirs = FlatModel(copy.deepcopy(module)), FlatModel(module.double())
    theirs.module.double()
    step, values = step_of(ours), list(theirs.module.parameters())
    for number, rows in enumerate([4, 4, 1, 7, 3]):
        x, y = batch((1, 8, 8), rows, seed=number)
        step.descend(x, y, 0.5)
        grads = torch.autograd.grad(task_for("classification").loss(theirs.module(x.double()), y), values)
        for value, grad in zip(values, grads, strict=True):
            value.data -= 0.5 * grad
    expected = torch.cat([value.detach().flatten() for value in values])
    torch.testing.assert_close(ours.params.double(), expected, rtol=1e-5, atol=1e-6)


# Ties, by hand.


@pytest.mark.parametrize("relu", ["after", "before", "without"])
def test_of_tied_values_the_first_in_the_window_has_the_gradient(relu):
    """A 1 x 1 convolution with weights (1, 1) makes 3 of each of (1, 2), (2, 1), (0, 3) and 0 of (0, 0); the first
    of the threes in the order of rows is (2, 1) in the window's second column. The loss (3 - 1)^2 has the slope 4."""
    module = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 1, bias=False))
    places = {"before": 1, "after": 2}
    if relu in places:
        module.insert(places[relu], nn.ReLU())
    model = FlatModel(module)
    model.params.copy_(torch.tensor([1.0, 1.0, 1.0]))
    x = torch.tensor([[[[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 3.0]]]])
    grad, loss = step_of(model, "regression").gradient(x, torch.tensor([1.0]))
    assert loss == 4
    assert grad.tolist() == [4 * 2, 4 * 1, 4 * 3]


def test_where_relu_closes_a_whole_window_nothing_has_a_gradient():
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 1))
    model = FlatModel(module)
    model.params.copy_(torch.tensor([1.0, 0.0, 5.0, 2.0]))
    x = torch.tensor([[[[-1.0, 0.0], [-2.0, 0.0]]]])
    grad, loss = step_of(model, "regression").gradient(x, torch.tensor([1.0]))
    assert loss == 1
    assert grad.tolist() == [0, 0, 0, 2]


def test_a_gradient_is_the_callers_to_change_and_later_steps_do_not_see_it():
    model = FlatModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)))
    step, data = step_of(model), batch((1, 4, 4), 5)
    first = step.gradient(*data)[0].clone()
    step.gradient(*data)[0].fill_(float("nan"))
    assert torch.equal(step.gradient(*data)[0], first)


def test_a_step_leaves_its_batch_alone():
    module = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    x, y = batch((1, 4, 4), 5)
    before = x.clone(), y.clone()
    step_of(FlatModel(module)).descend(x, y, 0.1)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_outputs_as_large_as_ten_thousand_have_a_finite_loss_and_gradient():
    model = FlatModel(nn.Linear(2, 3, bias=False))
    model.params.copy_(1e4 * torch.tensor([1.0, 0, 0, 1, -1, 0]))
    grad, loss = step_of(model).gradient(torch.tensor([[1.0, 1.0]]), torch.tensor([2]))
    assert loss == pytest.approx(2e4 + np.log(2), rel=1e-6)
    assert grad.tolist() == [0.5, 0.5, 0.5, 0.5, -1, -1]


# To the bit, and to the byte.


def in_another_process(call):
    """What a function of this file returns there, printed."""
    program = f"import test_fused; print(test_fused.{call})"
    command, folder = [sys.executable, "-c", program], Path(__file__).parent
    return prefork.run(command, cwd=folder, check=True).stdout.strip()


CNN = DataSpec(task="classification", shape=(1, 28, 28), outputs=10)


def trained_digest(clutter=False):
    """A digest of the CNN after steps of 10, 10 and 7 rows; `clutter` first trains another model, and leaves the
    allocator holes of odd sizes that are full of NaN."""
    single_thread()
    kept = []
    if clutter:
        other = FlatModel(Cnn().build(DataSpec(task="classification", shape=(3, 12, 17), outputs=4)))
        step_of(other).descend(*batch((3, 12, 17), 6, classes=4), 0.1)
        kept = [torch.full((1000 * size + 13,), float("nan")) for size in range(1, 60)][::2]
    torch.manual_seed(5)
    model = FlatModel(Cnn().build(CNN))
    step = step_of(model)
    losses = [step.descend(*batch((1, 28, 28), rows, classes=10, seed=rows), 0.1) for rows in (10, 10, 7)]
    grad, loss = step.gradient(*batch((1, 28, 28), 4, classes=10))
    del kept
    return hashlib.sha256(
        repr([*losses, loss]).encode() + model.params.numpy().tobytes() + grad.numpy().tobytes()
    ).hexdigest()


@pytest.mark.slow
def test_the_same_steps_have_the_same_bits_again_after_other_clients_and_in_another_process():
    other = in_another_process("trained_digest()")
    assert {trained_digest(), trained_digest(), trained_digest(clutter=True)} == {other}


def test_the_bits_do_not_depend_on_where_the_batch_lies_in_memory():
    torch.manual_seed(0)
    module, (x, y) = Cnn().build(CNN), batch((1, 28, 28), 3, classes=10)
    expected = step_of(FlatModel(copy.deepcopy(module))).gradient(x, y)[0]
    for offset in (1, 3, 7):
        memory = torch.zeros(x.numel() + offset)
        shifted = memory[offset:].view(x.shape).copy_(x)
        assert torch.equal(step_of(FlatModel(copy.deepcopy(module))).gradient(shifted, y)[0], expected)
    strided = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).expand_as(x)
    assert torch.equal(step_of(FlatModel(copy.deepcopy(module))).gradient(strided, y)[0], expected)


def skip_places():
    """Steps through 1 x 1 kernels that skip places, of few channels."""
    single_thread()
    for channels, outputs, stride in [(2, 1, (1, 2)), (2, 3, (2, 1)), (3, 5, (2, 2)), (12, 9, (3, 3))]:
        module = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride), nn.Flatten())
        step, data = step_of(FlatModel(module)), batch((channels, 10, 9), 4)
        for rows in range(1, 101):
            step.descend(*data, 0.1)
            torch.randn(rows)


@pytest.mark.slow
def test_steps_keep_to_their_own_memory():
    """With channels last, oneDNN wrote beyond its scratch memory here, and the process died of it."""
    in_another_process("skip_places()")


# What it is for.


def test_what_cannot_be_run_is_said_and_why():
    chain, head = chain_of(Cnn().build(CNN)), head_for(task_for("classification"))
    assert unsupported(chain, head, (1, 28, 28)) is None
    assert "layers" in unsupported(None, head, (1, 28, 28))
    assert "task" in unsupported(chain, head_for(task_for("next-character")), (1, 28, 28))
    assert "[1, 20, 20]" in unsupported(chain, head, (1, 20, 20))
    assert "[3, 8, 8]" in unsupported(chain_of(nn.Conv2d(3, 2, 3)), head, (3, 8, 8))
