"""One step of a run at a site: checks, claim, training, outbox, upload, in this order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flctl.algorithms.run_identities import RunIdentities
from flctl.client.memory_store import MemoryStore
from flctl.errors import ProtocolError, StorageError
from flctl.federation.content import MESSAGE, FailureBody, OrderBody, content_digest, pack_reply
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.per_run import run_identities
from flctl.federation.member import FederationMember
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.gate import Gate
from flctl.federation.site.intake import envelope_until
from flctl.federation.site.journal import Journal, SiteStep
from flctl.federation.site.outbox import Outbox, StoredReply
from flctl.federation.site.run_files import SiteRun
from flctl.federation.site.settings import read_settings
from flctl.federation.site.worker import SiteWorker, WorkerSettings
from flctl.federation.transport.envelope import BlobRef, Envelope, key_context, open_envelope
from flctl.federation.transport.hub_client import TaskProgress
from flctl.federation.transport.retries import HubAwayError
from flctl.federation.transport.sealing import BlobFacts, sealed_size
from flctl.federation.transport.tasks import task_id
from flctl.types import Failure, FailureKind, Reply, Request
from flctl.wire import messages

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["Steps"]

MOST_MESSAGE = 64 << 20
"""Largest message of an aggregator to one site."""
MARGIN = 1 << 16
"""Bytes of a round's work beside its vectors."""
SENTENCES: Mapping[FailureKind, str] = {
    "exception": "Local training failed at the site.",
    "non-finite": "Local training at the site gave numbers that are not finite.",
    "layout": "The site's update has another layout than the plan's.",
    "worker-died": "The worker process at the site ended.",
    "memory": "The site does not have the memory for this step.",
    "protocol": "The site could not read the order.",
    "refused": "The aggregator's half at the site refused the message.",
}
"""All that leaves about a failure. An exception's text could hold values of the data."""
VERSIONS = frozenset(reason for reason in Reason if reason.startswith(("version-", "plugin-")))


