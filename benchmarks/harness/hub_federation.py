"""A federation for measurements: its hub in a process of its own with mutual TLS, and members with certificates."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flctl.federation.identity.certificates import Authority, certificate_request, make_tls_key
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Member
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.serving import forget_serving, serving_at

__all__ = ["COORDINATOR", "FEDERATION", "HubFederation"]

FEDERATION, COORDINATOR = "bench", "uni"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class HubFederation:
    """A federation of `sites` and one coordinator in a folder."""

    def __init__(self, folder: Path, sites: Sequence[str]) -> None:
        self.folder, self.sites = folder, sites
        self.home = FederationHome(folder / "federation")
        found(self.home, Founding(FEDERATION, "https://127.0.0.1:8443"))
        enrolment = Enrolment(self.home)
        self.identities = {name: Identity.create(folder / name) for name in (*sites, COORDINATOR)}
        members = {name: Member(one.public, "2099-12-31") for name, one in self.identities.items()}
        first = enrolment.roster()
        draft = replace(
            first,
            version=2,
            previous=first.digest,
            sites={name: members[name] for name in sites},
            coordinators={COORDINATOR: members[COORDINATOR]},
            signed=b"",
            digest="",
        )
        self.roster = enrolment.keeper.accept(draft.signed_by(enrolment.open_operator()).signed)
        authority = Authority.open(self.home.hub)
        for name in self.identities:
            key = make_tls_key(folder / name / "tls.key")
            pem = authority.member(name, certificate_request(key, name))
            (folder / name / "tls.pem").write_text(pem, encoding="ascii")
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the hub, on the same port as before."""
        forget_serving(self.home.hub)
        words = ["-m", "flctl", "federation", "serve", "--home", str(self.home.path), "--host", "127.0.0.1"]
        command = [sys.executable, *words, "--port", str(self.port), "--quota", "1000"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while (where := serving_at(self.home.hub)) is None:
            if self._process.poll() is not None:
                raise RuntimeError("the hub did not start")
            time.sleep(0.02)
        self.port = int(where[0].rpartition(":")[2])

    def stop(self) -> None:
        """Ends the hub."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def client(self, name: str) -> HubClient:
        """A client of a member."""
        place = self.folder / name
        files = (self.home.hub / "ca.pem", place / "tls.pem", place / "tls.key")
        address = HubAddress(f"https://127.0.0.1:{self.port}", FEDERATION, *files)
        return HubClient(address, self.identities[name], name)

    def hub_memory(self) -> dict[str, float]:
        """Resident memory of the hub in MB: now, and at its peak. Linux only."""
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii")
        values = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Vm"))
        return {name: int(values[key].split()[0]) / 1000 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}

    def hub_cpu(self) -> float:
        """CPU seconds that the hub has used. Linux only."""
        fields = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def _pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the hub is not started")
        return self._process.pid
