"""Orders of a run: plans, tasks and notices, sealed and posted at the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from typing import Any

from flctl.federation.content import MESSAGE, PLAN, WORKS, OrderBody, content_digest
from flctl.federation.coordinator.run_folder import RunFolder
from flctl.federation.identity.keys import PublicIdentity
from flctl.federation.member import FederationMember
from flctl.federation.plan.moments import moment
from flctl.federation.plan.plan import Plan
from flctl.federation.transport.envelope import BlobRef, Envelope, key_context
from flctl.federation.transport.sealing import BlobFacts, content_key, file_digest, seal_file, sealed_size
from flctl.federation.transport.tasks import task_id
from flctl.types import Ask, ClientId, Request, Work
from flctl.wire import messages

__all__ = ["Orders", "Posted"]


@dataclass(frozen=True, slots=True)
class Posted:
    """A task at the hub: its id, its site, and the largest size of its reply's blob."""

    task: str
    site: ClientId
    most: int


@dataclass
class Orders:
    """Posts the orders of one run. A blob for several sites is sealed and sent once; its key is sealed to each."""

    member: FederationMember
    folder: RunFolder
    plan: Plan
    _secret: bytes = field(default=b"", repr=False)
    _sealed: dict[str, BlobFacts] = field(default_factory=dict)
    _work: tuple[Work, BlobFacts] | None = None

    def post_plan(self) -> None:
        """Sends the plan to all of its sites."""
        blob = self._blob(self.plan.to_json())
        self.member.client.post(
            [
                self._written("plan", site, blobs=(self._ref(blob, site),), body={"parts": [PLAN]})
                for site in self.plan.sites
            ]
        )

    def post_tasks(
        self, place: tuple[int, str, int], ask: Ask, requests: Mapping[ClientId, Request], reply_bytes: int
    ) -> list[Posted]:
        """Posts a task for each client at `place` (round, phase, attempt); returns them in the order of requests.

        The same requests have the same tasks, so that replies of an interrupted round are found again.
        """
        posted, envelopes, most = [], [], sealed_size(reply_bytes)
        for site, request in requests.items():
            parts = self._parts(request, ask)
            content = content_digest(ask, {name: blob.plaintext for name, blob in parts.items()})
            task = task_id(self.plan.digest, *place, site, content)
            refs = tuple(self._ref(blob, site) for blob in parts.values())
            body = OrderBody(ask, tuple(parts)).to_json()
            envelopes.append(self._written("task", site, place, task=task, blobs=refs, reply_bytes=most, body=body))
            posted.append(Posted(task, site, most))
        self.member.client.post(envelopes)
        return posted

    def post_notice(self, sites: Iterable[ClientId], body: Mapping[str, Any]) -> None:
        """Sends a notice to sites, with a number above those of the run's earlier ones: a site acts on each once."""
        numbered = {**body, "number": self.folder.next_notice()}
        self.member.client.post([self._written("notice", site, body=numbered) for site in sites])

    def settle(self, round_number: int) -> None:
        """Removes the sealed files of rounds that are over, here and at the hub."""
        for facts in self._sealed.values():
            (self.folder.blobs / facts.sha256).unlink(missing_ok=True)
        self._sealed.clear()
        self._work = None
        self.member.client.settle(self.folder.name, round_number)

    def _parts(self, request: Request, ask: Ask) -> dict[str, BlobFacts]:
        parts = {}
        if request.work is not None:
            if self._work is None or self._work[0] is not request.work:
                self._work = (request.work, self._blob(messages.pack_work(request.work)))
            parts[WORKS[ask]] = self._work[1]
        if request.message:
            parts[MESSAGE] = self._blob(request.message)
        return parts

    def _blob(self, plaintext: bytes) -> BlobFacts:
        """Seals and sends a blob, once."""
        plain = self.folder.blobs / "plain"
        plain.write_bytes(plaintext)
        try:
            digest = file_digest(plain)
            if digest not in self._sealed:
                sealing = self.folder.blobs / "sealing"
                facts = seal_file(plain, sealing, self._key(digest), digest)
                sealed = self.folder.blobs / facts.sha256
                sealing.replace(sealed)
                self.member.client.send_blob(sealed, facts.sha256, run=self.folder.name)
                self._sealed[digest] = facts
            return self._sealed[digest]
        finally:
            plain.unlink(missing_ok=True)

    def _key(self, digest: str) -> bytes:
        self._secret = self._secret or self.folder.secret()
        return content_key(self._secret, digest)

    def _ref(self, blob: BlobFacts, site: ClientId) -> BlobRef:
        recipient: PublicIdentity = self.member.roster.site(site).identity
        sealed = recipient.seal(self._key(blob.plaintext), key_context(self.folder.name, blob.sha256))
        return BlobRef(blob.sha256, blob.bytes, blob.plaintext, sealed.hex())

    def _written(self, kind: Any, site: ClientId, place: tuple[int, str, int] = (0, "", 0), **fields: Any) -> bytes:
        until = min(moment(self.plan.until), moment("9999-12-30")) - timedelta(seconds=1)
        envelope = Envelope(
            federation=self.plan.federation,
            run=self.folder.name,
            plan=self.plan.digest,
            sender=self.member.name,
            recipient=site,
            kind=kind,
            until=until.astimezone(UTC).isoformat(timespec="seconds"),
            round=place[0],
            phase=place[1],
            attempt=place[2],
            **fields,
        )
        return self.member.write(envelope)
