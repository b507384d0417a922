"""The journal of a round at remote sites: whenever the server dies, the resumed run gives the same bits."""

import os
import signal
import sys

import pytest
from support import checkpoint_digests, make_run, prefork, slow_but, untimed_lines
from support.aggregators import RollCall
from support.remote_engine import DiskSites, Killed, journal_deaths, trained_at_disk_sites, without_rows

from flctl import hookimpl
from flctl.errors import IntegrityError, RoundFailedError
from flctl.plugins.registry import Registry
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.round_journal import Drawn, RoundJournal
from flctl.types import Failure

SETTINGS = ("engine.alone=true", "rounds=2", "cohort.clients=3", "aggregator.name=draws", "engine.max_failures=1")


class Draws(RollCall):
    """A roll call whose messages depend on random bytes of the server."""

    name = "draws"

    def server(self, ctx):
        inner, answer = super().server(ctx), None
        nonce = ctx.fresh(8)
        try:
            while True:
                phase = inner.send(answer)
                messages = {client: nonce + message for client, message in phase.messages.items()}
                answer = yield type(phase)(messages, phase.trains)
        except StopIteration as finished:
            return finished.value

    def client(self, memory, message, vector, ctx):
        return super().client(memory, message[8:], vector, ctx)


@pytest.fixture(scope="module")
def registry():
    found = Registry()
    found.add(type("Plugin", (), {"flctl_aggregators": staticmethod(hookimpl(lambda: [Draws]))}), "draws")
    return found


def begun(toy, path, registry, *settings):
    return make_run(without_rows(toy), path, *SETTINGS, *settings, registry=registry)


def killed_at(step, run, directory, engine):
    """Trains until the step; returns whether the server died there."""
    engine.deaths.at, engine.deaths.steps = step, 0
    with journal_deaths(engine.deaths):
        try:
            trained_at_disk_sites(run, directory, engine)
        except Killed:
            return True
    return False


@pytest.fixture(scope="module")
def whole(toy, tmp_path_factory, registry):
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole")
    trained_at_disk_sites(*begun(toy, path / "run", registry), DiskSites(toy, path / "sites"))
    return path / "run"


@pytest.mark.parametrize("step", slow_but(range(1, 50, 4), 9))
def test_a_server_killed_at_any_step_resumes_with_the_same_bits_and_trains_no_round_twice(
    step, toy, tmp_path, registry, whole
):
    run, directory = begun(toy, tmp_path / "run", registry)
    assert killed_at(step, run, directory, DiskSites(toy, tmp_path / "sites"))
    trained_at_disk_sites(run, directory, DiskSites(toy, tmp_path / "sites"))
    assert checkpoint_digests(tmp_path / "run") == checkpoint_digests(whole)
    assert untimed_lines(tmp_path / "run") == untimed_lines(whole)
    trained = DiskSites(toy, tmp_path / "sites").trained()
    assert len(trained) == len(set(trained)) == 6
    assert not list((tmp_path / "run").glob("*.journal"))


KILL = """
import os
import signal
import sys
from pathlib import Path
from flctl.partition.store import Partition
from support.remote_engine import Deaths, DiskSites, trained_at_disk_sites, without_rows
from support.runs import make_run

class Kill9(Deaths):
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

toy, path = Partition.open(Path(sys.argv[1])), Path(sys.argv[2])
run, directory = make_run(without_rows(toy), path / "run", *sys.argv[5:])
sites = DiskSites(toy, path / "sites", Kill9(int(sys.argv[3])), late=sys.argv[4].split(","), late_in=3)
trained_at_disk_sites(run, directory, sites)
"""
SECURE = ("engine.alone=true", "rounds=2", "cohort.sampling=all", "engine.max_failures=1", "aggregator=secagg")


