"""`engine.alone`: clients train as sites do, one by one, and every engine gives the same bits."""

import dataclasses
from contextlib import contextmanager

import pytest
from support import checkpoint_digests, make_run, train_run, untimed_lines

from flctl import wire
from flctl.client.memory_store import MemoryStore
from flctl.client.runtime import ClientRuntime
from flctl.config.config import digest
from flctl.engines.engine import Engine
from flctl.partition.federated import FederatedData, SiteData
from flctl.run.run import Run
from flctl.server.training import Training
from flctl.types import WEIGHT

ALONE = ("engine.alone=true", "rounds=2", "cohort.clients=6", "local.batch_size=8")
PATHS = {
    "weighted sum": ("model=mlp",),
    "single updates": ("strategy=fedmedian",),
    "client memory": ("strategy=scaffold",),
    "class weights": ("local.class_weights=balanced-per-client",),
    "compressed updates": ("transforms.quantise.bits=4",),
}


class Sites(Engine):
    """A runtime of its own for each client, which never hears of another client."""

    name = "sites"

    @contextmanager
    def open(self, run):
        self._run, self._runtimes = run, {}
        yield self

    def clients(self):
        return self._run.partition.client_ids

    def exchange(self, requests, deadline=None):
        for client in reversed(list(requests)):
            runtime = self._runtimes.setdefault(client, ClientRuntime(self._run))
            yield client, runtime.answer(client, requests[client], b"")[0]


