"""Baselines: the training of `flctl train` on other assignments of rows, the run's test rows, nothing trained twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.runs import Given, Hidden, checkpoint_digests, make_run, toy_dataset, train_run

from flctl.baselines import training
from flctl.baselines.plan import budget_of, plan
from flctl.baselines.training import Store, train_baselines
from flctl.cli.baselines import job
from flctl.cli.session import use_registry
from flctl.config.load import Loaded
from flctl.data.dataset import Split
from flctl.errors import ConfigError, DataError, IncompatibleError
from flctl.evaluation.client_metrics import client_scores
from flctl.evaluation.outcomes import outcomes_of
from flctl.partition.reassigned import Reassignment, reassign
from flctl.partition.store import Partition
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.report.baselines import ComparedClient, compare_clients, write_client_table
from flctl.report.baselines_picture import draw_baselines
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from flctl.stored.load import from_run

OWNER = np.tile(np.arange(4), 30)
SPEC = PartitionSpec(clients=4, test_fraction=0.3, seed=3)
LOCAL = ("rounds=3", "local.epochs=2", "local.batch_size=8", "local.momentum=0.5", "cohort.clients=2")


def asked(run: Path, **changes) -> job.BaselinesRequest:
    nothing = dict.fromkeys(("data", "clients", "rounds", "metric", "csv", "picture"))
    given = {"kinds": job.kinds_of("alone,pooled,leave-one-out"), "limit": 20, "checkpoint": "last", "yes": False}
    return job.BaselinesRequest(**{"run": run, **nothing, **given, **changes})


@pytest.fixture(scope="module", autouse=True)
def registry():
    use_registry(Registry())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    spec = PartitionSpec(clients=4, test_fraction=0.3, seed=3, validation_fraction=0.2)
    made = write_partition(folder / "part", toy_dataset(120), Given(OWNER), spec)
    return train_run(made, folder / "run", *LOCAL).directory.path


@pytest.fixture(scope="module")
def found(run: Path) -> job.BaselineComparison:
    return job.run(asked(run))


def trained_as(partition: Partition, path: Path, kind: str, index: int = 0) -> dict[str, str]:
    """Digests of the checkpoints of a baseline that is trained in `path`."""
    run, _ = make_run(partition, path.with_name(f"{path.name}-like"), *LOCAL)
    budget = budget_of(run, run.config.rounds)
    baseline = next(one for one in plan(run, budget, [kind], range(4)) if one.reassignment.index == index)
    rows = reassign(partition, baseline.reassignment)
    directory = RunDirectory.create(path, Loaded(baseline.config, {}), rows)
    train(Run.build(baseline.config, run.registry, rows, directory.memory), directory)
    return dict(checkpoint_digests(path))


@pytest.mark.parametrize("kind", ["pooled", "alone"])
def test_a_baseline_is_flctl_train_on_a_partition_of_one_client_bit_for_bit(tmp_path, kind):
    dataset = toy_dataset(120)
    options = {"test_fraction": 0.0, "seed": 3, "standardise": "none"}
    parts = write_partition(tmp_path / "parts", dataset, Given(OWNER), PartitionSpec(clients=4, **options))
    kept = np.arange(120) if kind == "pooled" else np.flatnonzero(OWNER == 0)
    alone = replace(dataset, x=dataset.x[kept], y=dataset.y[kept])
    one = write_partition(tmp_path / "one", alone, Given(np.zeros(len(kept), int)), PartitionSpec(clients=1, **options))
    # A client of four takes part in half of 3 rounds: 1.5, to the nearest even number 2.
    settings = ("rounds=2", *LOCAL[1:4], "cohort.sampling=all")
    expected = checkpoint_digests(train_run(one, tmp_path / "run", *settings).directory.path)
    assert (
        trained_as(parts, tmp_path / "baseline", kind)["round-00002/model.safetensors"]
        == (expected["round-00002/model.safetensors"])
    )


def test_leaving_a_client_out_is_the_run_on_the_other_clients(tmp_path, run):
    partition = Partition.open(run.parent / "part")
    rest = reassign(partition, Reassignment("left-out", 1))
    assert rest.counts[:, 0].tolist() == [17, 0, 17, 17]
    assert [rest.train(k)[0].tolist() for k in (0, 3)] == [partition.train(k)[0].tolist() for k in (0, 3)]
    taken = (np.empty((2, 4), np.float32), np.empty(2, np.int64))
    rest.take(rest.bounds[2, 0] + np.arange(2), taken)
    assert taken[0].tolist() == partition.train(2)[0][:2].tolist()


def test_pooled_rows_are_all_training_rows_in_the_order_of_the_source(run):
    partition = Partition.open(run.parent / "part")
    pooled = reassign(partition, Reassignment("pooled"))
    sources = pooled.column("source_row")
    assert len(sources) == partition.manifest.rows.train
    assert (np.diff(sources) > 0).all()
    assert pooled.selection is None


def test_every_model_is_scored_on_the_clients_test_rows_of_the_run(run, found):
    loaded = from_run(run, "last", None, Registry())
    x, y, offsets = loaded.partition.test_bounds()
    import torch

    with torch.no_grad():
        outcomes = outcomes_of("classification", loaded.model.module(torch.from_numpy(x)).numpy(), y)
    expected = client_scores(outcomes, offsets)["accuracy"]
    assert found.compared.values["federated"].tolist() == expected.tolist()
    assert found.compared.test_rows == np.diff(offsets).tolist()
    assert list(found.compared.values) == ["alone", "federated", "pooled", "left-out"]
    assert (found.budget.share, found.budget.rounds) == (0.5, 2)


def test_finished_baselines_are_not_trained_again(run, found, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "train", fail)
    assert job.run(asked(run)).data() == found.data()
    stored = json.loads((run / "baselines.json").read_text())
    assert stored["result"]["clients"] == json.loads(json.dumps(found.data()["clients"]))
    assert not [path for path in (run / "baselines").iterdir() if path.is_dir()]


def test_a_damaged_file_of_outcomes_is_made_again(run, found):
    file = run / "baselines" / "alone-2.npz"
    before = file.read_bytes()
    file.write_bytes(before[:-1])
    assert job.run(asked(run)).data() == found.data()
    assert len(file.read_bytes()) == len(before)


def test_baselines_that_were_cut_off_go_on_and_give_the_same(tmp_path):
    made = write_partition(
        tmp_path / "part", toy_dataset(120), Given(OWNER), PartitionSpec(clients=4, test_fraction=0.3, seed=3)
    )
    path = train_run(made, tmp_path / "run", *LOCAL).directory.path
    run, _ = job._opened(asked(path))
    baselines = plan(run, budget_of(run, 3), ["pooled"], range(4))
    names: list[str] = []
    stop = train_baselines(run, baselines, Store(path), lambda: True, names.append)
    assert (stop, names) == (None, [])
    assert checkpoint_digests(path / "baselines" / "pooled")
    cut = train_baselines(run, baselines, Store(path), lambda: False, names.append)
    (path / "baselines.json").unlink()
    whole = train_baselines(run, baselines, Store(path), lambda: False, lambda name: None)
    assert cut["pooled"].loss.tolist() == whole["pooled"].loss.tolist()


def test_another_partition_than_that_of_the_run_is_refused(tmp_path, run):
    other = write_partition(
        tmp_path / "other", toy_dataset(120), Given(OWNER), PartitionSpec(clients=4, test_fraction=0.2, seed=4)
    )
    with pytest.raises(IncompatibleError, match="is not the partition that"):
        job.run(asked(run, data=other.path))


def test_baselines_of_a_run_that_hides_clients_need_a_word(tmp_path):
    registry = Registry()
    registry.add(type("Plugin", (), {"flctl_aggregators": staticmethod(lambda: [Hidden])}), "hidden")
    made = write_partition(
        tmp_path / "part", toy_dataset(120), Given(OWNER), PartitionSpec(clients=4, test_fraction=0.3, seed=3)
    )
    run, _ = make_run(made, tmp_path / "run", *LOCAL, "aggregator=hidden", registry=registry)
    with pytest.raises(IncompatibleError, match="not private") as refused:
        job._privacy(run, asked(tmp_path / "run"))
    assert "--yes" in str(refused.value.hint)
    assert "hidden" in job._privacy(run, asked(tmp_path / "run", yes=True))[0]


def test_of_many_clients_some_are_chosen_evenly_by_size_and_that_is_said(run, found):
    limited = job.run(asked(run, limit=2, kinds=("alone",)))
    assert limited.compared.clients == ["0", "3"]
    assert "2 of 4 clients" in limited.notes[-1]
    assert job.run(asked(run, clients="3,1", kinds=("alone",))).compared.clients == ["1", "3"]
    with pytest.raises(DataError, match="no client '9'"):
        job.run(asked(run, clients="9"))


def test_clients_without_test_rows_are_compared_on_the_central_ones(tmp_path):
    dataset = toy_dataset(120)
    own = replace(dataset, test=Split(dataset.x[:20] + 0.1, dataset.y[:20]))
    made = write_partition(tmp_path / "part", own, Given(OWNER), PartitionSpec(clients=4, test_fraction=0.0, seed=3))
    path = train_run(made, tmp_path / "run", *LOCAL).directory.path
    found = job.run(asked(path, kinds=("pooled", "alone"), clients="0,1"))
    assert (found.own_rows, found.compared.test_rows) == (False, [20, 20])


def test_a_difference_small_enough_to_check_by_hand(tmp_path):
    y = np.array([0, 1, 0, 1] * 10)
    right = outcomes_of("binary", np.where(y == 1, 3.0, -3.0)[:, None], y)
    wrong = outcomes_of("binary", np.where(y == 1, -3.0, 3.0)[:, None], y)
    subjects = [
        ComparedClient("a", 5, {"alone": wrong, "federated": right}),
        ComparedClient("b", 6, {"alone": right, "federated": right}),
    ]
    found = compare_clients(subjects, "accuracy", 2)
    first, second = found.differences["federated - alone"]
    assert (first.value, first.low, first.high) == (1, 1, 1)
    assert (second.value, second.low, second.high) == (0, 0, 0)
    assert found.verdicts() == {"gain": 1, "lose": 0, "undecided": 1}
    assert found.order == [1, 0]
    assert found.means == {"alone": 0.5, "federated": 1.0}
    lines = write_client_table(tmp_path / "x.csv", found).read_text().splitlines()
    assert lines[1] == "a,5,40,0.0,1.0,1.0,1.0,1.0"
    with pytest.raises(ConfigError, match="no metric 'rmse'"):
        compare_clients(subjects, "rmse", 2)


def test_a_kind_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match="--only pool") as refused:
        job.kinds_of("alone,pool")
    assert "pooled" in str(refused.value.hint)


@pytest.mark.slow
def test_the_picture_names_the_clients(tmp_path, found):
    text = draw_baselines(found.compared, tmp_path / "x.svg").read_text()
    assert all(f">{client}<" in text for client in found.compared.clients)
    assert ">left-out (mean" in text
