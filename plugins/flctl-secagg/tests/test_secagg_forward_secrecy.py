"""State that a client sent away sealed cannot be opened by a later theft of all that its directory holds."""

import dataclasses

import pytest
from flctl_secagg.client.client import Client
from flctl_secagg.client.session_keys import SessionKeys
from flctl_secagg.crypto.primitives import unsealed
from flctl_secagg.protocol import frames
from secagg_support import AttemptError, Cohort, attempt_of, identities

VICTIM = "c02"


@dataclasses.dataclass
class Forgetting(Cohort):
    keys: SessionKeys | None = None

    def client(self, name) -> Client:
        return dataclasses.replace(super().client(name), keys=self.keys)


@pytest.mark.parametrize("kept_under_the_identity_key", [True, False])
def test_a_server_that_kept_sealed_state_opens_none_of_it_with_keys_stolen_later(tmp_path, kept_under_the_identity_key):
    """The server keeps the victim's state after each phase; after the session it has the whole directory."""
    keys = None if kept_under_the_identity_key else SessionKeys(tmp_path / "sessions")
    cohort, carried = Forgetting(*identities(5), keys=keys), []
    cohort.meddle = lambda kind, name, message: carried.append(cohort.memories.get(VICTIM, b"")) or message
    attempt = attempt_of(cohort, mode="active")
    assert cohort.play(attempt).survivors == cohort.names
    stolen = [cohort.keyring.memory_key(VICTIM)]
    stolen += [path.read_bytes() for path in (tmp_path / "sessions").glob("*")]
    opened = [unsealed(key, state, VICTIM.encode()) for key in stolen for state in set(carried) - {b""}]
    assert any(opened) is kept_under_the_identity_key
    assert len(set(carried) - {b""}) == 4


def test_only_the_newest_state_of_an_open_session_has_a_key(tmp_path):
    keys = SessionKeys(tmp_path / "sessions")
    cohort, carried = Forgetting(*identities(5), keys=keys, lost=lambda kind, name: kind == frames.DELIVER), []
    cohort.meddle = lambda kind, name, message: carried.append(cohort.memories.get(VICTIM, b"")) or message
    attempt = attempt_of(cohort)
    with pytest.raises(AttemptError):
        cohort.play(attempt)
    key = keys.current(VICTIM, attempt.session.sid)
    assert unsealed(key, cohort.memories[VICTIM], VICTIM.encode()) is not None
    assert not any(unsealed(key, state, VICTIM.encode()) for state in set(carried) - {b"", cohort.memories[VICTIM]})
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "sessions").iterdir()} == {0}
    keys.forget(2e10)
    assert list((tmp_path / "sessions").iterdir()) == []
