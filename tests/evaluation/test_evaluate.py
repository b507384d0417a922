"""Evaluation of real modules on real partitions: central, pooled, per client, and on another model's partition."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from flctl.data.dataset import Dataset, Split
from flctl.errors import IncompatibleError
from flctl.evaluation import evaluate as evaluate_module
from flctl.evaluation.evaluate import central, clients, evaluate, run_model
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.partition.align import align
from flctl.partition.partitioner import Assignment, Partitioner
from flctl.partition.writer import PartitionSpec, write_partition


class ByThirds(Partitioner):
    """Client "a" has half of the rows, "b" one row (which it trains on), "c" the rest."""

    name = "by-thirds"

    def assign(self, rows, clients, rng):
        owner = np.where(np.arange(rows.count) < rows.count // 2, 0, 2)
        owner[-1] = 1
        return Assignment(owner.astype(np.int64), 3, ("a", "b", "c"))


def dataset(task="classification", rows=60, own_test=False, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (rows, 4)).astype(np.float32)
    y = {
        "classification": lambda: rng.integers(0, 3, rows),
        "binary": lambda: rng.integers(0, 2, rows),
        "regression": lambda: (x[:, 0] * 10 + 100).astype(np.float32),
        "next-character": lambda: rng.integers(0, 3, (rows, 5)).astype(np.int32),
    }[task]()
    if task == "next-character":
        x = rng.integers(0, 3, (rows, 5)).astype(np.int32)
        y[0, 2:] = -1
    classes = {"regression": (), "binary": ("no", "yes")}.get(task, ("p", "q", "r"))
    test = Split(x[:7], y[:7]) if own_test else None
    features = () if task == "next-character" else ("f0", "f1", "f2", "f3")
    return Dataset("made", task, x, y, classes, features, test=test)


def partition_of(path, data, seed=0):
    return write_partition(
        path, data, ByThirds.from_options({}), PartitionSpec(clients=None, test_fraction=0.25, seed=seed)
    )


class Characters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3, 3)

    def forward(self, x):
        return self.table(x)


def model_of(partition):
    torch.manual_seed(1)
    if partition.task == "next-character":
        return FlatModel(Characters())
    return FlatModel(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, partition.outputs))
    )


def task_of(partition):
    return task_for(partition.task, partition.target_scale)


TASKS = ("classification", "binary", "regression", "next-character")


@pytest.mark.parametrize("kind", TASKS)
def test_the_test_loss_is_the_loss_that_training_minimises(tmp_path, kind):
    partition = partition_of(tmp_path / "p", dataset(kind))
    model, task = model_of(partition), task_of(partition)
    x, y = partition.central_test()
    with torch.inference_mode():
        expected = task.loss(model.module.eval()(torch.from_numpy(x)), torch.from_numpy(y)).item()
    assert central(model, partition.central_test(), task)["test_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_each_client_equals_an_evaluation_of_its_own_rows(tmp_path, kind):
    partition = partition_of(tmp_path / "p", dataset(kind))
    model, task = model_of(partition), task_of(partition)
    scores = clients(model, partition, task)
    assert scores.rows.tolist() == partition.counts[:, 1].tolist()
    assert scores.sizes.tolist() == [30, 1, 29]
    assert scores.without_rows == ("b",)
    for k in (0, 2):
        x, y = partition.test(k)
        alone = run_model(model, task, x, y)
        expected = float(alone.loss.sum() / alone.count.sum())
        assert scores.values["test_loss"][k] == pytest.approx(expected, rel=1e-5)
    assert math.isnan(scores.values["test_loss"][1])


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_do_not_change_the_result(tmp_path, kind, batch_size):
    partition = partition_of(tmp_path / "p", dataset(kind))
    model, task = model_of(partition), task_of(partition)
    expected = central(model, partition.central_test(), task)
    found = central(model, partition.central_test(), task, batch_size)
    assert found == pytest.approx(expected, rel=1e-5)


class Forgetful(torch.nn.Module):
    """A module that keeps its input on itself for a moment, as some do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        self.x = x
        time.sleep(0.001)  # others run meanwhile
        return self.inner(self.x)


@pytest.mark.parametrize("copied", [evaluate_module.COPIED, 0])
def test_batches_side_by_side_give_the_bits_of_one_after_the_other(tmp_path, monkeypatch, copied):
    partition = partition_of(tmp_path / "p", dataset())
    model, task = model_of(partition), task_of(partition)
    model.module = Forgetful(model.module)
    x, y = partition.central_test()
    monkeypatch.setattr(evaluate_module, "COPIED", copied)
    found = []
    for cores in (1, 3, 8):
        monkeypatch.setattr(evaluate_module, "cores", lambda cores=cores: cores)
        found.append(run_model(model, task, x, y, 4, keep_scores=True))
    assert len(y) > 8
    for other in found[1:]:
        np.testing.assert_array_equal(other.loss, found[0].loss)
        np.testing.assert_array_equal(other.log_probability, found[0].log_probability)


class Locked(Forgetful):
    """Holds what cannot be copied."""

    def __init__(self, inner):
        super().__init__(inner)
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_is_evaluated_by_one_thread(tmp_path, monkeypatch):
    partition = partition_of(tmp_path / "p", dataset())
    model, task = model_of(partition), task_of(partition)
    x, y = partition.central_test()
    expected = run_model(model, task, x, y, 4)
    model.module = Locked(model.module)
    monkeypatch.setattr(evaluate_module, "cores", lambda: 4)
    np.testing.assert_array_equal(run_model(model, task, x, y, 4).loss, expected.loss)


