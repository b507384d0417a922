"""An engine of sites that keep their replies on disk, as sites and a hub do; and deaths of the server."""

import hashlib
import json
from contextlib import contextmanager

from flctl.client.runtime import ClientRuntime
from flctl.engines.engine import Engine
from flctl.partition.federated import FederatedData, SiteData
from flctl.run.run import Run
from flctl.server import round_journal
from flctl.server.training import Training
from flctl.types import Failure, Reply
from flctl.wire import messages


class Killed(BaseException):
    """The server's death: no error of flctl, so that nothing is tidied up."""


class Deaths:
    """Counts the steps of a server and kills it at one of them."""

    def __init__(self, at=None):
        self.at, self.steps = at, 0

    def step(self):
        self.steps += 1
        if self.steps == self.at:
            self.die()

    def die(self):
        raise Killed


class DiskSites(Engine):
    """Sites with their own rows. A task that was answered is answered again with the same bytes, and not trained again.

    `late` names clients whose replies arrive too late in the phase `late_in`, as long as this engine lives.
    """

    name = "disk-sites"

    def __init__(self, partition, folder, deaths=None, late=(), late_in=0):
        super().__init__()
        self.partition, self.folder, self.deaths = partition, folder, deaths or Deaths()
        self.late, self.late_in, self._phase = late, late_in, 0
        folder.mkdir(exist_ok=True)

    @contextmanager
    def open(self, run):
        self._run, self._runtimes = run, {}
        yield self

    def clients(self):
        return self._run.partition.client_ids

    def exchange(self, requests, deadline=None):
        self._phase += 1
        for client, request in requests.items():
            self.deaths.step()
            reply = self._reply(client, request)
            if client in self.late and self._phase == self.late_in:
                reply = Failure("away", "it did not answer")
            yield client, reply
        self.deaths.step()

    def trained(self):
        """The tasks that were trained, in order."""
        return (self.folder / "trained").read_text().split()

    def _reply(self, client, request):
        work = b"" if request.work is None else messages.pack_work(request.work)
        task = hashlib.sha256(repr((request.round, client, work, request.message)).encode()).hexdigest()
        file, memory = self.folder / task, self.folder / f"memory-{request.round}-{client}"
        if not file.exists():
            before = memory.read_bytes() if memory.exists() else b""
            answer, after = self._runtime(client).answer(client, request, before)
            if isinstance(answer, Failure):
                return answer
            memory.write_bytes(after)
            file.write_text(json.dumps([answer.message.hex(), dict(answer.metrics)]))
            if request.ask == "train":
                with (self.folder / "trained").open("a") as log:
                    log.write(f"{request.round}-{client}\n")
        message, metrics = json.loads(file.read_text())
        return Reply(bytes.fromhex(message), metrics)

    def _runtime(self, client):
        if client not in self._runtimes:
            own = SiteData(self._run.partition, self.partition, client)
            site = Run.build(self._run.config, self._run.registry, own, self._run.memory_directory)
            self._runtimes[client] = ClientRuntime(site)
        return self._runtimes[client]


def trained_at_disk_sites(run, directory, engine):
    """Trains a run whose server has no rows."""
    with directory.locked(), engine.open(run):
        return Training(run, directory, engine, lambda: False).finish()


@contextmanager
def journal_deaths(deaths):
    """Makes each line of a round's journal two steps: before it is written, and after."""
    add = round_journal.RoundJournal.add

    def stepped(journal, line):
        deaths.step()
        add(journal, line)
        deaths.step()

    round_journal.RoundJournal.add = stepped
    try:
        yield
    finally:
        round_journal.RoundJournal.add = add


def without_rows(partition):
    """The partition as a server of a federation has it."""
    return FederatedData.of(partition)
