"""Replies of sites: fetched, opened and checked; and the sites that are away, stalled or late."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flctl.errors import ProtocolError
from flctl.federation.content import FailureBody, unpack_reply
from flctl.federation.coordinator.orders import Posted
from flctl.federation.coordinator.run_folder import RunFolder
from flctl.federation.member import FederationMember
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.envelope import Envelope
from flctl.federation.transport.hub_client import SiteState
from flctl.types import ClientId, Failure, FailureKind, Reply
from flctl.wire.replies import one_line

__all__ = ["Collecting", "Patience"]

POLL_SECONDS = 5.0
IDLE_SECONDS = 60.0
"""Seconds in which a site that polls may not have begun a task yet, beyond those for a stalled one."""
KINDS: Mapping[str, FailureKind] = {
    "non-finite": "non-finite",
    "layout": "layout",
    "worker-died": "worker-died",
    "memory": "memory",
    "protocol": "protocol",
    "refused": "refused",
    "denied": "denied",
    "version": "version",
}
"""Kinds of failure that a site may report; any other counts as `exception`."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds without a poll after which a site is away, and without progress of its task after which it stalled."""

    away: float = 600.0
    stalled: float = 300.0


@dataclass
class Collecting:
    """Receives the replies to posted tasks. Replies to tasks that are not posted yet are kept: a resumed run meets
    them again."""

    member: FederationMember
    folder: RunFolder
    plan: str
    patience: Patience
    _after: int = 0
    _unread: dict[str, Envelope] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _idle: dict[str, float] = field(default_factory=dict)
    """Time since which the site of a task has been idle: it polls, and works on nothing."""

    def replies(self, posted: Sequence[Posted], deadline: float | None) -> Iterator[tuple[ClientId, Reply | Failure]]:
        """Yields each site's reply, or a failure in its place."""
        pending, started = {one.task: one for one in posted}, time.monotonic()
        while pending:
            for task in [task for task in pending if task in self._unread]:
                one = pending.pop(task)
                yield one.site, self._opened(one, self._unread.pop(task))
            if pending:
                self._read(POLL_SECONDS if deadline is None else max(0.0, min(POLL_SECONDS, deadline / 4)))
            if pending and not pending.keys() & self._unread.keys():
                failed = self._failed(pending, started, deadline)
                if failed:
                    self.member.client.cancel(self.folder.name, failed)
                for task, failure in failed.items():
                    yield pending.pop(task).site, failure

    def present(self) -> set[ClientId]:
        """Returns the sites that have polled lately."""
        return {site for site, state in self.member.client.sites().items() if not self._is_away(state)}

    def _read(self, wait: float) -> None:
        for number, text in self.member.client.replies(self.folder.name, self._after, wait):
            self._after = max(self._after, number)
            try:
                envelope = self.member.read(text)
            except Refused:
                continue  # of a member that was removed meanwhile, or expired: as if it had not come
            if envelope.kind == "reply" and envelope.plan == self.plan:
                self._unread[envelope.task] = envelope

    def _failed(self, pending: Mapping[str, Posted], started: float, deadline: float | None) -> dict[str, Failure]:
        if deadline is not None and time.monotonic() - started > deadline:
            return dict.fromkeys(pending, Failure("deadline", f"no reply within {deadline:g} s"))
        states, found = self.member.client.sites(), {}
        for task, one in pending.items():
            state = states.get(one.site)
            if state is None or self._is_away(state):
                found[task] = Failure("away", "the site has not answered the hub for some time")
            elif self._is_stalled(state, task):
                found[task] = Failure("stalled", "the site answers the hub, and its work does not advance")
        return found

    def _is_away(self, state: SiteState) -> bool:
        seconds = time.monotonic() - self._since if state.seen is None else state.seen
        return seconds > self.patience.away

    def _is_stalled(self, state: SiteState, task: str) -> bool:
        """True if the work on the task does not advance, or the site polls and does not begin it."""
        if state.progress is None:
            idle = time.monotonic() - self._idle.setdefault(task, time.monotonic())
            return idle > self.patience.stalled + IDLE_SECONDS
        self._idle.pop(task, None)
        mine = state.progress.task == task
        return mine and state.advanced is not None and state.advanced > self.patience.stalled

    def _opened(self, one: Posted, envelope: Envelope) -> Reply | Failure:
        try:
            return self._checked(one, envelope)
        except Refused as refused:
            return Failure("protocol", refused.sentence)
        except ProtocolError as error:
            return Failure("protocol", one_line(error.message))

    def _checked(self, one: Posted, envelope: Envelope) -> Reply | Failure:
        if envelope.sender != one.site:
            raise Refused(Reason.ENVELOPE_SENDER)
        failure = FailureBody.read(envelope.body)
        if failure is not None:
            reason = f"{failure.sentence} ({failure.reason})" if failure.reason else failure.sentence
            return Failure(KINDS.get(failure.kind, "exception"), reason or failure.kind)
        if len(envelope.blobs) != 1 or envelope.blobs[0].bytes > one.most:
            raise Refused(Reason.REPLY_SIZE)
        return self._fetched(envelope)

    def _fetched(self, envelope: Envelope) -> Reply:
        ref = envelope.blobs[0]
        sealed, plain = self.folder.blobs / ref.sha256, self.folder.blobs / "reply"
        try:
            self.member.client.fetch_blob(ref.sha256, ref.bytes, sealed)
            self.member.open_blob(self.folder.name, ref, sealed, plain)
            return unpack_reply(plain.read_bytes())
        finally:
            for path in (sealed, plain):
                path.unlink(missing_ok=True)