@pytest.mark.slow
def test_a_secure_sum_that_kill_9_cut_off_goes_on_with_the_survivors_it_had(toy, tmp_path):
    in_fourth_phase, late = 3 * 11 + 4, "7"
    script = [sys.executable, "-c", KILL, toy.path, tmp_path, in_fourth_phase, late, *SECURE]
    died = prefork.run(script, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    draft, _ = make_run(without_rows(toy), tmp_path / "draft", *SECURE)
    directory = RunDirectory(tmp_path / "run")
    run = Run.build(draft.config, draft.registry, draft.partition, directory.memory)
    sites = DiskSites(toy, tmp_path / "sites")
    assert trained_at_disk_sites(run, directory, sites).status == "finished"
    assert len(sites.trained()) == len(set(sites.trained())) == 20
    lines = untimed_lines(tmp_path / "run")
    assert [line["answered"] for line in lines] == [9, 10]
    assert not any("attempt" in note for line in lines for note in line.get("notes", ()))


def test_a_phase_that_was_closed_stays_closed_though_a_late_reply_is_there(toy, tmp_path, registry):
    run, directory = begun(toy, tmp_path / "run", registry)
    (late,) = run_cohort(run, directory)[:1]
    sites = DiskSites(toy, tmp_path / "sites", late=(late,), late_in=2)
    sites.deaths.at = 3 + 1 + 3 + 1 + 2  # in the third phase of the first round
    with pytest.raises(Killed):
        trained_at_disk_sites(run, directory, sites)
    assert f"1-{late}" in sites.trained()
    assert trained_at_disk_sites(run, directory, DiskSites(toy, tmp_path / "sites")).rounds == 2
    first, second = untimed_lines(tmp_path / "run")
    assert (first["answered"], list(first["failed"])) == (2, [late])
    assert (second["answered"], second["failed"]) == (3, {})


def run_cohort(run, directory):
    """The clients of a run's first round, in order."""
    from flctl.server.rounds import Rounds

    engine = DiskSites(None, directory.path / "nobody")
    with engine.open(run):
        rounds = Rounds(run, engine)
        return rounds.plan(rounds.initial()).cohort


def test_a_counted_reply_that_is_gone_stops_the_round_and_names_the_client(toy, tmp_path, registry):
    run, directory = begun(toy, tmp_path / "run", registry)
    sites = DiskSites(toy, tmp_path / "sites")
    sites.deaths.at = 3 + 1 + 1
    with pytest.raises(Killed):
        trained_at_disk_sites(run, directory, sites)
    cohort = run_cohort(run, directory)
    gone = DiskSites(toy, tmp_path / "sites", late=cohort[:1], late_in=1)
    with pytest.raises(RoundFailedError, match=f"client '{cohort[0]}' was counted before"):
        trained_at_disk_sites(run, directory, gone)


def test_a_run_at_remote_sites_has_a_checkpoint_of_each_round(toy, tmp_path, registry):
    run, directory = begun(toy, tmp_path / "run", registry, "rounds=3", "checkpoint.every=0", "checkpoint.seconds=0")
    saved = []
    remove = directory.checkpoints.remove
    directory.checkpoints.remove = lambda number: saved.append(number) or remove(number)
    trained_at_disk_sites(run, directory, DiskSites(toy, tmp_path / "sites"))
    assert {1, 2} <= {*saved, *directory.checkpoints.rounds()}


def test_a_line_that_was_cut_off_is_dropped_and_a_damaged_one_is_refused(tmp_path):
    journal = RoundJournal(tmp_path, 3)
    record = journal.exchange("train")
    record.draw(Drawn(("a", "b"), ("c",)))
    kept = record.fresh(4)
    record.close(["a"], {"b": Failure("away", "it did not answer")})
    whole = journal.path.read_bytes()
    for cut in range(len(whole)):
        journal.path.write_bytes(whole[:cut])
        RoundJournal(tmp_path, 3).exchange("train").fresh(4)
        assert journal.path.read_bytes().startswith(whole[: whole.rfind(b"\n", 0, cut) + 1])
    journal.path.write_bytes(whole)
    again = RoundJournal(tmp_path, 3).exchange("train")
    assert (again.drawn, again.fresh(4)) == (Drawn(("a", "b"), ("c",)), kept)
    assert again.closed().failed == {"b": Failure("away", "it did not answer")}
    assert again.closed() is None
    assert RoundJournal(tmp_path, 3).exchange("evaluate").drawn is None
    journal.path.write_bytes(b'{"kind": "phase"}\n')
    with pytest.raises(IntegrityError, match="is damaged"):
        RoundJournal(tmp_path, 3)
