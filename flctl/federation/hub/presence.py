"""Presence of sites: polls, progress and agents as the hub has seen them since its start, and waiting requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flctl.federation.reasons import Reason, Refused

__all__ = ["Presence", "Waiting"]

GRACE = 10.0
"""Seconds after a poll in which another agent of the same identity is refused: an agent polls again at once."""
FORMER_AGENTS = 16


class Waiting:
    """Requests that wait for something, by key; waking a key ends its waits. Nothing is kept for keys without waits."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[None]]] = {}

    @contextmanager
    def wait(self, key: str) -> Iterator[Callable[[float], Any]]:
        """Registers a wait before the caller looks, so that nothing is missed between its look and its wait."""
        future = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, set()).add(future)

        async def until(seconds: float) -> bool:
            done, _ = await asyncio.wait([future], timeout=seconds)
            return bool(done)

        try:
            yield until
        finally:
            waits = self._futures[key]
            waits.discard(future)
            future.cancel()
            if not waits:
                del self._futures[key]

    def wake(self, key: str) -> None:
        """Ends the waits of a key."""
        for future in self._futures.get(key, ()):
            if not future.done():
                future.set_result(None)

    def wake_all(self) -> None:
        """Ends all waits, for a shutdown."""
        for key in list(self._futures):
            self.wake(key)

    def __len__(self) -> int:
        return sum(map(len, self._futures.values()))


@dataclass(slots=True)
class Site:
    """A site's agent, polls and progress, on the monotonic clock."""

    boot: str = ""
    polls: int = 0
    seen: float = 0.0
    cut: bool = False
    advanced: float = 0.0
    progress: tuple[Any, ...] = ()
    former: list[str] = field(default_factory=list)


class Presence:
    """Sites as the hub sees them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._sites: dict[str, Site] = {}

    @contextmanager
    def polling(self, name: str, boot: str, progress: tuple[Any, ...]) -> Iterator[None]:
        """A poll of an agent. Raises Refused (`door-twice`) if another agent of this identity polls too.

        A poll whose connection was cut (the block is cancelled) makes room for another agent at once.
        """
        site = self._sites.setdefault(name, Site())
        self._admit(site, boot)
        self._note(site, progress)
        site.polls += 1
        site.cut = False
        try:
            yield
        except BaseException:
            site.cut = True
            raise
        finally:
            site.polls -= 1
            site.seen = self._now()

    def advanced(self, name: str) -> None:
        """Notes that bytes of a site's upload arrived."""
        site = self._sites.setdefault(name, Site())
        site.advanced = self._now()

    def states(self, names: Iterator[str]) -> dict[str, Any]:
        """Returns seconds since the last poll and the last advance, and the progress, of each site."""
        return {name: self._state(self._sites.get(name, Site())) for name in names}

    def online(self, within: float = 600.0) -> int:
        """Returns the number of sites that polled within some seconds."""
        return sum(
            bool(site.polls) or (site.seen > 0 and self._now() - site.seen < within) for site in self._sites.values()
        )

    def _admit(self, site: Site, boot: str) -> None:
        if boot == site.boot:
            return
        silent = not site.polls and (site.cut or self._now() - site.seen >= GRACE)
        if boot in site.former or (site.boot and not silent):
            raise Refused(Reason.DOOR_TWICE)
        if site.boot:
            site.former = [*site.former[1 - FORMER_AGENTS :], site.boot]
        site.boot = boot

    def _note(self, site: Site, progress: tuple[Any, ...]) -> None:
        site.seen = self._now()
        if progress != site.progress or not progress:
            site.progress, site.advanced = progress, self._now()

    def _state(self, site: Site) -> dict[str, Any]:
        now = self._now()
        seen = 0.0 if site.polls else round(now - site.seen, 3) if site.seen else None
        advanced = round(now - site.advanced, 3) if site.advanced else None
        names = ("task", "step", "of", "moved")
        progress = dict(zip(names, site.progress, strict=True)) if site.progress else None
        return {"seen": seen, "advanced": advanced, "progress": progress}
