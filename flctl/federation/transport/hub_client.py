"""The hub's client, which sites and coordinators share: blocking calls that are repeated until the hub answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from flctl.errors import ProtocolError
from flctl.federation.identity.keys import Identity
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.line import Line
from flctl.federation.transport.retries import Pace
from flctl.federation.transport.transfers import Moved, fetch, send

__all__ = ["Hello", "HubClient", "SiteState", "TaskProgress"]

MOST_POST = 1 << 20
"""Largest body in bytes of one post of envelopes; longer lists go in several."""
MOST_RECEIPT = 4096
"""Longest receipt, which the site's record keeps."""
OTHER_FORM, COMPARE = "the hub's answer has another form than expected", "Compare the flctl versions."
Numbered = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Hello:
    """The hub's greeting: its clock in seconds since 1970, the newest signed roster, its limits, and flctl's version.

    `operator_key_here` is True if the operator's key lies at the hub, which `active` secure aggregation does not allow.
    """

    time: float
    roster: bytes
    limits: Mapping[str, int]
    version: str
    operator_key_here: bool


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """The state of a site's work: step `step` of `of` of a task, and bytes moved for it."""

    task: str
    step: int = 0
    of: int = 0
    moved: int = 0


@dataclass(frozen=True, slots=True)
class SiteState:
    """A site as the hub sees it: seconds since it polled and since its work advanced, and the work in progress.

    `seen` is None for a site that has not polled since the hub started.
    """

    seen: float | None
    advanced: float | None
    progress: TaskProgress | None


