"""Multiplications of a forward pass, for layers small enough to count by hand."""

import pytest
import torch
from torch import nn

from flctl.executors.multiplications import multiplications


@pytest.mark.parametrize(
    ("layer", "row", "expected"),
    [
        (nn.Linear(3, 2), torch.zeros(1, 3), 6),
        (nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2)), torch.zeros(1, 4, dtype=torch.int64), 4 * 6),
        (nn.Conv2d(1, 2, 3, padding=1), torch.zeros(1, 1, 4, 5), 4 * 5 * 2 * 9),
        (nn.LSTM(3, 2, batch_first=True), torch.zeros(1, 7, 3), 7 * 4 * 2 * (3 + 2)),
    ],
    ids=["linear", "each-position", "convolution", "lstm"],
)
def test_multiplications_of_a_row_count_every_position_and_time_step(layer, row, expected):
    assert multiplications(layer, row) == expected
