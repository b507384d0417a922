"""Where a run's identities and records are: in its directory for a simulation, in a directory of keys, or nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flctl import ConfigError, IncompatibleError
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.outbox import Outbox
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.policy_file import POLICY, read_policy
from flctl_secagg.crypto.primitives import new_key
from flctl_secagg.identity.keys import Keyring, identity_public, read_private, write_private, write_public
from flctl_secagg.identity.roster import ROSTER, Roster, make_roster, read_roster

__all__ = ["CLIENTS", "LEDGER", "OPERATOR", "Home", "KeysHome", "NoHome", "SimulatedHome"]

OPERATOR, CLIENTS, LEDGER, SECRET = "operator.pub", "clients", "ledger.sqlite", "simulation.key"


@dataclass(frozen=True)
class Home:
    """What server and clients of a run find there."""

    def prepare(self, clients: Iterable[str]) -> None:
        """Server, before a round: makes what is not there yet, where that can be made."""

    def roster(self) -> Roster:
        """The clients' identity keys."""
        raise NotImplementedError

    def keyring(self) -> Keyring:
        """Where clients have their private keys."""
        raise NotImplementedError

    def ledger(self) -> Ledger:
        """The record of sessions."""
        raise NotImplementedError

    def outbox(self) -> Outbox:
        """Where clients keep replies to send again; nowhere in a simulation, where no reply is lost."""
        return Outbox()

    def policy(self) -> Policy | None:
        """The clients' own policy; None in a simulation, where the run's options are the policy."""
        return None

    @property
    def directory(self) -> Path | None:
        """Where transcripts go."""
        return None


@dataclass(frozen=True)
class SimulatedHome(Home):
    """A simulation: one machine is everybody, so one secret makes all clients' keys, and an operator key of the run
    signs them. This shows the protocol at work; it protects nobody from who owns the machine."""

    path: Path
    everybody: Sequence[str]

    def prepare(self, clients: Iterable[str]) -> None:
        if (self.path / ROSTER).exists():
            return
        for stale in (SECRET, "operator.key"):  # of a start that was cut off before the roster was whole
            (self.path / stale).unlink(missing_ok=True)
        keyring = Keyring.derived(write_private(self.path / SECRET))
        operator = write_private(self.path / "operator.key")
        keys = {client: identity_public(keyring.secret_of(client)) for client in self.everybody}
        write_public(self.path / ROSTER, make_roster(new_key().hex(), keys, operator).text())

    def roster(self) -> Roster:
        return read_roster(self.path / ROSTER)

    def keyring(self) -> Keyring:
        return Keyring.derived(read_private(self.path / SECRET))

    def ledger(self) -> Ledger:
        # Clients' memory is in this machine's memory: what it takes away with the power, nobody can put back.
        return Ledger(self.path / LEDGER, synced=False)

    @property
    def directory(self) -> Path | None:
        return self.path


@dataclass(frozen=True)
class KeysHome(Home):
    """A directory that `flctl secagg keys` and `flctl secagg roster` filled: the roster, the operator's public key that
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

    def policy(self) -> Policy:
        """That in `policy.toml`, where the keys are: a client that finds its key finds its policy."""
        return read_policy(self.path / POLICY).policy

    def keyring(self) -> Keyring:
        return Keyring.files(self.path / CLIENTS)

    def ledger(self) -> Ledger:
        return Ledger(self.path / LEDGER)

    def check(self, clients: Iterable[str]) -> None:
        """Raises IncompatibleError for clients that are not on the roster."""
        roster = self.roster()
        strangers = [client for client in clients if client not in roster.keys]
        if strangers:
            raise IncompatibleError(
                f"{len(strangers)} clients are not on the roster {self.path / ROSTER}, the first is '{strangers[0]}'",
                hint="Give all clients keys and sign them: flctl secagg keys init, flctl secagg roster sign.",
            )

    @property
    def directory(self) -> Path | None:
        return self.run


@dataclass(frozen=True)
class NoHome(Home):
    """An aggregator that was given no run: identities last as long as the process."""

    def prepare(self, clients: Iterable[str]) -> None:
        _short_lived().add(clients)

    def roster(self) -> Roster:
        return _short_lived().roster

    def keyring(self) -> Keyring:
        return _short_lived().keyring

    def ledger(self) -> Ledger:
        return Ledger()


class _ShortLived:
    """Identities of clients of a process, made when they are first heard of."""

    def __init__(self) -> None:
        self.keyring = Keyring.derived(new_key())
        self._operator = new_key()
        self.roster = make_roster("", {}, self._operator)

    def add(self, clients: Iterable[str]) -> None:
        """Puts clients on the roster that are not on it yet."""
        new = [client for client in clients if client not in self.roster.keys]
        if new:
            keys = {client: identity_public(self.keyring.secret_of(client)) for client in new}
            self.roster = make_roster("", {**self.roster.keys, **keys}, self._operator)


@lru_cache(maxsize=1)
def _short_lived() -> _ShortLived:
    return _ShortLived()


def pinned_operator(path: Path) -> bytes:
    """The operator's public key, as a client pinned it. Raises ConfigError where there is none."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no public key", hint="Copy the operator's: flctl secagg keys export.") from error
    if len(key) != 32:
        raise ConfigError(f"{path} holds {len(key)} bytes, expected 32", hint="Copy it again.")
    return key
