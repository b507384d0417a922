"""The hub's state: database, blobs, door, presence and roster, and the threads that work for the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flctl.federation.hub.blobs import BlobFolder
from flctl.federation.hub.door import Door
from flctl.federation.hub.enrolling import Members
from flctl.federation.hub.limits import HubLimits, Rate
from flctl.federation.hub.presence import Presence, Waiting
from flctl.federation.hub.store import HubStore
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import sign

__all__ = ["PostBox"]

RECEIPT_PURPOSE = "flctl/receipt/1"
FILE_THREADS = 4
P = ParamSpec("P")
T = TypeVar("T")


class PostBox:
    """All that the hub's handlers share. `members` is asked for the newest roster at each request."""

    def __init__(
        self,
        folder: Path,
        members: Members,
        identity: Identity,
        *,
        limits: HubLimits | None = None,
        certificates: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.limits = limits or HubLimits()
        self.members, self.roster, self.now, self._identity = members, members.roster, now, identity
        self.blobs = BlobFolder(folder / "blobs")
        self.store = HubStore(folder / "hub.sqlite")
        self.door = Door(
            members.roster, certificates=certificates, requests_a_minute=self.limits.requests_a_minute, now=now
        )
        self.presence, self.waiting = Presence(), Waiting()
        self.joins = Rate(self.limits.joins_a_minute)
        self.receiving: dict[tuple[str, str], Any] = {}
        """Uploads in progress by blob and caller."""
        self.reserved: dict[str, int] = {}
        """Bytes on their way by run."""
        self._database = ThreadPoolExecutor(1, "hub-database")
        self._files = ThreadPoolExecutor(FILE_THREADS, "hub-files")
        self.reopened = self.store.forget_blobs(self.blobs.missing(self.store.blobs()))

    async def db(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Runs a method of the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._database, lambda: work(*arguments, **named))

    async def files(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Runs work on files on one of a few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._files, lambda: work(*arguments, **named))

    def receipt(self, digest: str, sender: str) -> str:
        """Returns the hub's signed statement that it has stored an envelope of this digest."""
        statement = {"digest": digest, "sender": sender, "stored": datetime.now(UTC).isoformat(timespec="seconds")}
        return sign(self._identity, RECEIPT_PURPOSE, statement).decode()

    async def dropped(self, work: Callable[..., list[str]], *arguments: Any) -> None:
        """Runs a method of the store that returns blobs to remove, and removes their files on the same thread, so that
        no upload of the same blob is recorded in between."""
        await self.db(lambda: self.blobs.remove(work(*arguments)))

    def close(self) -> None:
        """Ends the threads and closes the database."""
        self.waiting.wake_all()
        self._files.shutdown(wait=True)
        self._database.shutdown(wait=True)
        self.store.close()
