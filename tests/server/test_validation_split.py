"""Rounds are picked by validation rows where there are any, and test rows are then not read; else output says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import Given, checkpoint_digests, toy_dataset, train_run, untimed_lines

from flctl.config.load import load
from flctl.data.dataset import Dataset
from flctl.errors import ConfigError
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.run.run import Run
from flctl.server.training import TrainingResult
from flctl.stored.load import from_run

OWNER = np.repeat(np.arange(4), 30)
SETTINGS = ("rounds=3", "cohort.clients=2", "eval.per_client=true", "stop.patience=2")


def partition(path: Path, dataset: Dataset, validation: float) -> Partition:
    return write_partition(
        path, dataset, Given(OWNER), PartitionSpec(clients=4, test_fraction=0.3, seed=3, validation_fraction=validation)
    )


def poisoned(dataset: Dataset, clean: Partition) -> Dataset:
    """The data set with NaN and wrong labels in the test rows of `clean`."""
    rows = clean.column("source_row")
    test = np.concatenate([rows[train_end:end] for _, train_end, end in clean.bounds.tolist()])
    x, y = dataset.x.copy(), dataset.y.copy()
    x[test], y[test] = np.nan, (y[test] + 1) % 3
    return replace(dataset, x=x, y=y)


def trained(path: Path, made: Partition) -> TrainingResult:
    return train_run(made, path, *SETTINGS)


def numbers(result: TrainingResult) -> tuple[Any, ...]:
    summary = {key: value for key, value in result.summary.items() if key != "seconds"}
    return untimed_lines(result.directory.path), summary, checkpoint_digests(result.directory.path)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Partition, TrainingResult]:
    folder = tmp_path_factory.mktemp("clean")
    made = partition(folder / "part", toy_dataset(120), 0.25)
    return made, trained(folder / "run", made)


def test_poisoned_test_rows_change_no_bit_of_a_run_with_validation_rows(tmp_path, clean):
    made, result = clean
    other = partition(tmp_path / "part", poisoned(toy_dataset(120), made), 0.25)
    assert np.isnan(other.central_test()[0]).sum() == 0  # missing cells are the mean, 0
    assert other.central_test()[0].tolist() != made.central_test()[0].tolist()
    assert numbers(trained(tmp_path / "run", other)) == numbers(result)


def test_poisoned_test_rows_do_change_a_run_without_validation_rows(tmp_path):
    made = partition(tmp_path / "a", toy_dataset(120), 0.0)
    other = partition(tmp_path / "b", poisoned(toy_dataset(120), made), 0.0)
    assert numbers(trained(tmp_path / "run", made)) != numbers(trained(tmp_path / "other", other))


def test_a_round_names_the_rows_that_it_was_evaluated_on(tmp_path, clean):
    _, result = clean
    line = result.directory.lines()[0]
    assert line["split"] == "validation"
    assert "validation_loss" in line
    assert "test_loss" not in line
    assert result.summary["split"] == "validation"
    plain = trained(tmp_path / "run", partition(tmp_path / "part", toy_dataset(120), 0.0))
    assert plain.directory.lines()[0]["split"] == "test"
    assert plain.summary["split"] == "test"


def test_the_evaluation_of_a_round_is_that_of_the_validation_rows(clean):
    made, result = clean
    x, y = made.central_validation()
    loaded = from_run(result.directory.path, "last", None, Registry())
    import torch

    with torch.no_grad():
        right = loaded.model.module(torch.from_numpy(x)).argmax(1).numpy() == y
    assert result.summary["final"]["accuracy"] == pytest.approx(float(right.mean()))


def test_the_score_of_a_round_that_test_rows_picked_is_said_to_be_too_good(tmp_path, clean):
    result = trained(tmp_path / "run", partition(tmp_path / "part", toy_dataset(120), 0.0))
    assert "picked by these test rows" in from_run(result.directory.path, "best", None, Registry()).notes[0]
    assert from_run(clean[1].directory.path, "best", None, Registry()).notes == ()


def test_a_metric_of_test_rows_cannot_stop_a_run_that_does_not_read_them(tmp_path, clean):
    config = load(Registry(), overrides=("metric=test_loss", "cohort.clients=2")).config
    with pytest.raises(ConfigError, match="over validation rows") as raised:
        Run.build(config, Registry(), clean[0], tmp_path)
    assert "validation_loss" in str(raised.value.hint)
