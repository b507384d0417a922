"""Another partition at `eval --data`: its test rows that the model was trained on are found, and treated as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.runs import Given, toy_dataset, train_run

from flctl.errors import IncompatibleError
from flctl.evaluation.trained_rows import seen_test_rows
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.stored.load import assess, from_run

OWNER = np.tile(np.arange(4), 30)


def made(path: Path, dataset=None, seed: int = 3, **spec) -> Partition:
    dataset = toy_dataset(120) if dataset is None else dataset
    owner = OWNER[: len(dataset)]
    return write_partition(path, dataset, Given(owner), PartitionSpec(clients=4, test_fraction=0.3, seed=seed, **spec))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("seen")
    train_run(made(root / "part", validation_fraction=0.2), root / "run", "rounds=1", "cohort.clients=2")
    made(root / "again", seed=4)
    return root


def expected(folder: Path) -> np.ndarray:
    """Test rows of the other partition that are no test rows of the run's, by row number."""
    own, other = Partition.open(folder / "part"), Partition.open(folder / "again")
    tests = [p.column("source_row")[np.concatenate([np.arange(b, c) for _, b, c in p.bounds])] for p in (own, other)]
    return ~np.isin(tests[1], tests[0])


def test_row_numbers_of_one_source_tell_which_rows_were_used(folder):
    found = seen_test_rows(Partition.open(folder / "part"), Partition.open(folder / "again"))
    assert found.same
    assert found.seen.tolist() == expected(folder).tolist()
    assert 0 < found.seen.sum() < len(found.seen)


def test_rows_that_were_trained_on_are_refused_left_out_or_labelled(folder):
    seen = int(expected(folder).sum())
    with pytest.raises(IncompatibleError, match=f"{seen} of 36 test rows were trained on"):
        from_run(folder / "run", "last", folder / "again", Registry())
    kept = from_run(folder / "run", "last", folder / "again", Registry(), "keep")
    assert kept.notes[-1] == f"{seen} of 36 test rows were trained on, and count"
    fewer = from_run(folder / "run", "last", folder / "again", Registry(), "leave-out")
    assert "left out" in fewer.notes[-1]
    rest, whole = assess(fewer), assess(kept)
    assert rest.evaluation.central.rows == 36 - seen
    assert rest.evaluation.clients.rows.sum() == 36 - seen
    assert rest.evaluation.client_outcomes.loss.tolist() == (
        whole.evaluation.client_outcomes.loss[~expected(folder)].tolist()
    )
    assert rest.rows_digest != whole.rows_digest


def test_copies_of_training_rows_are_found_in_another_source(tmp_path, folder):
    dataset = toy_dataset(120)
    longer = replace(dataset, x=dataset.x[:119], y=dataset.y[:119])
    other = made(tmp_path / "longer", longer, seed=4)
    found = seen_test_rows(Partition.open(folder / "part"), other)
    assert not found.same
    own = Partition.open(folder / "part")
    trained = {tuple(row) for start, end, _ in own.bounds.tolist() for row in own.column("x")[start:end].tolist()}
    rows = np.concatenate([np.arange(b, c) for _, b, c in other.bounds])
    assert found.seen.tolist() == [tuple(row) in trained for row in other.column("x")[rows].tolist()]
