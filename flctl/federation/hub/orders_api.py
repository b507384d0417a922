"""Orders, replies and notes: the hub's endpoints for envelopes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from flctl.federation.hub.door import Caller
from flctl.federation.hub.limits import read_body
from flctl.federation.hub.post_box import PostBox
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.envelope import Envelope, check_sender, expired, open_envelope
from flctl.federation.transport.request_signing import body_digest
from flctl.federation.transport.tasks import is_task_id

__all__ = ["OrdersApi"]

MOST_ORDERS = 1000
MOST_TASKS = 10_000


class OrdersApi:
    """Handlers for envelopes between coordinators and sites."""

    def __init__(self, box: PostBox) -> None:
        self._box = box

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes of all handlers."""
        return [
            web.get("/1/tasks", self.tasks, allow_head=False),
            web.put("/1/replies/{task}", self.reply),
            web.post("/1/notes", self.note),
            web.post("/1/orders", self.orders),
            web.get("/1/runs/{run}/{kind:replies|notes}", self.answers, allow_head=False),
            web.post("/1/runs/{run}/cancel", self.cancel),
            web.post("/1/runs/{run}/settle", self.settle),
            web.delete("/1/runs/{run}", self.end),
        ]

    # sites

    async def tasks(self, request: web.Request) -> web.Response:
        """Orders to the calling site above a number; waits for one. Also the site's heartbeat."""
        site, box = self._bodyless(request, "site"), self._box
        wait, after = _wait(request, box), _number(request, "after")
        boot = request.query.get("boot", "")
        if not boot or len(boot) > 64:
            raise Refused(Reason.REQUEST_FORM)

        async def look() -> list[tuple[int, bytes]]:
            return await box.db(box.store.orders, site.name, after, box.now())

        with box.presence.polling(site.name, boot, _progress(request)):
            return await self._waited(f"site {site.name}", wait, look)

    async def reply(self, request: web.Request) -> web.Response:
        """Stores a reply: 200 once it is on disk, again for the same bytes, 409 for others."""
        site, text = await self._signed(request, "site", self._box.limits.small_body)
        envelope, digest = self._from(site, text, ("reply",))
        if envelope.task != request.match_info["task"]:
            raise Refused(Reason.TASK_UNKNOWN)
        if await self._box.db(self._box.store.add_reply, envelope, text):
            self._box.waiting.wake(f"replies {envelope.run}")
        return web.json_response({"receipt": self._box.receipt(digest, site.name)})

    async def note(self, request: web.Request) -> web.Response:
        """Stores a decision or notice of a site for a coordinator."""
        site, text = await self._signed(request, "site", self._box.limits.small_body)
        envelope, digest = self._from(site, text, ("notice", "decision"))
        await self._box.db(self._box.store.add_note, envelope, text, self._box.limits.notes)
        self._box.waiting.wake(f"notes {envelope.run}")
        return web.json_response({"receipt": self._box.receipt(digest, site.name)})

    # coordinators

    async def orders(self, request: web.Request) -> web.Response:
        """Stores tasks, notices and plans for sites, all of one request or none."""
        coordinator, text = await self._signed(request, "coordinator", self._box.limits.post_body)
        orders = [self._order(coordinator, one) for one in _texts(text)]
        for site in await self._box.db(self._box.store.add_orders, orders):
            self._box.waiting.wake(f"site {site}")
        return web.json_response({"stored": len(orders)})

    async def answers(self, request: web.Request) -> web.Response:
        """Replies or notes of one of the caller's runs above a number; waits for one."""
        coordinator, box = self._bodyless(request, "coordinator"), self._box
        run, kind, after = request.match_info["run"], request.match_info["kind"], _number(request, "after")
        stored = {"replies": "reply", "notes": "note"}[kind]

        async def look() -> list[tuple[int, bytes]]:
            return await box.db(box.store.answers, run, coordinator.name, stored, after)

        return await self._waited(f"{kind} {run}", _wait(request, box), look)

    async def cancel(self, request: web.Request) -> web.Response:
        """Withdraws tasks."""
        coordinator, text = await self._signed(request, "coordinator", self._box.limits.post_body)
        tasks = _object(text).get("tasks")
        if (
            type(tasks) is not list
            or len(tasks) > MOST_TASKS
            or not all(type(t) is str and is_task_id(t) for t in tasks)
        ):
            raise Refused(Reason.REQUEST_FORM)
        await self._box.db(self._box.store.cancel, request.match_info["run"], coordinator.name, tasks)
        return web.json_response({})

    async def settle(self, request: web.Request) -> web.Response:
        """Removes the blobs of rounds that are over."""
        coordinator, text = await self._signed(request, "coordinator", self._box.limits.small_body)
        number = _object(text).get("round")
        if type(number) is not int or not 0 <= number < 1 << 50:
            raise Refused(Reason.REQUEST_FORM)
        run = request.match_info["run"]
        await self._box.dropped(self._box.store.settle, run, coordinator.name, number)
        return web.json_response({})

    async def end(self, request: web.Request) -> web.Response:
        """Removes everything of a run."""
        coordinator, _ = await self._signed(request, "coordinator", 0)
        await self._box.dropped(self._box.store.end, request.match_info["run"], coordinator.name)
        return web.json_response({})

    # parts

    def _caller(self, request: web.Request, role: str) -> Caller:
        caller = self._box.door.member(request)
        if caller.role != role:
            raise Refused(Reason.RUN_OTHER if role == "coordinator" else Reason.TASK_UNKNOWN)
        return caller

    def _bodyless(self, request: web.Request, role: str) -> Caller:
        caller = self._caller(request, role)
        caller.check_body(body_digest(b""))
        return caller

    async def _signed(self, request: web.Request, role: str, most: int) -> tuple[Caller, bytes]:
        """The caller and the body, which is read only after the signature on its digest was checked."""
        caller = self._caller(request, role)
        text = await read_body(request, most, self._box.limits)
        caller.check_body(body_digest(text))
        return caller, text

    def _from(self, caller: Caller, text: bytes, kinds: tuple[str, ...]) -> tuple[Envelope, str]:
        """The caller's own envelope of one of these kinds, and its digest. Raises Refused for any other."""
        envelope, signed = open_envelope(text)
        if envelope.federation != self._box.roster().federation:
            raise Refused(Reason.ENVELOPE_FEDERATION)
        if envelope.sender != caller.name or signed.by != caller.signing:
            raise Refused(Reason.ENVELOPE_SENDER)
        if envelope.kind not in kinds:
            raise Refused(Reason.ENVELOPE_KIND)
        check_sender(envelope, signed.by, self._box.roster())
        if expired(envelope.until):
            raise Refused(Reason.ENVELOPE_EXPIRED)
        return envelope, signed.digest

    def _order(self, coordinator: Caller, text: bytes) -> tuple[Envelope, bytes, float]:
        envelope, _ = self._from(coordinator, text, ("task", "notice", "plan"))
        if envelope.recipient not in self._box.roster().sites:
            raise Refused(Reason.ROSTER_MEMBER, f"The roster does not list the site {envelope.recipient!a:.70}.")
        return envelope, text, datetime.fromisoformat(envelope.until).timestamp()

    async def _waited(
        self, key: str, wait: float, look: Callable[[], Awaitable[list[tuple[int, bytes]]]]
    ) -> web.Response:
        with self._box.waiting.wait(key) as until:
            found = await look()
            if not found and wait > 0 and await until(wait):
                found = await look()
        envelopes = [[number, text.decode()] for number, text in found]
        return web.json_response({"envelopes": envelopes, "roster": self._box.roster().version})