class Steps:
    """Answers tasks, one after the other. Steps that were begun before a kill are taken up as the journal says."""

    def __init__(
        self,
        home: SiteHome,
        member: FederationMember,
        gate: Gate,
        journal: Journal,
        outbox: Outbox,
        registry: Catalogue,
        said: Callable[[str], None],
    ) -> None:
        self._home, self._member, self._gate, self._said = home, member, gate, said
        self._journal, self._outbox, self._registry = journal, outbox, registry
        self._workers: dict[str, SiteWorker] = {}
        self._current: tuple[str, SiteWorker | None, int] | None = None

    def answer(self, envelope: Envelope) -> None:
        """Answers one task: with a reply, or with a failure of which only its kind and one sentence leave."""
        known = self._journal.step(envelope.task)
        if known is not None and known.state != "claimed":
            if known.state == "replied":
                self._upload(envelope.task)
            return
        plan = SiteRun.of(self._home, envelope.run).plan()
        try:
            self._current = (envelope.task, None, 0)
            self._answered(envelope, plan)
        except Refused as refused:
            reason = refused.reason
            self._fail(envelope, plan, FailureBody(_kind(reason), reason.value, reason.sentence))
        except (HubAwayError, StorageError):
            raise  # the order is taken up again
        except Exception as error:  # whatever fails, the site stays up, and the error's text stays here
            self.end()
            self._said(f"run {envelope.run}: {type(error).__name__}: {error}")
            known = self._journal.step(envelope.task)
            if known is not None and known.state != "claimed":
                return  # there is a reply, which is sent later
            self._fail(envelope, plan, FailureBody("exception", "", SENTENCES["exception"]))
        finally:
            self._current = None

    def _answered(self, envelope: Envelope, plan: Plan) -> None:
        body = _order(envelope)
        self._gate.check(envelope, plan, body.ask)
        parts = self._fetched(envelope, plan, body)
        try:
            request, work = self._request(envelope, plan, parts, body)
            worker = self._worker(plan)
            worker.start()
            self._claim(envelope, plan, once=worker.answers_once)
        except Refused:
            self._journal.spend(sum(ref.bytes for ref in envelope.blobs))  # the day's limit holds for it too
            raise
        run = SiteRun.of(self._home, plan.run)
        place = (envelope.round, envelope.attempt, int(envelope.phase))
        memory = run.phase_memory(*place)
        self._current = (envelope.task, worker, 0)
        reply, memory = worker.answer(request, work, memory)
        if isinstance(reply, Failure):
            self._keep(envelope, plan, None, FailureBody(reply.kind, "", SENTENCES.get(reply.kind, "")))
        else:
            run.keep_phase_memory(*place, memory)
            shared = Reply(reply.message, self._gate.shared(body.ask, reply.metrics))
            self._keep(envelope, plan, pack_reply(shared), None)
        self._upload(envelope.task)

    def _fetched(self, envelope: Envelope, plan: Plan, body: OrderBody) -> dict[str, bytes]:
        """The parts of an order, decrypted. Raises Refused for a blob that is larger than expected, or changed."""
        run, parts = SiteRun.of(self._home, plan.run), {}
        most = {
            body.work: 4 * sum(plan.derived.broadcast.values()) + MARGIN + 64 * len(plan.sites),
            MESSAGE: MOST_MESSAGE,
        }
        for name, ref in zip(body.parts, envelope.blobs, strict=True):
            if ref.bytes > sealed_size(most[name]):
                raise Refused(Reason.BLOB_SIZE)
        try:
            for name, ref in zip(body.parts, envelope.blobs, strict=True):
                sealed, plain = run.incoming / f"{ref.sha256}.sealed", run.incoming / name
                self._member.client.fetch_blob(ref.sha256, ref.bytes, sealed, self._moved)
                self._member.open_blob(envelope.run, ref, sealed, plain)
                parts[name] = plain.read_bytes()
        finally:
            run.clear()
        return parts

    def _request(
        self, envelope: Envelope, plan: Plan, parts: Mapping[str, bytes], body: OrderBody
    ) -> tuple[Request, bytes | None]:
        work = parts.get(body.work)
        if work is None:
            return Request(envelope.round, None, parts.get(MESSAGE, b"")), None
        try:
            unpacked = messages.unpack_work(work)
        except (ProtocolError, TypeError, KeyError) as error:
            raise Refused(Reason.BODY_FORM) from error
        if unpacked.round != envelope.round or unpacked.ask != body.ask:
            raise Refused(Reason.WORK_CHANGED)
        self._gate.check_work(plan, unpacked)
        return Request(envelope.round, unpacked, parts.get(MESSAGE, b"")), work

    def _worker(self, plan: Plan) -> SiteWorker:
        if plan.digest not in self._workers:
            self.end()  # one run's worker at a time: models of two runs may not fit the memory
            prefix = read_settings(self._home.path).worker.prefix
            settings = WorkerSettings(prefix, self._gate.seconds_a_round())
            self._workers[plan.digest] = SiteWorker(
                self._home, self._member.name, plan, self._registry, settings, self._identities(plan)
            )
        return self._workers[plan.digest]

    def _identities(self, plan: Plan) -> RunIdentities:
        """The identities of the plan's sites, from the roster that it names; records outlive the run."""
        roster, folder = self._member.roster_of(plan.roster), self._home.path / "secagg"
        return run_identities(roster, plan.digest, plan.sites, folder, self._member.identity)

    def _claim(self, envelope: Envelope, plan: Plan, *, once: bool) -> None:
        moved = sum(ref.bytes for ref in envelope.blobs)
        place = (envelope.round, envelope.phase, envelope.attempt)
        body = _order(envelope)
        parts = dict(zip(body.parts, envelope.blobs, strict=True))
        work = f"{body.work} {parts[body.work].plaintext}" if body.work in parts else ""
        self._journal.claim(SiteStep(envelope.task, plan.run, plan.digest, *place, work=work, bytes=moved), once=once)

    def _keep(self, envelope: Envelope, plan: Plan, body: bytes | None, failure: FailureBody | None) -> None:
        """Puts a reply into the outbox, from which it leaves unchanged however often it is sent."""
        recipient = self._member.roster.coordinators[plan.coordinator].identity

        def written(facts: BlobFacts | None, key: bytes) -> bytes:
            refs: tuple[BlobRef, ...] = ()
            if facts is not None:
                sealed = recipient.seal(key, key_context(envelope.run, facts.sha256))
                refs = (BlobRef(facts.sha256, facts.bytes, facts.plaintext, sealed.hex()),)
            return self._reply(envelope, plan, refs, failure)

        waiting = self._outbox.put(envelope.task, body, written)
        size = waiting.blob.stat().st_size if waiting.blob else 0
        self._journal.move(envelope.task, "replied", size)

    def _reply(self, envelope: Envelope, plan: Plan, refs: tuple[BlobRef, ...], failure: FailureBody | None) -> bytes:
        return self._member.write(
            Envelope(
                federation=plan.federation,
                run=envelope.run,
                plan=envelope.plan,
                sender=self._member.name,
                recipient=envelope.sender,
                kind="reply",
                until=envelope_until(plan),
                round=envelope.round,
                phase=envelope.phase,
                attempt=envelope.attempt,
                task=envelope.task,
                blobs=refs,
                body={} if failure is None else failure.to_json(),
            )
        )

    def upload_waiting(self) -> None:
        """Sends the replies that lie in the outbox and that the hub does not have."""
        for step in self._journal.steps("replied"):
            self._upload(step.task)

    def _upload(self, task: str) -> None:
        """Sends one reply until the hub has it. The approval is looked at once more: after a revocation, no update
        leaves that has not left before."""
        step, waiting = self._journal.step(task), self._outbox.get(task)
        if step is None or waiting is None:
            return
        try:
            if waiting.blob is not None:
                self._gate.still_approved(SiteRun.of(self._home, step.run).plan())
            self._sent(task, waiting)
        except Refused as refused:
            self._gate.record("dropped", run=step.run, task=task, reason=refused.reason.value)
            self._journal.move(task, "dropped")
            self._outbox.remove([task])

    def _sent(self, task: str, waiting: StoredReply) -> None:
        if waiting.blob is not None:
            digest = _digest_of(waiting)
            self._member.client.send_blob(waiting.blob, digest, self._moved, task=task)
        receipt = self._member.client.send_reply(task, waiting.envelope)
        self._journal.move(task, "uploaded")
        self._gate.record("sent", task=task, receipt=receipt.decode())

    def _fail(self, envelope: Envelope, plan: Plan, failure: FailureBody) -> None:
        """Answers a task with a refusal or failure, and records it."""
        reason = failure.reason or failure.kind
        self._gate.record("refused", run=envelope.run, task=envelope.task, reason=reason)
        self._member.client.send_reply(envelope.task, self._reply(envelope, plan, (), failure))

    def settle(self, run: SiteRun, plan: Plan, round_number: int) -> None:
        """Removes what rounds up to `round_number` left: replies, the aggregator's memory, old client memory."""
        self._outbox.remove(self._journal.settle(run.name, round_number))
        run.settle(round_number)
        if plan.derived.memory_layout:
            self._memory(run, plan).settle(round_number)

    def retract(self, run: SiteRun, plan: Plan, round_number: int) -> None:
        """Drops what this site remembered in a round in which its reply was not used."""
        if plan.derived.memory_layout:
            self._memory(run, plan).retract([plan.site_index(self._member.name)], round_number)

    def forget(self, run: SiteRun, plan: Plan, round_number: int) -> None:
        """Drops the memory of rounds after `round_number`, from whose checkpoint training goes on."""
        if plan.derived.memory_layout and run.memory.exists():
            self._memory(run, plan).forget_after(round_number)

    def _memory(self, run: SiteRun, plan: Plan) -> MemoryStore:
        return MemoryStore(run.memory, len(plan.sites), plan.derived.memory_layout)

    def progress(self) -> TaskProgress | None:
        """The step in progress: CPU seconds of its worker, and bytes moved for it; None between steps."""
        current = self._current
        if current is None:
            return None
        task, worker, moved = current
        pid = None if worker is None else worker.pid
        return TaskProgress(task, step=0 if pid is None else _cpu_seconds(pid), moved=moved)

    def _moved(self, done: int, size: int) -> None:
        if self._current is not None:
            self._current = (*self._current[:2], done)

    def end(self) -> None:
        """Ends all workers. A signal's handler may call this while the agent does."""
        for digest in list(self._workers):
            worker = self._workers.pop(digest, None)
            if worker is not None:
                worker.end()


def _order(envelope: Envelope) -> OrderBody:
    """The order's body. Raises Refused unless it names the task's content: its id follows from it."""
    try:
        body = OrderBody.read(envelope.body)
    except ProtocolError as error:
        raise Refused(Reason.BODY_FORM) from error
    if len(body.parts) != len(envelope.blobs) or not (envelope.phase.isascii() and envelope.phase.isdecimal()):
        raise Refused(Reason.BODY_FORM)
    parts = {name: ref.plaintext for name, ref in zip(body.parts, envelope.blobs, strict=True)}
    place = (envelope.round, envelope.phase, envelope.attempt)
    if envelope.task != task_id(envelope.plan, *place, envelope.recipient, content_digest(body.ask, parts)):
        raise Refused(Reason.ROUND_FORM)
    return body


def _digest_of(waiting: StoredReply) -> str:
    """SHA-256 of the sealed body, as the reply's envelope names it."""
    return open_envelope(waiting.envelope)[0].blobs[0].sha256


def _kind(reason: Reason) -> str:
    return "version" if reason in VERSIONS else "denied"


def _cpu_seconds(pid: int) -> int:
    """CPU seconds of a process; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0
