"""A hub in a process of its own, to be killed and started again on the same folder and port."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.roster import Member
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.retries import Pace
from flctl.federation.transport.serving import forget_serving, serving_at
from support.hub_member import COORDINATORS, SITES, federation

PROGRAM = """
import sys
from pathlib import Path
from flctl.federation.hub.program import HubOptions, run_hub
from flctl.federation.identity.homes import FederationHome
run_hub(FederationHome(Path(sys.argv[1])), HubOptions(port=int(sys.argv[2])), lambda where, members: None)
"""


class HubProcess:
    """The hub of the members of `federation()`, plain on the loopback as behind a terminator."""

    def __init__(self, folder: Path) -> None:
        self.home = FederationHome(folder)
        found(self.home, Founding("hospitals", "https://hub.example", "server"))
        enrolment = Enrolment(self.home)
        members = {name: Member(federation().identities[name].public, "2099-12-31") for name in (*SITES, *COORDINATORS)}
        first = enrolment.roster()
        draft = replace(
            first,
            version=2,
            previous=first.digest,
            sites={name: members[name] for name in SITES},
            coordinators={name: members[name] for name in COORDINATORS},
            signed=b"",
            digest="",
        )
        enrolment.keeper.accept(draft.signed_by(enrolment.open_operator()).signed)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        forget_serving(self.home.hub)
        command = [sys.executable, "-c", PROGRAM, str(self.home.path), str(self.port)]
        self._process = subprocess.Popen(command)
        while (where := serving_at(self.home.hub)) is None:
            assert self._process.poll() is None, "the hub did not start"
            time.sleep(0.02)
        self.port = int(where[0].rpartition(":")[2])

    def kill(self) -> None:
        """Ends the process at once, as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self, name: str) -> HubClient:
        address = HubAddress(f"http://127.0.0.1:{self.port}", "hospitals")
        return HubClient(address, federation().identities[name], name, pace=Pace(0.02, 0.2, give_up=60))