def test_equal_calls_give_equal_bits_and_leave_the_process_as_it_was(tmp_path):
    partition = partition_of(tmp_path / "p", dataset())
    model, task = model_of(partition), task_of(partition)
    model.module.train()
    torch.set_num_threads(2)
    before = model.read()
    first, second = (evaluate(model, partition, task) for _ in range(2))
    assert first.central.values == second.central.values
    assert torch.get_num_threads() == 2
    assert model.module.training
    after = model.read()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_the_pooled_central_test_is_the_weighted_mean_of_the_clients(tmp_path):
    partition = partition_of(tmp_path / "p", dataset())
    found = evaluate(model_of(partition), partition, task_of(partition))
    assert found.pooled
    kept = found.clients.rows > 0
    for name in ("accuracy", "log_loss"):
        mean = np.average(found.clients.values[name][kept], weights=found.clients.rows[kept])
        assert mean == pytest.approx(found.central.values[name])


def test_a_sources_own_test_part_is_the_central_test_set(tmp_path):
    partition = partition_of(tmp_path / "p", dataset(own_test=True))
    found = evaluate(model_of(partition), partition, task_of(partition))
    assert not found.pooled
    assert found.central.rows == 7
    assert int(found.clients.rows.sum()) == len(found.client_outcomes) != 7


def test_a_model_that_diverged_is_scored_nan_not_crashed_on(tmp_path):
    partition = partition_of(tmp_path / "p", dataset())
    model, task = model_of(partition), task_of(partition)
    model.params.fill_(float("nan"))
    found = evaluate(model, partition, task)
    assert found.central.non_finite == found.central.rows
    assert all(math.isnan(value) for value in found.central.values.values())
    assert central(model, partition.central_test(), task)["non_finite"] == found.central.rows


def test_a_partition_without_test_rows_is_scored_nan(tmp_path):
    partition = write_partition(
        tmp_path / "p", dataset(), ByThirds.from_options({}), PartitionSpec(clients=None, test_fraction=0.0, seed=0)
    )
    found = evaluate(model_of(partition), partition, task_of(partition))
    assert found.central.rows == 0
    assert math.isnan(found.central.values["accuracy"])
    assert found.clients.without_rows == ("a", "b", "c")


# -- another model's partition -----------------------------------------------------------------------------


def test_other_rows_are_standardised_as_the_models_were(tmp_path):
    mine = partition_of(tmp_path / "mine", dataset(seed=1))
    data = dataset(seed=2)
    other = partition_of(tmp_path / "other", replace(data, x=data.x * 5 + 40))
    aligned = align(other, mine.manifest)
    raw = other.column("x")[other.bounds[0, 1] : other.bounds[0, 2]]
    shift, scale = (np.asarray(v, np.float32) for v in (mine.manifest.preprocess.shift, mine.manifest.preprocess.scale))
    np.testing.assert_array_equal(aligned.test(0)[0], (raw - shift) / scale)
    assert aligned.digest == other.digest


def test_other_targets_are_scored_in_original_units(tmp_path):
    mine = partition_of(tmp_path / "mine", dataset("regression", seed=1))
    data = dataset("regression", seed=2)
    other = partition_of(tmp_path / "other", replace(data, y=data.y * 3))
    aligned = align(other, mine.manifest)
    assert aligned.target_scale == mine.target_scale
    outcomes = run_model(model_of(mine), task_of(aligned), *aligned.central_test())
    rows = np.concatenate([np.arange(a, b) for _, a, b in other.bounds.tolist()])
    np.testing.assert_allclose(outcomes.truth, other.column("y")[rows], rtol=1e-5)


def test_classes_are_matched_by_name(tmp_path):
    mine = partition_of(tmp_path / "mine", dataset())
    data = dataset(seed=3)
    other = partition_of(tmp_path / "other", replace(data, classes=("r", "p", "q")))
    aligned = align(other, mine.manifest)
    names = [other.classes[code] for code in other.test(0)[1]]
    assert [aligned.classes[code] for code in aligned.test(0)[1]] == names
    assert aligned.classes == mine.classes


def test_characters_are_matched_by_name_and_padding_stays(tmp_path):
    mine = partition_of(tmp_path / "mine", dataset("next-character"))
    data = dataset("next-character", seed=3)
    swapped = replace(data, classes=("r", "p", "q"), y=np.where(np.arange(5) < 3, data.y, -1).astype(np.int32))
    other = partition_of(tmp_path / "other", swapped)
    x, y = align(other, mine.manifest).central_test()
    own_x, own_y = other.central_test()
    lookup = np.array([2, 0, 1])
    assert np.array_equal(x, lookup[own_x])
    assert np.array_equal(y, np.where(own_y < 0, -1, lookup[own_y]))
    assert (y[:, 3:] == -1).all()


def test_an_equal_partition_is_used_as_it_is(tmp_path):
    mine = partition_of(tmp_path / "mine", dataset())
    again = partition_of(tmp_path / "again", dataset())
    assert align(again, mine.manifest) is again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("p", "q", "new")}, "does not know its classes 'new'"),
        ({"x": np.zeros((60, 5), np.float32), "features": tuple("abcde")}, r"shape \[5\], the model takes \[4\]"),
        ({"features": ("f0", "f1", "x", "f3")}, "feature 2 is 'x', the model's is 'f2'"),
        ({"task": "regression", "y": np.zeros(60, np.float32), "classes": ()}, "its task is regression"),
    ],
)
def test_a_partition_that_cannot_fit_is_refused_with_the_reason(tmp_path, change, message):
    mine = partition_of(tmp_path / "mine", dataset())
    other = partition_of(tmp_path / "other", replace(dataset(), **change))
    with pytest.raises(IncompatibleError, match=message):
        align(other, mine.manifest)