def _wait(request: web.Request, box: PostBox) -> float:
    try:
        wait = float(request.query.get("wait", "0"))
    except ValueError as error:
        raise Refused(Reason.REQUEST_FORM) from error
    return min(wait, box.limits.wait) if wait >= 0 else 0.0


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise Refused(Reason.REQUEST_FORM)
    return int(text)


def _progress(request: web.Request) -> tuple[Any, ...]:
    task = request.query.get("task", "")
    if not task:
        return ()
    if not is_task_id(task):
        raise Refused(Reason.REQUEST_FORM)
    return (task, *(_number(request, name) for name in ("step", "of", "moved")))


def _object(text: bytes) -> dict[str, Any]:
    value = _json(text)
    if type(value) is not dict:
        raise Refused(Reason.REQUEST_FORM)
    return value


def _texts(text: bytes) -> list[bytes]:
    """The envelopes in a JSON array of strings."""
    value = _json(text)
    if type(value) is not list or len(value) > MOST_ORDERS or not all(type(one) is str for one in value):
        raise Refused(Reason.REQUEST_FORM)
    try:
        return [one.encode() for one in value]
    except UnicodeEncodeError as error:
        raise Refused(Reason.REQUEST_FORM) from error


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(Reason.REQUEST_FORM) from error
