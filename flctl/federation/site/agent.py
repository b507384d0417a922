"""The agent of a site: asks the hub for orders, checks them, has its worker train, and sends what may leave.

It holds the keys and the network and runs no model code; it never imports torch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from flctl.errors import FlctlError, ProtocolError, StorageError
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.names import require_name
from flctl.federation.member import FederationMember
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.gate import Gate
from flctl.federation.site.intake import PlanIntake
from flctl.federation.site.journal import Journal
from flctl.federation.site.outbox import Outbox
from flctl.federation.site.run_files import SiteRun
from flctl.federation.site.steps import Steps
from flctl.federation.transport.envelope import Envelope, open_envelope
from flctl.federation.transport.hub_client import TaskProgress
from flctl.federation.transport.retries import HubAwayError

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["SiteAgent", "locked"]

IDLE_WAIT, BUSY_WAIT = 25.0, 5.0
FORMER_SECONDS = 60.0
LOOK_SECONDS = 2.0
"""Seconds between two looks at decisions that a person has made meanwhile."""
GREET_SECONDS = 6 * 3600.0
"""Seconds between two greetings of the hub, which renew the TLS certificate before it ends."""
FAULT_SECONDS = 30.0
"""Seconds of a pause after an answer of the hub that has another form than expected."""


@contextmanager
def locked(home: SiteHome) -> Iterator[None]:
    """Keeps a second agent from using a home. Raises Refused (`home-locked`) while one does."""
    from filelock import FileLock, Timeout

    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(home.path / "agent.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Refused(Reason.HOME_LOCKED, hint="End the other `flctl site serve`, or wait for it.") from error
    try:
        yield
    finally:
        lock.release()


class SiteAgent:
    """Answers the orders of one federation at one site. `said` receives sentences for the site's own log."""

    def __init__(
        self,
        home: SiteHome,
        member: FederationMember,
        gate: Gate,
        journal: Journal,
        registry: Catalogue,
        said: Callable[[str], None],
    ) -> None:
        self.home, self.member, self.gate, self.journal, self.said = home, member, gate, journal, said
        self.outbox = Outbox(home.outbox)
        self.steps = Steps(home, member, gate, self.journal, self.outbox, registry, said)
        self._plans = PlanIntake(home, member, gate, said)
        self._orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._failed: BaseException | None = None
        self._greet_at = time.time() + GREET_SECONDS
        self._told: tuple[str, float] = ("", 0.0)

    def serve(self) -> None:
        """Answers orders until `stop` is called. Raises what ends the agent, such as a roster that was rolled back."""
        self.member.greet()
        poller = threading.Thread(target=self._poll, name="orders", daemon=True)
        poller.start()
        try:
            while not self._stop.is_set():
                self._between()
                with suppress(queue.Empty):
                    self.handle(self._orders.get(timeout=LOOK_SECONDS))
            if self._failed is not None:
                raise self._failed
        except HubAwayError:
            if not self._stop.is_set():
                raise
        finally:
            self.close()

    def work_once(self) -> int:
        """Answers the orders that are there, and returns their number: for cron, Slurm, and hosts without daemons."""
        handled = 0
        try:
            self.member.greet()
            self._between()
            while orders := self._asked(wait=0):
                for text in orders:
                    self.handle(text)
                    handled += 1
                self._between()
        finally:
            self.close()
        return handled

    def stop(self) -> None:
        """Ends `serve` soon; an answer in progress is dropped and computed again later."""
        self._stop.set()
        self.member.client.close()
        self.steps.end()

    def close(self) -> None:
        """Ends workers and closes the journal."""
        self._stop.set()
        self.member.client.close()
        self.steps.end()
        self.journal.close()

    def handle(self, text: bytes) -> None:
        """Handles one order: whatever is wrong with it is recorded, and the agent goes on."""
        try:
            envelope = self.member.read(text)
        except Refused as refused:
            self._refused(text, refused)
            return
        try:
            self._handled(envelope, text)
        except HubAwayError:
            raise
        except StorageError as error:
            self.said(f"{error.message}; the order is taken up again later")
            self._stop.wait(LOOK_SECONDS)
            self._orders.put(text)
        except Refused as refused:
            self._failed_order(envelope, refused, refused.reason.value)
        except FlctlError as error:
            self._failed_order(envelope, error, error.kind)
        except Exception as error:  # whatever an order holds, the site stays up
            self._failed_order(envelope, error, "exception")

    def _failed_order(self, envelope: Envelope, error: Exception, reason: str) -> None:
        words = error.message if isinstance(error, FlctlError) else f"{type(error).__name__}: {error}"
        self.said(f"run {_name(envelope.run)}: {words}")
        self.gate.record("refused", run=_name(envelope.run), task=envelope.task, reason=reason)

    def _handled(self, envelope: Envelope, text: bytes) -> None:
        coordinator = self.member.roster.coordinators.get(envelope.sender)
        if envelope.kind in ("plan", "notice") and (coordinator is None or coordinator.expired()):
            raise Refused(Reason.ROSTER_MEMBER)  # a task is answered with this reason, by its checks
        if envelope.kind == "plan":
            self._plans.take(envelope, text)
        elif envelope.kind == "notice":
            self._notice(envelope)
        elif envelope.kind == "task":
            self.steps.answer(envelope)
        else:
            raise Refused(Reason.ENVELOPE_KIND)

    def _between(self) -> None:
        """Sends decisions that were made since, and replies that an earlier agent left; greets the hub."""
        for act in (self._send_decisions, self.steps.upload_waiting, self._greet):
            try:
                act()
            except (Refused, ProtocolError) as error:  # by the hub: it is asked again
                self._say(f"the hub did not take part: {error.message}")

    def _send_decisions(self) -> None:
        self._plans.send_decisions(self.journal)

    def _greet(self) -> None:
        """Greets the hub a few times a day, which brings the newest roster and renews the TLS certificate."""
        if abs(self._greet_at - time.time()) > GREET_SECONDS or time.time() >= self._greet_at:
            self._greet_at = time.time() + GREET_SECONDS / 24
            self.member.greet()
            self._greet_at = time.time() + GREET_SECONDS

    def _say(self, sentence: str) -> None:
        """Says a sentence, the same one at most once a minute."""
        if sentence != self._told[0] or time.monotonic() - self._told[1] >= FORMER_SECONDS:
            self._told = (sentence, time.monotonic())
            self.said(sentence)

    def _notice(self, envelope: Envelope) -> None:
        run = SiteRun.of(self.home, envelope.run)
        plan = run.plan()
        if plan.digest != envelope.plan or plan.coordinator != envelope.sender:
            raise Refused(Reason.PLAN_COORDINATOR)
        fact, number = f"notice {plan.digest}", envelope.body.get("number")
        if type(number) is not int:
            raise Refused(Reason.BODY_FORM)
        if number <= int(self.journal.fact(fact) or 0):
            return  # the hub gives notices again to an agent that starts; memory of later rounds would be lost
        self._act(envelope, run, plan)
        self.journal.keep_fact(fact, str(number))

    def _act(self, envelope: Envelope, run: SiteRun, plan: Plan) -> None:
        for name, act in (
            ("settled", self.steps.settle),
            ("retract", self.steps.retract),
            ("forget", self.steps.forget),
        ):
            number = envelope.body.get(name)
            if type(number) is not int or number < 0:
                continue
            if number > plan.rounds:
                raise Refused(Reason.ROUND_BEYOND)
            act(run, plan, number)

    def _refused(self, text: bytes, refused: Refused) -> None:
        """Records an order that was refused before its sender was known."""
        self.said(f"an order was refused: {refused.sentence}")
        with suppress(Refused):
            envelope, _ = open_envelope(text)
            self.gate.record("refused", run=_name(envelope.run), task=envelope.task, reason=refused.reason.value)
            return
        self.gate.record("refused", run="", task="", reason=refused.reason.value)

    def _asked(self, wait: float, progress: TaskProgress | None = None) -> list[bytes]:
        """Orders from the hub. An agent that starts anew is refused while the hub may still hear its former one."""
        until = time.monotonic() + FORMER_SECONDS
        while True:
            try:
                return self.member.client.tasks(wait, progress)
            except Refused as refused:
                if refused.reason is not Reason.DOOR_TWICE or time.monotonic() > until or self._stop.wait(1.0):
                    raise

    def _poll(self) -> None:
        """Asks for orders while the agent works; the polls are its heartbeat too."""
        try:
            while not self._stop.is_set():
                progress = self.steps.progress()
                try:
                    orders = self._asked(BUSY_WAIT if progress else IDLE_WAIT, progress)
                except ProtocolError as error:
                    self._say(error.message)
                    self._stop.wait(FAULT_SECONDS)
                    continue
                for text in orders:
                    self._orders.put(text)
        except HubAwayError:
            return
        except BaseException as error:
            self._failed = error
            self._stop.set()


def _name(run: str) -> str:
    """The run's name if it may be one; the record and the site's log hold no other text of a stranger."""
    try:
        return require_name(run, "run")
    except UntrustedError:
        return ""
