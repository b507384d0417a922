"""Runs that are legal and odd: refused if nothing would be trained, warned of otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.runs import Given, make_run, toy_dataset, train_run
from support.stores import Owners

from flctl.cli.train.notices import run_notices
from flctl.errors import ConfigError
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.report.progress import opening
from flctl.server.training import Started

NORMED = """
import torch
def make(data):
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))
"""


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Partition:
    """Clients of 1, 9, 17 and 30 training rows."""
    owner = np.repeat(np.arange(4), [1, 9, 17, 30])
    path = tmp_path_factory.mktemp("sizes") / "parts"
    return write_partition(
        path, toy_dataset(len(owner)), Given(owner), PartitionSpec(clients=4, test_fraction=0.0, seed=0)
    )


def told(partition: Partition, path: Path, *overrides: str) -> list[str]:
    run, _ = make_run(partition, path, *overrides)
    return [notice.message for notice in run_notices(run)]


def test_drop_last_with_batches_beyond_every_client_is_refused(sizes: Partition, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clients have 1 to 30 training rows") as caught:
        make_run(sizes, tmp_path / "run", "local.drop_last=true", "local.batch_size=31")
    assert "--batch-size 30" in str(caught.value.hint)


def test_clients_that_drop_last_leaves_idle_are_counted(sizes: Partition, tmp_path: Path) -> None:
    found = told(sizes, tmp_path / "run", "local.drop_last=true", "local.batch_size=17")
    assert found[0].startswith("2 of 4 clients make no step")
    assert not any("no step" in text for text in told(sizes, tmp_path / "other", "local.batch_size=17"))


def test_a_last_batch_of_one_row_names_drop_last_under_batch_norm(
    sizes: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NORMED)
    model = ["model=net.py:make", "engine.executor=sequential", "local.batch_size=8"]
    with pytest.raises(ConfigError, match="3 clients would end an epoch: '0' with 1 row, '1'") as caught:
        make_run(sizes, tmp_path / "run", *model)
    assert "-o local.drop_last=true" in str(caught.value.hint)
    make_run(sizes, tmp_path / "dropping", *model, "local.drop_last=true")


def test_a_percentage_as_target_is_warned_of(sizes: Partition, tmp_path: Path) -> None:
    parts = write_partition(
        tmp_path / "parts", toy_dataset(60), Given([0, 1] * 30), PartitionSpec(clients=2, test_fraction=0.2, seed=0)
    )
    cohort = "cohort.clients=2"
    assert told(parts, tmp_path / "a", cohort, "stop.target=95") == [
        "the target accuracy=95 cannot be reached: accuracy is at most 1; a percentage is written as a fraction, 0.95"
    ]
    assert told(parts, tmp_path / "b", cohort, "stop.target=-1", "stop.metric=test_loss") == [
        "the target test_loss=-1 cannot be reached: test_loss is at least 0"
    ]
    assert told(parts, tmp_path / "c", cohort, "stop.target=0.95") == []
    assert told(parts, tmp_path / "d", cohort, "stop.patience=4") == [
        "stop.patience 4 has no effect: the run has 4 evaluations"
    ]


def test_clients_of_one_row_are_counted(sizes: Partition, tmp_path: Path) -> None:
    assert told(sizes, tmp_path / "run") == ["1 of 4 clients have one training row"]


def test_an_executor_that_memory_does_not_help_is_refused_without_naming_it(
    sizes: Partition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NORMED)
    with pytest.raises(ConfigError, match="the model has buffers") as caught:
        make_run(
            sizes,
            tmp_path / "run",
            "model=net.py:make",
            "engine.executor=vmap",
            "local.batch_size=5",
            "local.drop_last=true",
        )
    assert caught.value.hint == "Leave engine.executor to auto."


def test_pictures_are_drawn_without_a_word_on_a_home_that_cannot_be_written() -> None:
    code = "from flctl.report.figure import new_figure; new_figure(1, 1)"
    environment = {**os.environ, "HOME": os.devnull, "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_line_before_a_run_names_the_model_that_auto_stands_for(sizes: Partition, tmp_path: Path) -> None:
    run, directory = make_run(sizes, tmp_path / "run", "model=auto")
    assert "model logreg (auto) (" in opening(Started(run, directory, 0, 4, 0.0))


def test_a_diverging_loss_is_noted_once(sizes: Partition, tmp_path: Path) -> None:
    directory = train_run(sizes, tmp_path / "run", "local.lr=1e6", "rounds=3").directory
    notes = [note for line in directory.lines() for note in line["notes"] if "diverges" in note]
    assert len(notes) == 1
    assert "lower local.lr" in notes[0]
    calm = train_run(sizes, tmp_path / "calm", "rounds=2").directory
    assert not any(line["notes"] for line in calm.lines())


@pytest.mark.parametrize(("empty", "named"), [(2, True), (1, False)])
def test_many_clients_without_rows_are_named(tmp_path: Path, empty: int, named: bool) -> None:
    """Of eight clients."""
    owner = np.repeat(np.arange(8 - empty), 6)
    scheme = Owners(owner, clients=8)
    spec = PartitionSpec(clients=8, test_fraction=0.0, seed=0)
    partition = write_partition(tmp_path / "parts", toy_dataset(len(owner)), scheme, spec)
    found = told(partition, tmp_path / "run")
    assert any(text.startswith(f"{empty} of 8 clients have no training row") for text in found) == named
