"""The verifier of one transcript: every message, the order of messages and the sum are those of the protocol."""

import dataclasses

import pytest
from flctl_secagg.protocol import frames
from flctl_secagg.server.attempt import Attempt
from flctl_secagg.transcripts.recording import CAME, PUBLISHED, ROSTER, SENT, Transcript, read_entries
from flctl_secagg.transcripts.verifier import verify
from secagg_support import attempt_of, cohort_of, identities

from flctl import IntegrityError


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The entries of an honest session of four clients."""
    folder, cohort = tmp_path_factory.mktemp("recorded"), cohort_of(4)
    session = attempt_of(cohort).session
    with Transcript.new(folder, session) as transcript:
        transcript.publish(cohort.play(Attempt(session, [].append, transcript)))
    (path,) = folder.iterdir()
    return list(read_entries(path))


def verdict_on(entries, tmp_path):
    path = tmp_path / "changed.transcript"
    with path.open("wb") as file:
        file.write(b"flctl-secagg-transcript/1\n")
        transcript = Transcript(file)
        for entry in entries:
            transcript._write(entry.way, entry.kind, entry.client, entry.message)
    return verify(path)


def flipped(entry):
    return dataclasses.replace(entry, message=entry.message[:-1] + bytes((entry.message[-1] ^ 1,)))


def first(entries, way, kind):
    return next(at for at, entry in enumerate(entries) if (entry.way, entry.kind) == (way, kind))


def told_otherwise(entries):
    at = first(entries, SENT, frames.KEYS)
    return [*entries[:at], flipped(entries[at]), *entries[at + 1 :]]


def told_twice(entries):
    at = first(entries, SENT, frames.KEYS)
    return [*entries[:at], entries[at], *entries[at:]]


def went_on(entries):
    return [*entries, entries[first(entries, SENT, frames.UNMASK)]]


def published_twice(entries):
    return [*entries, entries[first(entries, SENT, PUBLISHED)]]


def published_otherwise(entries):
    return [flipped(entry) if entry.kind == PUBLISHED else entry for entry in entries]


def never_published(entries):
    return [entry for entry in entries if entry.kind != PUBLISHED]


def with_two_rosters(entries):
    other = dataclasses.replace(entries[0], message=identities(4)[0].text().encode())
    return [entries[0], other, *entries[1:]]


def without_a_roster(entries):
    return [entry for entry in entries if entry.kind != ROSTER]


def with_a_changed_vector(entries):
    at = first(entries, CAME, frames.MASKED)
    return [*entries[:at], flipped(entries[at]), *entries[at + 1 :]]


def test_a_recorded_session_holds(recorded, tmp_path):
    found = verdict_on(recorded, tmp_path)
    assert (found.refused, found.survivors, found.short) == (None, ("c00", "c01", "c02", "c03"), 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (told_otherwise, "sent client 'c00' a message that violates the protocol"),
        (told_twice, "sent client 'c00' a message that violates the protocol"),
        (went_on, "continued after the end of the session"),
        (published_twice, "2 sums published"),
        (never_published, "0 sums published"),
        (published_otherwise, "the published sum does not match"),
        (with_two_rosters, "has no roster, or no session"),
        (without_a_roster, "has no roster, or no session"),
        (with_a_changed_vector, "a message that violates the protocol"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_recorded_session_that_was_changed_does_not_hold(recorded, tmp_path, change, said):
    with pytest.raises(IntegrityError, match=said):
        verdict_on(change(recorded), tmp_path)
