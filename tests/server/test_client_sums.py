"""Evaluation and statistics by sums over clients' rows, through the aggregator like updates."""

from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checkpoint_digests, make_run, train_run, untimed_lines
from support.runs import Given

from flctl.algorithms.aggregators.accumulators import UpdateIntake
from flctl.client.runtime import ClientRuntime
from flctl.data.dataset import Dataset
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, IncompatibleError
from flctl.evaluation.column_sums import ColumnSums
from flctl.evaluation.whole_sums import WholeSums
from flctl.partition.federated import FederatedData, SiteData
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.run.run import Run
from flctl.server.client_sums import ClientSums
from flctl.server.collect import RoundTraffic
from flctl.server.training import Training
from flctl.timing import PhaseTimer
from flctl.types import ROW_SUMS, Request, Work

AT = "eval.at=clients"
TWO = ("accuracy", "macro_f1")


def lines_of(path, *names):
    return [[line[name] for name in names] for line in untimed_lines(path)]


def test_sums_over_clients_give_the_accuracy_of_all_rows_together(toy, tmp_path):
    train_run(toy, tmp_path / "server", "metric=macro_f1")
    train_run(toy, tmp_path / "clients", "metric=macro_f1", AT)
    assert checkpoint_digests(tmp_path / "clients") == checkpoint_digests(tmp_path / "server")
    assert lines_of(tmp_path / "clients", *TWO) == lines_of(tmp_path / "server", *TWO)
    np.testing.assert_allclose(
        lines_of(tmp_path / "clients", "test_loss"), lines_of(tmp_path / "server", "test_loss"), atol=1e-6
    )


def test_the_same_sums_in_this_process_and_in_workers(toy, tmp_path):
    train_run(toy, tmp_path / "here", AT, "rounds=2")
    train_run(toy, tmp_path / "pool", AT, "rounds=2", "engine.name=pool", "engine.workers=2")
    assert untimed_lines(tmp_path / "pool") == untimed_lines(tmp_path / "here")


class Sites(InProcessEngine):
    """A runtime on each site's own rows; the server has none."""

    name = "sites"
    gathers = False

    def __init__(self, partition):
        super().__init__()
        self.partition = partition

    @contextmanager
    def open(self, run):
        self._run = run
        yield self

    def clients(self):
        return self._run.partition.client_ids

    def exchange(self, requests, deadline=None):
        for client, request in requests.items():
            own = SiteData(self._run.partition, self.partition, client)
            site = Run.build(self._run.config, self._run.registry, own, self._run.memory_directory)
            yield client, ClientRuntime(site).answer(client, request, b"")[0]


def trained_at_sites(partition, path, *settings):
    run, directory = make_run(FederatedData.of(partition), path, *settings)
    engine = Sites(partition)
    with directory.locked(), engine.open(run):
        return Training(run, directory, engine, lambda: False).finish()


@pytest.fixture(scope="module")
def yes_or_no(tmp_path_factory):
    """Two classes that overlap, most rows in one, at clients of 300 rows."""
    rng = np.random.default_rng(1)
    y = (rng.random(3000) < 0.2).astype(np.int64)
    x = (rng.normal(size=(3000, 4)) + y[:, None] * 0.7).astype(np.float32)
    dataset = Dataset("two", "binary", x, y, ("no", "yes"), tuple("pqrs"))
    spec = PartitionSpec(clients=10, test_fraction=0.5, seed=3)
    return write_partition(tmp_path_factory.mktemp("two") / "two", dataset, Given(np.arange(3000) % 10), spec)


def test_a_simulated_twin_has_the_figures_of_a_run_whose_server_has_no_rows(toy, tmp_path):
    settings = ("engine.alone=true", "rounds=2", "stop.patience=5")
    trained_at_sites(toy, tmp_path / "sites", *settings)
    train_run(toy, tmp_path / "twin", *settings, AT)
    assert untimed_lines(tmp_path / "sites") == untimed_lines(tmp_path / "twin")
    assert checkpoint_digests(tmp_path / "sites") == checkpoint_digests(tmp_path / "twin")


def test_a_ranking_by_sums_is_that_of_all_rows_within_a_thousandth(yes_or_no, tmp_path):
    settings = ("metric=f1", "stop.metric=auroc", "stop.target=1", "rounds=2")
    train_run(yes_or_no, tmp_path / "server", *settings)
    train_run(yes_or_no, tmp_path / "clients", *settings, AT)
    assert lines_of(tmp_path / "clients", "f1") == lines_of(tmp_path / "server", "f1")
    summed, central = (np.array(lines_of(tmp_path / name, "auroc")) for name in ("clients", "server"))
    assert np.all(central > 0.5)
    assert np.abs(summed - central).max() < 1e-3


