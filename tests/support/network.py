"""A whole federation on the loopback: an operator's folder, a hub with TLS, members' homes, and agents in threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flctl.federation.coordinator.data import assemble, read_declaration
from flctl.federation.hub.enrolling import FederationFolder
from flctl.federation.hub.serve import TlsFiles
from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.homes import CoordinatorHome, FederationHome, SiteHome
from flctl.federation.identity.joining import join
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import Roster
from flctl.federation.member import FederationMember
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.schema.mock import mock_rows
from flctl.federation.schema.read import open_schema
from flctl.federation.site.agent import SiteAgent
from flctl.federation.site.data import declare, pack
from flctl.federation.site.journal import Journal
from flctl.federation.site.packing import DECLARED_FILE, SCHEMA_FILE
from flctl.partition.federated import FederatedData
from flctl.plugins.registry import Registry
from support.hub_server import QUICK, HubServer

SITES = ("elm-street", "st-marys", "trinity")
CANARY = np.float32(61.372181)
"""The age in each site's first row: it must not be found in anything that leaves a site."""
SCHEMA = """\
format: flctl-schema/1
name: stroke
task: binary
target: {column: stroke, classes: ["no", "yes"]}
columns:
  age: {type: number, mean: 50, sd: 10}
  bmi: {type: number, mean: 27, sd: 4}
  sex: {type: category, levels: [f, m]}
"""


@dataclass
class OpenGate:
    """A gate that approves what `decisions` say, and allows everything else. `events` is the record."""

    decisions: dict[str, str] = field(default_factory=dict)
    default: str | None = "approve"
    events: list[dict[str, Any]] = field(default_factory=list)
    refuse: Reason | None = None

    def asked(self, plan: Plan) -> None:
        pass

    def decision(self, plan: Plan) -> Mapping[str, Any] | None:
        found = self.decisions.get(plan.digest, self.default)
        return None if found is None else {"decision": found, "reason": "a test"}

    def check(self, envelope: Any, plan: Plan, ask: str) -> None:
        if self.refuse is not None:
            raise Refused(self.refuse)
        self.still_approved(plan)

    def check_work(self, plan: Plan, work: Any) -> None:
        pass

    def still_approved(self, plan: Plan) -> None:
        if self.decisions.get(plan.digest, self.default) != "approve":
            raise Refused(Reason.PLAN_REVOKED)

    def shared(self, ask: str, metrics: Mapping[str, float]) -> dict[str, float]:
        return dict(metrics)

    def seconds_a_round(self) -> float | None:
        return 60.0

    def head(self) -> dict[str, Any]:
        return {"digest": "0" * 64, "lines": 0}

    def countersigned(self, head: Mapping[str, Any], envelope: bytes, receipt: bytes) -> None:
        self.record("receipt")

    def record(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})


@dataclass
class _Members:
    """What `HubServer` asks of a federation."""

    enrolment: Enrolment
    home: FederationHome

    @property
    def roster(self) -> Roster:
        return self.enrolment.roster()

    @property
    def identities(self) -> Mapping[str, Identity]:
        return {"hub": Identity.open(self.home.hub)}


class Network:
    """A federation below `folder`. `agent(site)` runs an agent in a thread for a block."""

    def __init__(self, folder: Path, sites: tuple[str, ...] = SITES, rows: int = 40) -> None:
        self.folder, self.sites = folder, sites
        self.operator = FederationHome(folder / "operator")
        port = _free_port()
        found(self.operator, Founding("hospitals", f"https://127.0.0.1:{port}"))
        self.enrolment = Enrolment(self.operator)
        self.coordinator = CoordinatorHome(folder / "uni")
        self.homes = {site: SiteHome(folder / site) for site in sites}
        self._admit("uni", "coordinator", self.coordinator)
        for site, home in self.homes.items():
            self._admit(site, "site", home)
        keys = self.operator.hub
        tls = TlsFiles(keys / "tls.pem", keys / "tls.key", keys / "ca.pem")
        members = _Members(self.enrolment, self.operator)
        self.hub = HubServer(folder / "hub", tls=tls, members=members, box_members=FederationFolder(self.operator))
        self.hub.port = port
        self.gates = {site: OpenGate() for site in sites}
        self.rows = rows
        self.data = self._data()

    def _admit(self, name: str, role: Any, home: Any) -> None:
        join(home, self.enrolment.invite(name, role, 7))
        self.enrolment.file_request((home.path / "join-request.json").read_bytes())
        self.enrolment.admit(self.enrolment.request(name), self.enrolment.open_operator(), "2098-01-01")

    def _data(self) -> FederatedData:
        """Packs made-up rows at each site, and assembles the federated directory `fed` and the twin `twin`."""
        schema_file = self.folder / "schema.yaml"
        schema_file.write_text(SCHEMA)
        schema = open_schema(schema_file)
        rows = {site: mock_rows(schema, self.rows + 10 * number, 7, site) for number, site in enumerate(self.sites)}
        for site in self.sites:
            rows[site].x[0, 0] = CANARY
        for site, home in self.homes.items():
            partition = pack(home.data, schema, {site: rows[site]}, 0.2)
            (home.path / SCHEMA_FILE).write_text(SCHEMA)
            declared = declare(partition, site, schema, "exact")
            (home.path / DECLARED_FILE).write_bytes(canonical(declared.to_json()))
        pack(self.folder / "twin", schema, rows, 0.2)
        declared = [read_declaration(home.path / DECLARED_FILE) for home in self.homes.values()]
        return assemble(self.folder / "fed", "hospitals", schema_file, declared)

    def member(self, name: str) -> FederationMember:
        home = self.coordinator if name == "uni" else self.homes[name]
        return FederationMember.at(home, lambda sentence: None, pace=QUICK)

    def agent(self, site: str) -> SiteAgent:
        return SiteAgent(
            self.homes[site],
            self.member(site),
            self.gates[site],
            Journal.open(self.homes[site].journal),
            Registry(),
            lambda sentence: None,
        )

    @contextmanager
    def serving(self, *sites: str) -> Iterator[dict[str, SiteAgent]]:
        """Agents of these sites (all of them without names) that serve in threads during the block."""
        agents = {site: self.agent(site) for site in sites or self.sites}
        threads = [threading.Thread(target=agent.serve, daemon=True) for agent in agents.values()]
        for thread in threads:
            thread.start()
        try:
            yield agents
        finally:
            for agent in agents.values():
                agent.stop()
            for thread in threads:
                thread.join(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
