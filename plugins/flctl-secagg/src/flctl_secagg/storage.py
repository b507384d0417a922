"""Storage of a run's identities and records: the run's directory (simulations), a directory of keys, or memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flctl import ConfigError, IncompatibleError, RunIdentities
from flctl.atomic import write_file
from flctl.errors import counted
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.outbox import Outbox
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.policy_file import POLICY, read_policy
from flctl_secagg.client.session_keys import SessionKeys
from flctl_secagg.crypto.primitives import new_key
from flctl_secagg.identity.keys import (
    Keyring,
    MemberKey,
    PrivateKeys,
    identity_public,
    read_private,
    write_private,
)
from flctl_secagg.identity.roster import ROSTER, Roster, RunRoster, make_roster, read_roster

__all__ = ["CLIENTS", "LEDGER", "OPERATOR", "SERVER", "FederationHome", "Home", "KeysHome", "NoHome", "SimulatedHome"]

SERVER = "server.key"
OPERATOR, CLIENTS, LEDGER, SECRET = "operator.pub", "clients", "ledger.sqlite", "simulation.key"


@dataclass(frozen=True)
class Home:
    """Storage of identities and records that the server and the clients of a run read."""

    def prepare(self, clients: Iterable[str]) -> None:
        """Creates missing identities, if this storage can create them. Called by the server before a round."""

    def roster(self) -> Roster:
        """Public identity keys of the clients."""
        raise NotImplementedError

    def keyring(self) -> PrivateKeys:
        """Private identity keys of the clients."""
        raise NotImplementedError

    def ledger(self) -> Ledger:
        """Record of sessions and of opened shares."""
        raise NotImplementedError

    def outbox(self) -> Outbox:
        """Store of clients' last replies, to resend lost ones. A simulation loses no reply, so that nothing is kept."""
        return Outbox()

    def session_keys(self) -> SessionKeys | None:
        """Keys that seal clients' state; None in a simulation, whose owner has all keys anyway."""
        return None

    def server_key(self) -> bytes | None:
        """Private key that signs the server's messages; None if they are not signed."""
        return None

    def history(self) -> Ledger | None:
        """Record of the past that clients remember of each run; None if it is not kept between sessions."""
        return self.ledger()

    def policy(self) -> Policy | None:
        """Clients' own policy; None if the run's options are the policy."""
        return None

    @property
    def simulated(self) -> bool:
        """True if all clients are on this machine, one after another."""
        return True

    @property
    def directory(self) -> Path | None:
        """Directory of the journal and of transcripts; None if neither is kept."""
        return None


@dataclass(frozen=True)
class SimulatedHome(Home):
    """Storage of a simulation: one secret on this machine derives all clients' keys, and an operator key of the run
    signs them. It exercises the protocol, and protects no client from the machine's owner."""

    path: Path
    everybody: Sequence[str]

    def prepare(self, clients: Iterable[str]) -> None:
        if (self.path / ROSTER).exists():
            return
        for stale in (SECRET, "operator.key"):  # left by a start that was stopped before the roster was written
            (self.path / stale).unlink(missing_ok=True)
        keyring = Keyring.derived(write_private(self.path / SECRET))
        operator = write_private(self.path / "operator.key")
        keys = {client: identity_public(keyring.secret_of(client)) for client in self.everybody}
        write_file(self.path / ROSTER, make_roster(new_key().hex(), keys, operator).text().encode())

    def roster(self) -> Roster:
        return read_roster(self.path / ROSTER)

    def keyring(self) -> Keyring:
        return Keyring.derived(read_private(self.path / SECRET))

    def ledger(self) -> Ledger:
        # A power loss also erases the clients' state, which is in this process's memory: a session whose record was
        # lost cannot be continued.
        return Ledger(self.path / LEDGER, synced=False)

    @property
    def directory(self) -> Path | None:
        return self.path


