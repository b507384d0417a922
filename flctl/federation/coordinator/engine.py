"""The engine whose clients are sites: it posts orders at a hub and reads replies from it."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from flctl.component import PATH, Options
from flctl.engines.engine import Engine
from flctl.engines.opening import most_reply_bytes
from flctl.errors import ConfigError, IncompatibleError
from flctl.types import Ask, ClientId, Failure, Layout, Reply, Request

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.federation.coordinator.collecting import Collecting
    from flctl.federation.coordinator.decisions import Decisions
    from flctl.federation.coordinator.orders import Orders
    from flctl.federation.coordinator.run_folder import RunFolder
    from flctl.federation.identity.homes import CoordinatorHome
    from flctl.federation.member import FederationMember
    from flctl.federation.plan.plan import Plan
    from flctl.run.run import Run

__all__ = ["NetworkEngine", "SiteMemory"]

LOOK_SECONDS = 2.0
"""Seconds for which the sites that are available are not asked for again."""
BYTES_A_CLIENT = 4096
"""Room in a reply for what an aggregator sends about each client of the cohort."""


class NetworkEngine(Engine):
    """Trains at the sites of a federated data directory, once each of them has approved the run's plan.

    The orders of a round are the same after a crash, so that replies which are at the hub already are taken.
    """

    name = "network"

    class Config(Options):
        """`home` is the coordinator's folder; `days` after which the plan ends; `away` and `stalled` are in seconds."""

        home: str | None = Field(default=None, description="Folder of the coordinator.", json_schema_extra=PATH)
        purpose: str = Field(default="", description="Purpose of the run, which the sites read and approve.")
        days: int = Field(default=30, ge=1, le=3650, description="Days after which the plan ends.")
        away: float = Field(default=600.0, gt=0, description="Seconds without a poll after which a site is away.")
        stalled: float = Field(default=300.0, gt=0, description="Seconds without progress after which it stalled.")
        proxy: str | None = Field(default=None, description="CONNECT proxy, http://[user:password@]host:port.")

    _run: Run
    _member: FederationMember
    _folder: RunFolder
    _plan: Plan
    _orders: Orders
    _decisions: Decisions
    _collecting: Collecting

    def check(self, run: Run) -> None:
        """Raises ConfigError without a purpose, and if the coordinator has not joined a federation."""
        from flctl.federation.identity.joining import Membership

        if not self.config.purpose:
            raise ConfigError("sites are asked for approval and read the purpose", hint="Add --purpose TEXT.")
        Membership.open(self._home)

    @property
    def _home(self) -> CoordinatorHome:
        from flctl.federation.identity.homes import CoordinatorHome

        return CoordinatorHome.at(Path(self.config.home) if self.config.home else None)

    @contextmanager
    def open(self, run: Run) -> Iterator[NetworkEngine]:
        from flctl.federation.coordinator.run_folder import RunFolder
        from flctl.federation.member import FederationMember

        self._run, self._folder = run, RunFolder.of(run.directory)
        self._asked: tuple[Ask, Layout] = ("train", run.update_layout)
        self._place, self._looked, self._present = (0, 0), -LOOK_SECONDS, frozenset[ClientId]()
        with FederationMember.at(self._home, _say, self.config.proxy) as self._member:
            self._plan = self._planned()
            self._assemble()
            self._orders.post_plan()
            yield self

    def _assemble(self) -> None:
        from flctl.federation.coordinator.collecting import Collecting, Patience
        from flctl.federation.coordinator.decisions import Decisions
        from flctl.federation.coordinator.orders import Orders

        member, folder, plan = self._member, self._folder, self._plan
        self._orders = Orders(member, folder, plan)
        self._decisions = Decisions(member, folder, plan, _say)
        patience = Patience(self.config.away, self.config.stalled)
        self._collecting = Collecting(member, folder, plan.digest, patience)

    def _planned(self) -> Plan:
        """The plan of the run: the one that was made at its start, or a new one."""
        from flctl.federation.plan.building import FederationFacts, build_plan

        known = self._folder.plan()
        if known is not None:
            return known
        self.check(self._run)
        roster = self._member.greet()
        self._require_operator_apart()
        strangers = [site for site in self._run.partition.client_ids if site not in roster.sites]
        if strangers:
            raise IncompatibleError(
                f"{', '.join(strangers[:3])} not in version {roster.version} of the roster of {roster.federation}",
                hint="Make the data directory again: flctl federation data FEDERATION --out DIR",
            )
        facts = FederationFacts(
            federation=roster.federation,
            run=self._folder.name,
            coordinator=self._member.name,
            purpose=self.config.purpose,
            roster=roster.digest,
            until=(datetime.now(UTC) + timedelta(days=self.config.days)).date().isoformat(),
            schema=self._run.partition.manifest.dataset.digest.removeprefix("sha256:"),
        )
        plan = build_plan(self._run, facts)
        self._folder.keep_plan(plan)
        return plan

    def _require_operator_apart(self) -> None:
        """Raises IncompatibleError for `active` secure aggregation while the operator's key lies at the hub: an
        intruder there could admit sites, and learn what is left of a sum without theirs."""
        active = getattr(self._run.aggregator.config, "mode", None) == "active"
        if active and self._member.operator_key_at_hub:
            raise IncompatibleError(
                "aggregator.mode=active, and the operator's key lies at the hub, which could admit sites of its own",
                hint="Ask the operator to move operator/identity.key off the hub's machine, and to use --key then.",
            )

    def enrolled(self, aggregator: Aggregator) -> Aggregator:
        """Returns the aggregator with the sites' identities, from the roster that the plan names."""
        from flctl.federation.identity.per_run import run_identities

        plan = self._plan
        roster = self._member.roster_of(plan.roster)
        return aggregator.enrolled(run_identities(roster, plan.digest, plan.sites, self._run.directory / "secagg"))

    def clients(self) -> Sequence[ClientId]:
        return self._run.partition.client_ids

    def available(self) -> Collection[ClientId]:
        """Returns the sites that answer the hub, none before all sites have approved the plan.

        Raises IncompatibleError if a site denied it.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            approved = self._decisions.approved()
            self._present = frozenset(self._collecting.present()) if approved else frozenset()
        return self._present

    def exchange(
        self, requests: Mapping[ClientId, Request], deadline: float | None = None
    ) -> Iterator[tuple[ClientId, Reply | Failure]]:
        round_number = next((request.round for request in requests.values()), self._place[0])
        phase = self._place[1] + 1 if round_number == self._place[0] else 1
        self._place = (round_number, phase)
        work = next((request.work for request in requests.values() if request.work is not None), None)
        if work is not None:
            self._asked = (work.ask, work.layout)
        ask, layout = self._asked  # a phase without work belongs to the work before it
        most = most_reply_bytes(layout) + BYTES_A_CLIENT * len(self.clients())
        posted = self._orders.post_tasks((round_number, str(phase), 0), ask, requests, most)
        yield from self._collecting.replies(posted, deadline)

    def client_memory(self, run: Run) -> SiteMemory:
        return SiteMemory(self._orders, list(run.partition.client_ids))


class SiteMemory:
    """Client memory at the sites: each change is a notice, which a site reads before its next task."""

    def __init__(self, orders: Orders, clients: Sequence[ClientId]) -> None:
        self._orders, self._clients = orders, clients
        self._settled = -1

    def retract(self, clients: npt.ArrayLike, round_number: int) -> None:
        """Tells sites, by index, to drop what they wrote in a round in which their reply was not used."""
        sites = [self._clients[index] for index in np.asarray(clients, np.int64).tolist()]
        self._orders.post_notice(sites, {"retract": round_number})

    def sync(self) -> None:
        """Does nothing: a site puts its memory on disk before it replies."""

    def settle(self, round_number: int) -> None:
        """Tells the sites that rounds up to `round_number` are over, and frees their blobs."""
        if round_number > self._settled:
            self._settled = round_number
            self._orders.post_notice(self._clients, {"settled": round_number})
            self._orders.settle(round_number)

    def forget_after(self, round_number: int) -> None:
        """Tells the sites that training goes on from the checkpoint of round `round_number`."""
        self._orders.post_notice(self._clients, {"forget": round_number})


def _say(sentence: str) -> None:
    """Writes a line for people."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
