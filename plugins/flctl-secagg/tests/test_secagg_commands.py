"""`flctl secagg`: keys, rosters, plans, and the verifier against transcripts that somebody changed."""

import json
import os
import re

import numpy as np
import pytest
from flctl_secagg.cli import commands
from flctl_secagg.encoding.packing import pack, unpack
from flctl_secagg.identity.keys import read_private
from flctl_secagg.identity.roster import read_roster
from flctl_secagg.protocol import frames
from flctl_secagg.transcripts import verifier
from flctl_secagg.transcripts.recording import CAME, MAGIC, PUBLISHED, SENT, Entry, read_entries
from typer.testing import CliRunner

import flctl
from flctl import ConfigError, FlctlError, IncompatibleError, IntegrityError
from flctl.testing.trial import Trial

HEAD = 38


def run(*arguments):
    """What a command says as JSON. Raises what it raises."""
    result = CliRunner().invoke(commands.app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    answer = json.loads(result.output)
    assert (answer["flctl"], answer["ok"], answer["command"]) == (1, True, f"secagg {' '.join(words(arguments))}")
    return answer["data"]


def words(arguments):
    names = [str(word) for word in arguments[:2]]
    return names if names[0] in ("keys", "roster") else names[:1]


CLIENTS = [str(client) for client in range(9)]


@pytest.fixture
def directory(tmp_path):
    """Keys of nine clients and a roster that an operator signed."""
    run("keys", "init", tmp_path / "keys", *CLIENTS, "--operator")
    run("roster", "sign", tmp_path / "keys", "--run", "autumn")
    return tmp_path / "keys"


def test_keys_are_made_once_and_for_their_owner_alone(directory):
    files = [*(directory / "clients").iterdir(), directory / "operator.key"]
    assert len(files) == 10
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert len({path.read_bytes() for path in files}) == 10
    with pytest.raises(ConfigError, match="exists"):
        run("keys", "init", directory, "3")
    for bad in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(ConfigError, match=r"is not a valid file name|cannot be a client.s id"):
            run("keys", "init", directory, bad)
    with pytest.raises(ConfigError, match="no client was named"):
        run("keys", "init", directory)


def test_no_private_key_is_printed(directory):
    said = CliRunner().invoke(commands.app, ["keys", "export", str(directory)]).output
    assert [line.split()[0] for line in said.splitlines()] == CLIENTS
    for client in CLIENTS:
        assert read_private(directory / "clients" / f"{client}.key").hex() not in said


def test_a_key_that_others_can_read_is_refused(directory):
    path = directory / "clients" / "3.key"
    os.chmod(path, 0o640)
    with pytest.raises(IntegrityError, match="can be read by other users"):
        read_private(path)


def test_a_roster_is_made_of_public_keys_alone(directory, tmp_path):
    listed = tmp_path / "public.txt"
    listed.write_text(CliRunner().invoke(commands.app, ["keys", "export", str(directory)]).output)
    run("keys", "init", tmp_path / "operator", "--operator")
    told = run("roster", "sign", tmp_path / "operator", "--run", "winter", "--public", listed)
    assert (told["clients"], told["run"]) == (9, "winter")
    assert run("roster", "verify", tmp_path / "operator") == {"valid": True, **told}
    assert read_roster(tmp_path / "operator" / "roster.json").keys == read_roster(directory / "roster.json").keys
    for bad in ("a b\n", "a " + "00" * 31 + "\n", "a " + "00" * 32 + "\na " + "01" * 32 + "\n"):
        listed.write_text(bad)
        with pytest.raises(ConfigError, match="not a list of public keys"):
            run("roster", "sign", tmp_path / "operator", "--run", "x", "--public", listed)


def test_a_roster_that_was_changed_or_signed_by_another_is_refused(directory, tmp_path):
    text = (directory / "roster.json").read_text()
    key = json.loads(text)["clients"]["3"]
    (directory / "roster.json").write_text(text.replace(key, "00" * 32))
    with pytest.raises(IntegrityError, match="signature is invalid"):
        run("roster", "verify", directory)
    for bad in ("", "[]", "{}", text[:-20], text.replace("roster/1", "roster/2")):
        (directory / "roster.json").write_text(bad)
        with pytest.raises(IntegrityError, match="is not a roster"):
            run("roster", "verify", directory)
    run("keys", "init", tmp_path / "other", *CLIENTS, "--operator")
    run("roster", "sign", tmp_path / "other", "--run", "autumn")
    (directory / "roster.json").write_text((tmp_path / "other" / "roster.json").read_text())
    with pytest.raises(IntegrityError, match="another key"):
        run("roster", "verify", directory)


def test_a_run_takes_its_keys_from_a_directory(directory, tmp_path):
    trial = Trial(tmp_path, "model=mlp", "rounds=1", "engine=inprocess")
    masked = trial.train(f"aggregator={{name: secagg, keys: '{directory.as_posix()}'}}")
    np.testing.assert_allclose(masked.weights, trial.train().weights, atol=1e-5)
    assert not (masked.directory / "secagg" / "simulation.key").exists()
    (directory / "clients" / "3.key").unlink()
    with pytest.raises(FlctlError):
        trial.train(f"aggregator={{name: secagg, keys: '{directory.as_posix()}'}}")
    run("keys", "init", tmp_path / "few", *CLIENTS[:5], "--operator")
    run("roster", "sign", tmp_path / "few", "--run", "autumn")
    with pytest.raises(IncompatibleError, match="4 clients not on the roster"):
        trial.prepare(f"aggregator={{name: secagg, keys: '{(tmp_path / 'few').as_posix()}'}}")


def test_a_plan_tells_what_a_session_costs():
    """500 clients, hbc: k, t = 42, 24; 20 bits leave Q = 2^19 / 500 = 1048 levels; 2.5 bytes a word."""
    told = run(
        "plan", "--clients", 500, "--parameters", 100_000, "-o", "bits=20", "-o", "clip=0.5", "-o", "max_weight=1"
    )
    assert (told["neighbours"], told["threshold"], told["levels"], told["survives"]) == (42, 24, 1048, 18)
    assert told["level"] == pytest.approx(0.5 / 1048)
    assert told["deviation"] == pytest.approx(0.5 / 1048 / 2 / 500**0.5)
    assert 250_000 < told["bytes_up"] < 265_000
    assert told["client_seconds"] > 0
    for bad, said in (("bits=31", "expected one of"), ("colour=red", "aggregator.colour"), ("x", "not KEY=VALUE")):
        with pytest.raises(ConfigError, match=said):
            run("plan", "--clients", 50, "--parameters", 10, "-o", bad)
    with pytest.raises(IncompatibleError, match="levels for each of 3,000 clients"):
        run("plan", "--clients", 3000, "--parameters", 10, "-o", "bits=16")


def test_a_plan_s_bytes_are_those_of_a_session():
    """What one client of nine sends and hears in a real session, but for the length of ids."""
    from flctl_secagg.planning.costs import Speed, plan
    from flctl_secagg.protocol.degrees import Degrees
    from secagg_support import attempt_of, cohort_of

    for mode in ("hbc", "active"):
        cohort = cohort_of(9)
        attempt = attempt_of(cohort, mode=mode)
        cohort.play(attempt)
        parameters, encoding = attempt.session.parameters, attempt.session.encoding
        degrees = Degrees(parameters.neighbours, parameters.threshold)
        hello = len(parameters.canonical())
        told = plan(encoding, degrees, active=mode == "active", hello=hello, speed=Speed(1, 1, 1, 1, 1))
        assert told.bytes_up == sum(len(reply) for _, name, reply in cohort.said if name == "c03")
        assert told.bytes_down == sum(len(message) for _, name, message in cohort.heard if name == "c03")


def test_the_benchmark_tells_a_ratio():
    told = run("bench", "--length", 20_000, "--streams", 3)
    assert 0 < told["rho"] < 3
    assert told["masks"] > 0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of two rounds in active mode with transcripts."""
    trial = Trial(tmp_path_factory.mktemp("recorded"), "model=mlp", "engine=inprocess")
    return trial.train("aggregator={name: secagg, mode: active, transcript: true}").directory


def test_recorded_sessions_hold(recorded):
    sessions = run("verify", recorded)["sessions"]
    assert [(one["round"], one["mode"], one["refused"], len(one["survivors"])) for one in sessions] == [
        (1, "active", None, 9),
        (2, "active", None, 9),
    ]
    assert [one["masked"] + one["short"] for one in sessions] == [9, 9]
    assert all(re.fullmatch("[0-9a-f]{64}", one["sid"]) for one in sessions)


def written(path, entries):
    """A transcript of these entries."""
    from flctl_secagg.transcripts.recording import Transcript

    with path.open("wb") as file:
        file.write(MAGIC)
        transcript = Transcript(file)
        for entry in entries:
            transcript._write(entry.way, entry.kind, entry.client, entry.message)
    return path


def changed(entry, at, by=1):
    message = bytearray(entry.message)
    message[at] ^= by
    return Entry(entry.way, entry.kind, entry.client, bytes(message))


def first(entries, way, kind, client=None):
    return next(i for i, e in enumerate(entries) if (e.way, e.kind) == (way, kind) and client in (None, e.client))


@pytest.mark.parametrize(
    ("way", "kind", "at", "said"),
    [
        (SENT, frames.HELLO, -3, "not well-formed|canonical|violates the protocol|roster|contradict each other"),
        (SENT, frames.KEYS, 60, "a message that violates the protocol"),
        (SENT, frames.DELIVER, 60, "a message that violates the protocol"),
        (SENT, frames.SURVIVORS, HEAD, "a message that violates the protocol"),
        (SENT, frames.UNMASK, HEAD, "a message that violates the protocol"),
        (CAME, frames.ADVERTISE, 60, "a message that violates the protocol"),
        (CAME, frames.MASKED, -1, "a message that violates the protocol"),
        (CAME, frames.AGREED, -1, "a message that violates the protocol"),
        (SENT, PUBLISHED, 8, "does not match the clients' messages"),
    ],
)
def test_a_transcript_that_was_changed_does_not_hold(recorded, tmp_path, way, kind, at, said):
    (path, *_) = sorted((recorded / "secagg" / "transcripts").iterdir())
    entries = list(read_entries(path))
    place = first(entries, way, kind)
    entries[place] = changed(entries[place], at)
    with pytest.raises(IntegrityError, match=said):
        verifier.verify(written(tmp_path / "changed", entries))


def test_a_box_that_was_rewritten_alike_where_it_came_and_where_it_went_is_found(recorded, tmp_path):
    """The signatures under both clients' vectors cover what they sent and what they were delivered."""
    (path, *_) = sorted((recorded / "secagg" / "transcripts").iterdir())
    entries = list(read_entries(path))
    came, sent = first(entries, CAME, frames.SHARES, "0"), first(entries, SENT, frames.DELIVER, "1")
    box = entries[came].message[HEAD : HEAD + 20]  # the first of client 0's parcels is for client 1
    at = entries[sent].message.index(box)
    entries[came], entries[sent] = changed(entries[came], HEAD + 15), changed(entries[sent], at + 15)
    with pytest.raises(IntegrityError, match="violates the protocol"):
        verifier.verify(written(tmp_path / "changed", entries))


@pytest.mark.parametrize("kind", [frames.SHARES, frames.OPENED])
def test_shares_that_came_without_a_signature_are_told(recorded, tmp_path, kind):
    (path, *_) = sorted((recorded / "secagg" / "transcripts").iterdir())
    entries = list(read_entries(path))
    place = first(entries, CAME, kind, "3")
    entries[place] = changed(entries[place], -1)
    assert verifier.verify(path).unsigned == ()
    assert verifier.verify(written(tmp_path / "changed", entries)).unsigned == ("3",)


def test_a_server_that_told_two_clients_different_lists_is_found(recorded, tmp_path):
    (path, *_) = sorted((recorded / "secagg" / "transcripts").iterdir())
    entries = list(read_entries(path))
    place = first(entries, SENT, frames.SURVIVORS, "5")
    entries[place] = changed(entries[place], HEAD)
    with pytest.raises(IntegrityError, match="sent client '5' a message"):
        verifier.verify(written(tmp_path / "changed", entries))


def test_a_vector_that_was_not_masked_is_found(recorded, tmp_path):
    """A client whose words are small numbers in the clear, under its own signature, and no sum is published."""
    from flctl_secagg.server.attempt import AttemptError
    from flctl_secagg.transcripts.recording import Transcript
    from secagg_support import attempt_of, cohort_of, signed_vector

    layout = (("delta", 3000),)
    cohort = cohort_of(5, lost=lambda kind, name: kind == frames.UNMASK)
    zero = {"delta": np.eye(1, 3000, dtype=np.float32)[0], "weight": np.ones(1)}
    cohort.vectors = dict.fromkeys(cohort.names, zero)

    def tamper(kind, name, reply):
        if (kind, name) != (frames.DELIVER, "c03"):
            return reply
        count = (len(reply) - HEAD - 64) // 4
        packed = pack(np.arange(count, dtype="<u4") % 7, 32)
        assert unpack(packed, 32, count).max() == 6
        return reply[:HEAD] + signed_vector(cohort, name, packed) + packed

    attempt = attempt_of(cohort, layout=layout)
    for bad in (False, True):
        cohort.tamper = tamper if bad else cohort.tamper
        attempt = attempt_of(cohort, layout=layout)
        with Transcript.new(tmp_path, attempt.session) as transcript:
            attempt.recorder = transcript
            with pytest.raises(AttemptError):
                cohort.play(attempt)
        (path,) = tmp_path.glob(f"*{attempt.session.sid.hex()[:12]}*")
        if bad:
            with pytest.raises(IntegrityError, match="the vector of client 'c03' does not look masked"):
                verifier.verify(path)
        else:
            verdict = verifier.verify(path)
            assert (verdict.masked, verdict.survivors) == (5, ())
            assert "0 opened shares" in verdict.refused


def test_transcripts_that_are_cut_off_or_none_are_refused(recorded, tmp_path):
    (path, *_) = sorted((recorded / "secagg" / "transcripts").iterdir())
    data = path.read_bytes()
    for bad in (b"", b"x" * 100, data[:40], data[:-1], data[: len(data) // 2], MAGIC + b"\0" * 3 + b"\xff" * 40):
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(IntegrityError):
            verifier.verify(tmp_path / "bad")
    with pytest.raises(ConfigError, match="has no transcripts"):
        run("verify", tmp_path)


def test_the_operator_can_be_pinned(recorded, tmp_path):
    (tmp_path / "operator.pub").write_text("00" * 32)
    with pytest.raises(IntegrityError, match="another key"):
        run("verify", recorded, "--operator", tmp_path / "operator.pub")
    (tmp_path / "operator.pub").write_text("00" * 31)
    with pytest.raises(ConfigError, match="31 bytes"):
        run("verify", recorded, "--operator", tmp_path / "operator.pub")


def test_commands_print_for_people_too(recorded):
    said = CliRunner().invoke(commands.app, ["verify", str(recorded)]).output
    assert said.startswith("round 1, attempt 1: correct, 9 of 9 clients, 9 vectors masked\n")
    assert flctl.__version__
