"""Learning-rate schedules against numbers worked out by hand."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flctl.errors import ConfigError
from flctl.server.lr_schedule import SCHEDULES, LrSchedule


@pytest.mark.parametrize(
    ("schedule", "options", "expected"),
    [
        ("constant", {}, [1, 1, 1, 1, 1]),
        ("step", {"decay": 0.5, "decay_rounds": 2}, [1, 1, 0.5, 0.5, 0.25]),
        ("step", {"decay": 0.5, "min_lr": 0.3}, [1, 0.5, 0.3, 0.3, 0.3]),
        ("exponential", {"decay": 0.25, "decay_rounds": 2}, [1, 0.5, 0.25, 0.125, 0.0625]),
        ("linear", {}, [1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", {"min_lr": 0.5}, [1, 0.9, 0.8, 0.7, 0.6]),
        ("cosine", {}, [1, 0.9045085, 0.6545085, 0.3454915, 0.0954915]),
        ("constant", {"warmup_rounds": 2}, [0.5, 1, 1, 1, 1]),
        ("linear", {"warmup_rounds": 2}, [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("cosine", {"warmup_rounds": 3}, [1 / 3, 2 / 3, 1, 1, 0.5]),
    ],
)
def test_five_rounds_from_a_rate_of_one(schedule, options, expected):
    rates = LrSchedule(schedule=schedule, lr=1.0, rounds=5, **options)
    found = [rates.at(number) for number in range(1, 6)]
    assert found == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(
    schedule=st.sampled_from(SCHEDULES),
    lr=st.floats(1e-3, 10),
    number=st.integers(1, 60),
    warmup=st.integers(0, 60),
    fraction=st.floats(0, 1),
)
def test_after_warmup_a_rate_is_between_its_floor_and_its_start(schedule, lr, number, warmup, fraction):
    options = {"decay": 0.9, "decay_rounds": 3, "warmup_rounds": warmup}
    found = LrSchedule(schedule=schedule, lr=lr, rounds=50, min_lr=lr * fraction, **options).at(number)
    assert found + (number > 50) > 0  # past the last round linear and cosine may rest at a floor of zero
    assert found <= lr * (1 + 1e-12)
    assert number <= warmup or schedule == "constant" or found >= lr * fraction * (1 - 1e-12)


def test_one_round_and_rounds_past_the_last_are_no_division_by_zero():
    assert LrSchedule(schedule="cosine", lr=0.1, rounds=1).at(1) == 0.1
    assert LrSchedule(schedule="linear", lr=0.1, rounds=5, min_lr=0.01).at(9) == pytest.approx(0.01)
    assert LrSchedule(schedule="linear", lr=0.1, rounds=5, warmup_rounds=5).at(6) == 0.1


def test_an_unknown_schedule_and_a_floor_above_the_rate_are_refused():
    with pytest.raises(ConfigError, match="unknown schedule 'cosin'"):
        LrSchedule(schedule="cosin", lr=0.1, rounds=5).at(1)
    with pytest.raises(ConfigError, match=r"min_lr 0\.2 is above lr 0\.1"):
        LrSchedule(schedule="linear", lr=0.1, rounds=5, min_lr=0.2).at(1)


def test_schedules_need_no_torch():
    modules = "flctl.server.lr_schedule, flctl.models, flctl.plugins.custom_model"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
