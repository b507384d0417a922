"""Folders of the parts of a federation, and where they are unless the user names one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flctl.errors import ConfigError
from flctl.federation.identity.names import require_name

__all__ = ["CoordinatorHome", "FederationHome", "MemberHome", "SiteHome", "state_folder"]


def state_folder() -> Path:
    """Returns flctl's folder under `$XDG_STATE_HOME`, else under `~/.local/state`."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "flctl"


@dataclass(frozen=True)
class MemberHome:
    """Folder of a member of a federation, a site or a coordinator: keys, roster and membership."""

    path: Path

    @property
    def identity(self) -> Path:
        """Folder of the identity's private and public keys, and of the TLS key and certificate."""
        return self.path / "identity"

    @property
    def roster(self) -> Path:
        """Folder of the accepted rosters."""
        return self.path / "roster"

    @property
    def membership(self) -> Path:
        """File with the federation, the own name, the hub's address and the pinned operator."""
        return self.path / "membership.json"


@dataclass(frozen=True)
class SiteHome(MemberHome):
    """Folder of a site: keys, roster, policy, approvals, audit log, data, runs, journal and outbox.

    >>> SiteHome.at(Path("stmarys")).identity.as_posix()
    'stmarys/identity'
    """

    @classmethod
    def at(cls, path: Path | None = None) -> SiteHome:
        """Returns the home at `path`, else at `$FLCTL_SITE_HOME`, else in the user's state folder."""
        return cls(path or _from_environment("FLCTL_SITE_HOME") or state_folder() / "site")

    @property
    def policy(self) -> Path:
        """The site's policy file."""
        return self.path / "policy.yaml"

    @property
    def approvals(self) -> Path:
        """Folder of signed approvals."""
        return self.path / "approvals"

    @property
    def audit(self) -> Path:
        """The hash-chained audit log."""
        return self.path / "audit.jsonl"

    @property
    def data(self) -> Path:
        """Partition of the site's own rows."""
        return self.path / "data"

    @property
    def runs(self) -> Path:
        """Folder with one folder per run."""
        return self.path / "runs"

    @property
    def journal(self) -> Path:
        """The database of claimed tasks and replies."""
        return self.path / "journal.sqlite"

    @property
    def outbox(self) -> Path:
        """Folder of replies that wait for the hub's acknowledgement."""
        return self.path / "outbox"

    @property
    def quarantine(self) -> Path:
        """Folder of code that arrived and was not approved."""
        return self.path / "quarantine"

    @property
    def approved(self) -> Path:
        """Folder of approved code, one file per SHA-256."""
        return self.path / "approved"


@dataclass(frozen=True)
class CoordinatorHome(MemberHome):
    """Folder of a coordinator: keys, roster and membership, laid out as a site's."""

    @classmethod
    def at(cls, path: Path | None = None) -> CoordinatorHome:
        """Returns the home at `path`, else at `$FLCTL_COORDINATOR_HOME`, else in the user's state folder."""
        return cls(path or _from_environment("FLCTL_COORDINATOR_HOME") or state_folder() / "coordinator")


@dataclass(frozen=True)
class FederationHome:
    """Folder of a federation at its operator: the operator's keys, and the hub's keys, rosters, invites and requests.

    Only `operator` holds the key that admits members; it may lie elsewhere, for example on a stick.
    """

    path: Path

    @classmethod
    def at(cls, path: Path | None = None, name: str | None = None) -> FederationHome:
        """Returns the home at `path`, else at `$FLCTL_FEDERATION_HOME`, else in the user's state folder, where `name`
        (default: `federation`) is its folder."""
        default = state_folder() / "federation" / require_name(name or "federation", "federation")
        return cls(path or _from_environment("FLCTL_FEDERATION_HOME") or default)

    @classmethod
    def only(cls) -> FederationHome:
        """Returns the home at `$FLCTL_FEDERATION_HOME`, else the only one in the user's state folder.

        Raises ConfigError without one, and if there are several.
        """
        if named := _from_environment("FLCTL_FEDERATION_HOME"):
            return cls(named)
        found = sorted(path.parent for path in (state_folder() / "federation").glob("*/federation.yaml"))
        if len(found) == 1:
            return cls(found[0])
        raise ConfigError(
            f"there are {len(found)} federations here: {', '.join(path.name for path in found)}"
            if found
            else "there is no federation here",
            hint="Name its folder with --home DIR, or make one: flctl federation init NAME --url URL",
        )

    @property
    def settings(self) -> Path:
        """federation.yaml: name, URL, TLS."""
        return self.path / "federation.yaml"

    @property
    def operator(self) -> Path:
        """Folder of the operator's identity."""
        return self.path / "operator"

    @property
    def hub(self) -> Path:
        """Folder of the hub's identity, CA and TLS certificate, and of its database and blobs."""
        return self.path / "hub"

    @property
    def roster(self) -> Path:
        """Folder of all signed rosters; the hub serves the newest."""
        return self.path / "roster"

    @property
    def invites(self) -> Path:
        """Folder of open and used invites."""
        return self.path / "invites"

    @property
    def requests(self) -> Path:
        """Folder of requests to join, which `admit` reads."""
        return self.path / "requests"


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
