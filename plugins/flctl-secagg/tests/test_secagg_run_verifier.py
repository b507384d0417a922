"""The verifier of a run: a record with a session deleted, doubled, rewritten or cut off is no honest record."""

import contextvars
import json
import shutil

import pytest
from flctl_secagg.cli import commands
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.protocol import frames
from flctl_secagg.server.journal import JOURNAL, Journal
from flctl_secagg.server.survivor_lists import SERVER
from flctl_secagg.transcripts.models import verify_models
from flctl_secagg.transcripts.recording import record_cut
from flctl_secagg.transcripts.run_verifier import verify_run
from test_secagg_runs import ENGINE, faulty
from typer.testing import CliRunner

from flctl import IntegrityError
from flctl.cli.session import use_registry
from flctl.testing.trial import Trial


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three rounds; the second is burnt, as five of nine vanish while shares are opened."""
    trial = Trial(tmp_path_factory.mktemp("recorded"), "model=mlp")
    chosen = "aggregator={name: secagg, transcript: true}"
    return trial.train("rounds=3", chosen, ENGINE, registry=faulty({(frames.UNMASK, 2): tuple("01234")})).directory


@pytest.fixture
def recorded(trained, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def transcripts(run):
    return sorted((run / "secagg" / "transcripts").iterdir())


def without_last(path):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def test_a_run_with_a_burnt_round_holds(recorded):
    verdicts = verify_run(recorded)
    assert [(one.round, len(one.survivors)) for one in verdicts] == [(1, 9), (2, 0), (3, 9)]
    assert "opened shares" in verdicts[1].refused


def test_the_models_around_a_burnt_round_follow_from_the_sums(recorded):
    def models():
        use_registry(faulty({}))
        return verify_models(recorded, verify_run(recorded))

    assert 3 in contextvars.copy_context().run(models).recomputed


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_transcript_that_was_deleted_is_missed(recorded, place):
    transcripts(recorded)[place].unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        verify_run(recorded)


def test_a_round_that_was_deleted_from_the_journal_too_breaks_the_chain(recorded):
    """Transcript and line of round 2 are gone: the id of round 3 binds them, under the signatures of its clients."""
    transcripts(recorded)[1].unlink()
    journal = recorded / "secagg" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[2])
    with pytest.raises(IntegrityError, match="follows other sessions"):
        verify_run(recorded)


def test_a_last_round_that_was_deleted_is_missed_by_metrics_checkpoints_and_ledger(recorded):
    transcripts(recorded)[2].unlink()
    without_last(recorded / "secagg" / JOURNAL)
    with pytest.raises(IntegrityError, match="round 3 has 9 answers, and the journal None"):
        verify_run(recorded)
    without_last(recorded / "metrics.jsonl")
    with pytest.raises(IntegrityError, match="round-00003 is a checkpoint of a round without"):
        verify_run(recorded)
    shutil.rmtree(recorded / "checkpoints" / "round-00003")
    with pytest.raises(IntegrityError, match="the ledger has other survivors of round 3"):
        verify_run(recorded)


def test_a_last_round_that_only_the_summary_still_counts_is_missed(recorded):
    transcripts(recorded)[2].unlink()
    without_last(recorded / "secagg" / JOURNAL)
    without_last(recorded / "metrics.jsonl")
    shutil.rmtree(recorded / "checkpoints" / "round-00003")
    (recorded / "secagg" / "ledger.sqlite").unlink()
    with pytest.raises(IntegrityError, match=r"summary.json counts 3 rounds, and the journal ends in round 2"):
        verify_run(recorded)


def test_a_transcript_that_is_there_twice_or_changed_is_found(recorded):
    first, *_ = transcripts(recorded)
    copy = first.with_name("round-00001-ffffffffffff.transcript")
    shutil.copy(first, copy)
    with pytest.raises(IntegrityError, match="the journal does not have the transcript"):
        verify_run(recorded)
    copy.unlink()
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        verify_run(recorded)


def test_metrics_that_tell_of_other_answers_are_found(recorded):
    metrics = recorded / "metrics.jsonl"
    lines = [json.loads(text) for text in metrics.read_text().splitlines()]
    lines[1]["answered"] = 9
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(IntegrityError, match="round 2 has 9 answers, and the journal 0"):
        verify_run(recorded)


def test_a_journal_that_is_gone_is_an_error(recorded):
    (recorded / "secagg" / JOURNAL).unlink()
    with pytest.raises(IntegrityError, match="is missing, or empty"):
        verify_run(recorded)


def test_a_session_that_a_stop_cut_off_is_part_of_the_chain(recorded):
    """Round 3 as if the server had been stopped in it: its transcript ends early, and the journal has no line of it."""
    last = transcripts(recorded)[2]
    last.write_bytes(last.read_bytes()[:-5000])
    without_last(recorded / "secagg" / JOURNAL)
    without_last(recorded / "metrics.jsonl")
    shutil.rmtree(recorded / "checkpoints" / "round-00003")
    (recorded / "summary.json").unlink()  # a run that was stopped has none
    ledger = Ledger(recorded / "secagg" / "ledger.sqlite", synced=False)
    with ledger._locked() as connection:
        connection.execute("DELETE FROM openings WHERE client = ? AND round = 3", (SERVER,))
    assert verify_run(recorded)[-1].refused is not None
    record_cut(Journal(recorded / "secagg"))
    assert Journal(recorded / "secagg").outcomes()[-1].end == "cut"
    assert verify_run(recorded)[-1].refused is not None


def test_without_a_pinned_operator_the_verifier_says_that_nothing_vouches_for_the_roster(recorded, tmp_path):
    said = CliRunner().invoke(commands.app, ["verify", str(recorded), "--sessions-only"]).output
    assert said.splitlines()[-1].startswith("the roster's signature was not checked")
    (tmp_path / "operator.pub").write_text(verify_run(recorded)[0].operator)
    pinned = ["verify", str(recorded), "--sessions-only", "--operator", str(tmp_path / "operator.pub")]
    assert "vouches" not in CliRunner().invoke(commands.app, pinned).output
    alone = CliRunner().invoke(commands.app, ["verify", str(transcripts(recorded)[0])]).output
    assert "name the run to check that no transcript is missing" in alone
