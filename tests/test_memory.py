"""Client memory: what a round reads does not depend on rounds that are run again."""

import numpy as np
import pytest

from flctl.errors import IntegrityError
from flctl.memory import ClientMemory


def vector(value: float) -> dict[str, np.ndarray]:
    return {"c": np.full(3, value, np.float32)}


def test_a_round_reads_the_newest_before_it(tmp_path):
    memory = ClientMemory(tmp_path)
    assert memory.read("a", 1) == {}
    memory.write("a", 1, vector(1))
    memory.write("a", 4, vector(4))
    memory.write("b/../c", 2, vector(2))
    np.testing.assert_array_equal(memory.read("a", 4)["c"], vector(1)["c"])
    np.testing.assert_array_equal(memory.read("a", 9)["c"], vector(4)["c"])
    np.testing.assert_array_equal(memory.read("b/../c", 9)["c"], vector(2)["c"])
    assert memory.read("a", 1) == {}


def test_a_resume_forgets_later_rounds_and_settling_keeps_what_it_reads(tmp_path):
    memory = ClientMemory(tmp_path)
    for number in (1, 3, 5, 7):
        memory.write("a", number, vector(number))
    memory.settle(5)
    memory.forget_after(5)
    np.testing.assert_array_equal(memory.read("a", 6)["c"], vector(5)["c"])
    assert sorted(path.name for path in tmp_path.glob("*/*/*")) == ["5.bin"]


def test_damage_is_found(tmp_path):
    memory = ClientMemory(tmp_path)
    memory.write("a", 1, vector(1))
    (path,) = tmp_path.glob("*/*/*")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="client memory"):
        memory.read("a", 2)