def test_a_secure_sum_gives_the_same_figures_as_a_sum_in_the_clear(toy, tmp_path):
    settings = (AT, "rounds=2", "cohort.clients=10")
    train_run(toy, tmp_path / "secure", *settings, "aggregator.name=secagg", "aggregator.bits=24")
    train_run(toy, tmp_path / "clear", *settings)
    assert lines_of(tmp_path / "secure", "accuracy") == lines_of(tmp_path / "clear", "accuracy")


def test_patience_counts_evaluations_at_clients(toy, tmp_path):
    result = train_run(toy, tmp_path / "run", AT, "stop.patience=2", "stop.min_delta=2", "rounds=9")
    assert (result.status, result.rounds) == ("patience", 3)


def test_figures_of_single_clients_are_told_if_asked_for_alone(toy, tmp_path):
    train_run(toy, tmp_path / "server", "eval.per_client=true", "rounds=2")
    train_run(toy, tmp_path / "clients", "eval.per_client=true", AT, "rounds=2")
    names = ("accuracy_mean", "accuracy_worst_decile")
    np.testing.assert_allclose(lines_of(tmp_path / "clients", *names), lines_of(tmp_path / "server", *names))
    train_run(toy, tmp_path / "silent", AT, "rounds=1")
    assert not [name for line in untimed_lines(tmp_path / "silent") for name in line if name.startswith("accuracy_")]


def test_a_metric_that_no_sum_gives_is_refused(toy, tmp_path):
    with pytest.raises(ConfigError, match="'auroc' does not follow from sums"):
        make_run(toy, tmp_path / "run", AT, "metric=auroc")


def test_clients_below_the_floor_are_not_asked_and_do_not_answer(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", AT, "eval.min_rows=6")
    counts = toy.counts[:, 1]
    assert 0 < (counts >= 6).sum() < len(counts)
    work = Work(
        1, run.build_model().read(), {}, {}, run.config.local.amount(), {ROW_SUMS["evaluate"]: 1}, ask="evaluate"
    )
    with InProcessEngine().open(run) as engine:
        sums = ClientSums(run, engine)
        traffic = RoundTraffic(UpdateIntake({}))
        assert sums.metrics(work.params, 1, traffic, PhaseTimer())["accuracy"] >= 0
        small = str(np.flatnonzero(counts < 6)[0])
        ((_, answer),) = engine.exchange({small: Request(1, work, b"")})
    assert (answer.kind, answer.message) == ("refused", "fewer than 6 rows, the least of eval.min_rows")


def test_statistics_by_sums_are_those_of_all_rows_together(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "eval.min_rows=2")
    with InProcessEngine().open(run) as engine:
        found = ClientSums(run, engine).statistics()
    rows = np.concatenate([toy.train(index)[0] for index in range(toy.clients)]).astype(np.float64)
    assert found.count.tolist() == [len(rows)] * 4
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.squares, ((rows - rows.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-12)


def test_statistics_without_a_floor_are_refused_by_server_and_client(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run")
    work = Work(1, {}, {}, {}, run.config.local.amount(), {ROW_SUMS["statistics"]: 1}, ask="statistics")
    with InProcessEngine().open(run) as engine:
        with pytest.raises(ConfigError, match="need a floor"):
            ClientSums(run, engine).statistics()
        ((_, answer),) = engine.exchange({"0": Request(1, work, b"")})
    assert (answer.kind, answer.message) == ("refused", "statistics are refused, because no eval.min_rows is set")


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=20), st.integers(0, 20))
def test_sums_of_columns_are_exact_in_whatever_parts(values, cut):
    code, x = ColumnSums(1), np.array(values, np.float32)[:, None]
    parts = [sum(pair) for pair in zip(code.of(x[:cut]), code.of(x[cut:]), strict=True)]
    assert parts == code.of(x)
    assert parts[1] == sum(Fraction(value) for value in values) * 2**149
    assert parts[2] == sum(Fraction(value) ** 2 for value in values) * 2**298


@given(st.lists(st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3), min_size=1, max_size=9),
       st.sampled_from([None, 16, 20, 24, 32, 64]))  # fmt: skip
def test_whole_numbers_add_up_exactly_in_any_ring(clients, ring):
    code = WholeSums.fitting(3, 96, ring, len(clients))
    total = sum((code.encode(values) for values in clients), np.zeros(code.words, np.int64))
    assert ring is None or total.max() < 1 << (ring - 1)
    assert code.decode(total) == [sum(column) for column in zip(*clients, strict=True)]


def test_a_ring_that_is_too_small_for_the_clients_is_refused():
    with pytest.raises(IncompatibleError, match="too small"):
        WholeSums.fitting(1, 64, 16, 100_000)