@dataclass(frozen=True)
class KeysHome(Home):
    """Directory made by `flctl secagg keys` and `flctl secagg roster`: the roster, the operator's public key that
    clients pin, and each client's key."""

    path: Path
    run: Path | None = None

    def roster(self) -> Roster:
        roster = read_roster(self.path / ROSTER)
        pinned = read_policy(self.path / POLICY).operator
        roster.check(pinned_operator(self.path / OPERATOR) if pinned is None else pinned)
        return roster

    def outbox(self) -> Outbox:
        return Outbox(self.path / "outbox")

    def session_keys(self) -> SessionKeys:
        return SessionKeys(self.path / "sessions")

    def server_key(self) -> bytes | None:
        """Key in `server.key`, which only the server's directory has."""
        path = self.path / SERVER
        return read_private(path) if path.exists() else None

    @property
    def simulated(self) -> bool:
        return False

    def policy(self) -> Policy:
        """Policy in `policy.toml`, in the directory of the keys: a client that finds its key finds its policy."""
        return read_policy(self.path / POLICY).policy

    def keyring(self) -> Keyring:
        return Keyring.files(self.path / CLIENTS)

    def ledger(self) -> Ledger:
        return Ledger(self.path / LEDGER)

    def check(self, clients: Iterable[str]) -> None:
        """Raises IncompatibleError if a client is not on the roster."""
        roster = self.roster()
        strangers = [client for client in clients if client not in roster.keys]
        if strangers:
            raise IncompatibleError(
                f"{counted(len(strangers), 'client')} not on the roster {self.path / ROSTER}, the first is "
                f"'{strangers[0]}'",
                hint="Create and sign keys for all clients: flctl secagg keys init DIR ID, "
                "flctl secagg roster sign DIR --run NAME",
            )

    @property
    def directory(self) -> Path | None:
        return self.run


@dataclass(frozen=True)
class FederationHome(Home):
    """Storage of a run at real sites: the federation's roster, and the own identity and records.

    The policy is the run's options: at a site these are the ones of the plan that its people approved, and the site's
    policy was checked before.
    """

    identities: RunIdentities
    run: Path | None = None

    def roster(self) -> Roster:
        roster = RunRoster.of(self.identities)
        roster.check()
        return roster

    def keyring(self) -> MemberKey:
        return MemberKey(self.identities)

    def outbox(self) -> Outbox:
        return Outbox(self.identities.directory / "outbox")

    def session_keys(self) -> SessionKeys:
        return SessionKeys(self.identities.directory / "sessions")

    def ledger(self) -> Ledger:
        return Ledger(self.identities.directory / LEDGER)

    @property
    def simulated(self) -> bool:
        return False

    @property
    def directory(self) -> Path | None:
        return self.run


@dataclass(frozen=True)
class NoHome(Home):
    """Storage of an aggregator without a run: identities and records last as long as the process."""

    def prepare(self, clients: Iterable[str]) -> None:
        _short_lived().add(clients)

    def roster(self) -> Roster:
        return _short_lived().roster

    def keyring(self) -> Keyring:
        return _short_lived().keyring

    def ledger(self) -> Ledger:
        return Ledger()

    def history(self) -> None:
        return None


class _ShortLived:
    """Identities of a process's clients, created the first time that a cohort names them."""

    def __init__(self) -> None:
        self.keyring = Keyring.derived(new_key())
        self._operator = new_key()
        self.roster = make_roster("", {}, self._operator)

    def add(self, clients: Iterable[str]) -> None:
        """Adds clients that are missing from the roster."""
        new = [client for client in clients if client not in self.roster.keys]
        if new:
            keys = {client: identity_public(self.keyring.secret_of(client)) for client in new}
            self.roster = make_roster("", {**self.roster.keys, **keys}, self._operator)


@lru_cache(maxsize=1)
def _short_lived() -> _ShortLived:
    return _ShortLived()


def pinned_operator(path: Path) -> bytes:
    """Reads the operator's public key that a client pinned. Raises ConfigError if the file holds no such key."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a public key", hint="Copy operator.pub from the operator's directory of keys."
        ) from error
    if len(key) != 32:
        raise ConfigError(f"{path} holds {len(key)} bytes, expected 32", hint="Copy it again.")
    return key
