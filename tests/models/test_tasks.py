"""Losses by hand."""

import math

import pytest
import torch

from flctl.errors import ConfigError
from flctl.models.tasks import task_for


def test_classification_is_softmax_cross_entropy():
    outputs = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    loss = task_for("classification").loss(outputs, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx((math.log(2) - math.log(3 / 4)) / 2)


def test_binary_is_sigmoid_cross_entropy_of_one_logit():
    outputs = torch.tensor([[math.log(3)], [0.0]])
    loss = task_for("binary").loss(outputs, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx((-math.log(3 / 4) + math.log(2)) / 2)


def test_regression_does_not_broadcast_a_column_against_a_row():
    loss = task_for("regression").loss(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 5.0]))
    assert loss.item() == pytest.approx(4 / 3)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_two_outputs_for_one_number_are_refused_by_shape(kind):
    with pytest.raises(RuntimeError, match="shape"):
        task_for(kind).loss(torch.zeros(3, 2), torch.zeros(3))


def test_next_character_leaves_padding_out_of_the_mean():
    outputs = torch.zeros(2, 3, 4)
    outputs[0, 0, 1] = math.log(5)  # p = 5/8, the others 1/4
    y = torch.tensor([[1, 2, -1], [-1, -1, 3]])
    task = task_for("next-character")
    assert task.loss(outputs, y).item() == pytest.approx((-math.log(5 / 8) + 2 * math.log(4)) / 3)
    assert task.terms(y) == 3


def test_a_batch_of_nothing_but_padding_has_loss_zero_and_gradient_zero():
    outputs = torch.randn(1, 3, 4, requires_grad=True)
    task, y = task_for("next-character"), torch.full((1, 3), -1)
    loss = task.loss(outputs, y)
    loss.backward()
    assert loss.item() == 0.0
    assert not outputs.grad.any()
    assert task.terms(y) == 0


def test_terms_are_examples_elsewhere():
    assert task_for("binary").terms(torch.tensor([1, 0, 1])) == 3


def test_an_unknown_task_is_refused_by_name():
    with pytest.raises(ConfigError, match="unknown task 'ranking'"):
        task_for("ranking")