class HubClient:
    """Client of a hub.

    Each call is repeated with pauses of 1 to 30 s until the hub answers, unless `pace` gives up; `said` receives one
    sentence a minute meanwhile. A refusal by the hub raises Refused with its reason. Threads may share one client.
    """

    def __init__(
        self,
        address: HubAddress,
        identity: Identity,
        name: str,
        *,
        said: Callable[[str], None] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.line = Line(address, identity, name, said or _silent, pace or Pace())
        self.after = 0
        """Number of the newest order that `tasks` has returned; later calls return newer ones."""
        self.roster_version = 0
        """Version of the hub's roster as the newest poll had it; if it grows, `hello` brings the roster."""
        self._boot = secrets.token_hex(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def address(self) -> HubAddress:
        """The hub's address; assign another when the hub moves."""
        return self.line.address

    @address.setter
    def address(self, address: HubAddress) -> None:
        self.line.address = address

    @property
    def restarts(self) -> int:
        """Number of restarts of the hub that were met. After one, orders that it lost with an old backup can be posted
        again: those that are there stay as they are."""
        return max(0, self.line.epochs - 1)

    def close(self) -> None:
        """Ends waiting calls and closes all connections."""
        self.line.stop.set()
        self.line.close()

    def hello(self) -> Hello:
        """Returns the hub's clock, roster and limits."""
        value = self._value("GET", "/1/hello")
        with _expected():
            return Hello(
                float(value["time"]),
                str(value["roster"]).encode(),
                dict(value["limits"]),
                str(value["version"]),
                bool(value["operator_key_here"]),
            )

    # sites

    def tasks(self, wait: float = 25.0, progress: TaskProgress | None = None) -> list[bytes]:
        """Returns the signed orders that are new to this client: tasks without a reply, plans and notices.

        Waits up to `wait` seconds for one. Also the heartbeat, with `progress`. A new client gets all of them again.
        """
        query: dict[str, Any] = {"wait": f"{wait:g}", "after": self.after, "boot": self._boot}
        if progress:
            query |= {"task": progress.task, "step": progress.step, "of": progress.of, "moved": progress.moved}
        found = self._envelopes(f"/1/tasks?{urlencode(query)}", wait)
        self.after = max([self.after, *(number for number, _ in found)])
        return [text for _, text in found]

    def fetch_blob(self, sha256: str, size: int, into: Path, moved: Moved | None = None) -> None:
        """Fetches a blob into a file; continues a partial one. The file is on disk and has that digest."""
        fetch(self.line, sha256, size, into, moved)

    def send_blob(self, path: Path, sha256: str, moved: Moved | None = None, *, task: str = "", run: str = "") -> None:
        """Sends a file as a blob of a reply to `task` (sites) or of orders in `run` (coordinators)."""
        if bool(task) == bool(run):
            raise ValueError("a blob belongs to a task or to a run")
        send(self.line, path, sha256, urlencode({"task": task} if task else {"run": run}), moved)

    def send_reply(self, task: str, envelope: bytes) -> bytes:
        """Stores the reply to a task and returns the hub's signed receipt; the same bytes again change nothing.

        Raises Refused (`reply-changed`) if the task has another reply. Its blobs have to be sent before.
        """
        return _receipt(self._value("PUT", f"/1/replies/{task}", envelope))

    def send_note(self, envelope: bytes) -> bytes:
        """Stores a decision or notice for a run's coordinator and returns the hub's signed receipt."""
        return _receipt(self._value("POST", "/1/notes", envelope))

    # coordinators

    def post(self, envelopes: Sequence[bytes]) -> None:
        """Stores orders for sites: tasks, notices and plans. A task that is there already keeps its first envelope and
        its reply. Their blobs have to be sent before."""
        for batch in _batches(envelopes):
            self._value("POST", "/1/orders", batch)

    def replies(self, run: str, after: int = 0, wait: float = 25.0) -> Numbered:
        """Returns replies with numbers above `after`, oldest first; waits up to `wait` seconds for one."""
        return self._answers(run, "replies", after, wait)

    def notes(self, run: str, after: int = 0, wait: float = 0.0) -> Numbered:
        """Returns the sites' decisions and notices with numbers above `after`, oldest first."""
        return self._answers(run, "notes", after, wait)

    def sites(self) -> Mapping[str, SiteState]:
        """Returns the state of each site on the roster."""
        found = self._value("GET", "/1/sites")["sites"]
        return {name: _state(state) for name, state in found.items()}

    def cancel(self, run: str, tasks: Iterable[str]) -> None:
        """Withdraws tasks that have no reply: the hub offers them no more, and refuses replies to them."""
        self._post_json(f"/1/runs/{quote(run)}/cancel", {"tasks": list(tasks)})

    def settle(self, run: str, round_number: int) -> None:
        """Lets the hub remove the blobs of all rounds up to this one, whose replies were counted."""
        self._post_json(f"/1/runs/{quote(run)}/settle", {"round": round_number})

    def end(self, run: str) -> None:
        """Lets the hub remove everything of a run that has ended."""
        self._value("DELETE", f"/1/runs/{quote(run)}")

    def _answers(self, run: str, kind: str, after: int, wait: float) -> Numbered:
        return self._envelopes(f"/1/runs/{quote(run)}/{kind}?after={after}&wait={wait:g}", wait)

    def _envelopes(self, path: str, wait: float) -> Numbered:
        value = self._value("GET", path, wait=wait)
        with _expected():
            found = [(int(number), str(text).encode()) for number, text in value["envelopes"]]
            self.roster_version = max(self.roster_version, int(value["roster"]))
        return found

    def _post_json(self, path: str, value: Any) -> None:
        self._value("POST", path, json.dumps(value).encode())

    def _value(self, method: str, path: str, body: bytes = b"", wait: float = 0.0) -> dict[str, Any]:
        value = self.line.ask(method, path, body, wait).value
        if not isinstance(value, dict):
            raise ProtocolError(OTHER_FORM, hint=COMPARE)
        return value


@contextmanager
def _expected() -> Iterator[None]:
    """Raises ProtocolError if the block finds an answer of another form."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(OTHER_FORM, hint=COMPARE) from error


def _silent(sentence: str) -> None:
    """Drops the sentence."""


def _receipt(value: Mapping[str, Any]) -> bytes:
    receipt = value.get("receipt")
    if not isinstance(receipt, str) or len(receipt) > MOST_RECEIPT:
        raise ProtocolError(OTHER_FORM, hint=COMPARE)
    return receipt.encode()


def _batches(envelopes: Sequence[bytes]) -> Iterator[bytes]:
    """JSON arrays of envelopes, each array within `MOST_POST`."""
    batch: list[str] = []
    size = 0
    for envelope in envelopes:
        text = json.dumps(envelope.decode())
        if batch and size + len(text) > MOST_POST - 2:
            yield f"[{','.join(batch)}]".encode()
            batch, size = [], 0
        batch.append(text)
        size += len(text) + 1
    if batch:
        yield f"[{','.join(batch)}]".encode()


def _state(value: Mapping[str, Any]) -> SiteState:
    progress = value["progress"]
    return SiteState(value["seen"], value["advanced"], TaskProgress(**progress) if progress else None)
