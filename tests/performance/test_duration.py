"""Forecast of a round's seconds, for every shipped model: complete, and near the CPU time that a round takes."""

import time
from itertools import count

import numpy as np
import pytest
import torch
from support import make_run
from support.runs import Given

from flctl.data.dataset import Dataset
from flctl.engines.footprint import RoundShape, footprint
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError
from flctl.executors.choice import EXECUTORS
from flctl.executors.costs import GEMM
from flctl.executors.multiplications import multiplications
from flctl.executors.stacking_trial import tried_rows
from flctl.models import MODELS
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.performance.duration import estimate_duration
from flctl.performance.forecast import forecast
from flctl.server.rounds import Rounds

CLIENTS, ROWS = 2, 24
MILLIONS = RoundShape(1, np.full(2, 10**6), (np.arange(2),))
"""A round in one step of a client, whose calls take little beside the arithmetic."""
PEAK = 2 * GEMM
"""Operations per second that the core of the forecast does not make."""


def images(rng):
    x, y = rng.normal(size=(CLIENTS * ROWS, 3, 16, 16)), rng.integers(0, 5, CLIENTS * ROWS)
    return Dataset("images", "classification", x.astype(np.float32), y, tuple("abcde"), ())


def numbers(rng):
    x, y = rng.normal(size=(CLIENTS * ROWS, 6)), rng.normal(size=CLIENTS * ROWS)
    return Dataset("numbers", "regression", x.astype(np.float32), y.astype(np.float32), (), tuple("abcdef"))


def characters(rng):
    text = rng.integers(0, 30, (CLIENTS * ROWS, 41)).astype(np.uint8)
    letters = tuple(chr(97 + code) for code in range(30))
    return Dataset("text", "next-character", text[:, :-1].copy(), text[:, 1:].astype(np.int32), letters, ())


SMALL = {
    "mlp": ("model.hidden=[8]",),
    "2nn": ("model.hidden=[8, 8]",),
    "cnn": ("model.channels=[8, 16]", "model.hidden=8"),
    "resnet": ("model.width=8", "model.blocks=[1, 1]"),
    "char-lstm": ("model.hidden=8",),
}
"""Options that make a model small enough for a quick test."""
DATA = {"linear": numbers, "char-lstm": characters}
"""Data of models that do not classify images; a new model without an entry is tested on images."""


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Builds a run of a model, with all clients in each round."""
    home = tmp_path_factory.mktemp("duration")

    def build(model, *options):
        make = DATA.get(model, images)
        path = home / make.__name__
        owner = np.repeat(np.arange(CLIENTS), ROWS)
        if path not in written:
            spec = PartitionSpec(clients=CLIENTS, test_fraction=0.0, seed=3)
            written[path] = write_partition(path, make(np.random.default_rng(0)), Given(owner), spec)
        wanted = (f"model={model}", f"cohort.clients={CLIENTS}", *options)
        return make_run(written[path], home / f"run-{next(numbering)}", *wanted)[0]

    written, numbering = {}, count()
    return build


@pytest.mark.parametrize("model", [model.name for model in MODELS])
def test_every_model_is_forecast_with_all_its_multiplications(run_of, model):
    """By each executor that can train it; no core makes the multiplications in less than the forecast."""
    trained = set()
    for executor in EXECUTORS:
        try:
            run = run_of(model, f"engine.executor={executor}", "local.batch_size=1000000", *SMALL.get(model, ()))
        except ConfigError:  # this executor cannot train the model
            continue
        # 4 = 2 operations per multiply-add times at least 2 products (outputs, weight gradient).
        operations = (
            4 * int(MILLIONS.sizes.sum()) * multiplications(run.build_model().module, tried_rows(run)[0][0][:1])
        )
        memory = footprint(run, InProcessEngine, MILLIONS, None)
        assert estimate_duration(run, InProcessEngine, MILLIONS, memory, 1, 1).now > operations / PEAK, executor
        trained.add(run.execution.executor)
    assert "sequential" in trained


def slowness():
    """Seconds of a product on this core in relation to those of the core whose rates the forecast uses."""
    a, seconds = torch.randn(768, 768), []
    for _ in range(5):
        started = time.process_time()
        a @ a
        seconds.append(time.process_time() - started)
    return min(seconds) * GEMM / (2 * 768**3)


@pytest.mark.slow
@pytest.mark.parametrize("model", [model.name for model in MODELS])
def test_a_round_takes_about_the_cpu_time_that_was_forecast(run_of, model):
    run = run_of(model, *(("model.width=16",) if model == "resnet" else ()))
    seconds = []
    with InProcessEngine().open(run) as engine:
        rounds = Rounds(run, engine)
        state = rounds.initial()
        core = slowness()
        for _ in range(3):  # the first fills caches
            started = time.process_time()
            state, _ = rounds.play(state, last=lambda report: False)
            seconds.append(time.process_time() - started)
    assert 1 / 4 < min(seconds) / (core * forecast(run, InProcessEngine).duration.now) < 4