@pytest.mark.parametrize("settings", PATHS.values(), ids=list(PATHS))
def test_clients_that_train_alone_give_the_bits_of_separate_sites(settings, toy, tmp_path):
    train_run(toy, tmp_path / "here", *ALONE, *settings)
    run, directory = make_run(toy, tmp_path / "sites", *ALONE, *settings)
    engine = Sites()
    with directory.locked(), engine.open(run):
        Training(run, directory, engine, lambda: False).finish()
    assert checkpoint_digests(tmp_path / "sites") == checkpoint_digests(tmp_path / "here")
    assert untimed_lines(tmp_path / "sites") == untimed_lines(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.parametrize("settings", PATHS.values(), ids=list(PATHS))
def test_clients_that_train_alone_give_the_same_bits_for_one_two_and_four_workers(settings, toy, tmp_path):
    train_run(toy, tmp_path / "here", *ALONE, *settings)
    for workers in (1, 2, 4):
        path = tmp_path / f"pool-{workers}"
        train_run(toy, path, *ALONE, *settings, "engine.name=pool", f"engine.workers={workers}")
        assert checkpoint_digests(path) == checkpoint_digests(tmp_path / "here")


def test_clients_that_train_alone_never_share_the_products_of_others(toy, tmp_path):
    together, _ = make_run(toy, tmp_path / "together")
    alone, _ = make_run(toy, tmp_path / "alone", "engine.alone=true")
    assert together.execution.executor == "shared"
    assert alone.execution.executor != "shared"
    assert all(len(chunk) == 1 for chunk in alone.execution.chunks(toy.counts[:, 0]))


def test_a_checkpoint_of_clients_together_is_of_another_configuration(toy, tmp_path):
    together, _ = make_run(toy, tmp_path / "together")
    alone, _ = make_run(toy, tmp_path / "alone", "engine.alone=true")
    assert digest(together.config) != digest(alone.config)


class SitesWithRows(Sites):
    """Sites that have their own rows alone; the server has none."""

    name = "sites-with-rows"

    def __init__(self, partition):
        super().__init__()
        self.partition = partition

    def exchange(self, requests, deadline=None):
        for client in requests:
            if client not in self._runtimes:
                own = SiteData(self._run.partition, self.partition, client)
                config, registry = self._run.config, self._run.registry
                self._runtimes[client] = ClientRuntime(Run.build(config, registry, own, self._run.memory_directory))
        yield from super().exchange(requests, deadline)


@pytest.mark.parametrize("settings", PATHS.values(), ids=list(PATHS))
def test_a_server_without_rows_and_sites_with_their_own_give_the_same_models(settings, toy, tmp_path):
    settings = (*ALONE, "eval.every=0", *settings)
    train_run(toy, tmp_path / "here", *settings)
    run, directory = make_run(FederatedData.of(toy), tmp_path / "sites", *settings)
    engine = SitesWithRows(toy)
    with directory.locked(), engine.open(run):
        Training(run, directory, engine, lambda: False).finish()
    assert checkpoint_digests(tmp_path / "sites") == checkpoint_digests(tmp_path / "here")


class SitesWithMemory(Sites):
    """Sites that keep their own memory; the server's calls are passed on to each."""

    name = "sites-with-memory"

    def client_memory(self, run):
        return self

    def exchange(self, requests, deadline=None):
        for client in requests:
            if client not in self._runtimes:
                own = dataclasses.replace(self._run, memory_directory=self._run.directory / "sites" / client)
                self._runtimes[client] = ClientRuntime(own)
            yield client, self._runtimes[client].answer(client, requests[client], b"")[0]

    def retract(self, clients, round_number):
        for client in clients:
            self._store(self.clients()[client]).retract([client], round_number)

    def sync(self):
        self._each("sync")

    def settle(self, round_number):
        self._each("settle", round_number)

    def forget_after(self, round_number):
        self._each("forget_after", round_number)

    def _each(self, call, *arguments):
        for client in self.clients():
            getattr(self._store(client), call)(*arguments)

    def _store(self, client):
        folder = self._run.directory / "sites" / client
        return MemoryStore(folder, self._run.partition.clients, self._run.memory_layout)


def trained_at_sites(run, directory):
    engine = SitesWithMemory()
    with directory.locked(), engine.open(run):
        return Training(run, directory, engine, lambda: False).finish()


def test_clients_that_keep_their_memory_themselves_give_the_same_bits_after_a_resume(toy, tmp_path):
    settings = (*ALONE, "strategy=scaffold", "transforms.topk.fraction=0.5")
    train_run(toy, tmp_path / "here", *settings)
    begun, directory = make_run(toy, tmp_path / "sites", *settings, "rounds=1")
    trained_at_sites(begun, directory)
    run = dataclasses.replace(make_run(toy, tmp_path / "same", *settings)[0], memory_directory=directory.memory)
    trained_at_sites(run, directory)
    assert not directory.memory.exists()
    assert checkpoint_digests(tmp_path / "sites").items() >= checkpoint_digests(tmp_path / "here").items()


class SitesWithOneThatExaggerates(SitesWithRows):
    """Sites of which the first multiplies its weight by `factor`."""

    name = "sites-with-one-that-exaggerates"

    def __init__(self, partition, factor):
        super().__init__(partition)
        self.factor = factor

    def exchange(self, requests, deadline=None):
        first = next(iter(requests))
        for client, reply in super().exchange(requests, deadline):
            if client == first:
                vectors = dict(wire.unpack(reply.message, "vector").arrays)
                vectors[WEIGHT] = self.factor * vectors[WEIGHT]
                reply = dataclasses.replace(reply, message=wire.pack("vector", arrays=vectors))
            yield client, reply


@pytest.mark.parametrize(("factor", "answered"), [(1.04, 6), (1.06, 5), (1e9, 5)])
def test_a_site_weighs_no_more_than_the_rows_that_it_declared(factor, answered, toy, tmp_path):
    settings = (*ALONE, "eval.every=0", "rounds=1", "engine.max_failures=1")
    run, directory = make_run(FederatedData.of(toy), tmp_path / "sites", *settings)
    engine = SitesWithOneThatExaggerates(toy, factor)
    with directory.locked(), engine.open(run):
        Training(run, directory, engine, lambda: False).finish()
    (line,) = untimed_lines(tmp_path / "sites")
    assert line["answered"] == answered
    assert all("weight" in failure["message"] for failure in line["failed"].values())
