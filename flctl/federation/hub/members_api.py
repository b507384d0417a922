"""The roster, the hub's greeting, and facts for coordinators, operators and monitoring."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from aiohttp import web

from flctl.federation.hub.limits import read_body
from flctl.federation.hub.post_box import PostBox
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.request_signing import body_digest
from flctl.version import __version__

__all__ = ["MembersApi"]

LOOPBACK = frozenset({"127.0.0.1", "::1"})


class MembersApi:
    """Handlers for everything but envelopes and blobs."""

    def __init__(self, box: PostBox, metrics_token: str | None = None, *, open_metrics: bool = True) -> None:
        self._box, self._token, self._open = box, metrics_token, open_metrics

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes of all handlers."""
        paths: tuple[tuple[str, Callable[..., object]], ...] = (
            ("/1/hello", self.hello),
            ("/1/authority", self.authority),
            ("/1/sites", self.sites),
            ("/1/status", self.status),
            ("/1/health", self.health),
            ("/metrics", self.metrics),
        )
        posts = [
            web.post("/1/joins", self.join),
            web.post("/1/certificates", self.certificate),
            web.post("/1/rosters", self.publish),
        ]
        return [*posts, *(web.get(path, handler, allow_head=False) for path, handler in paths)]  # type: ignore[arg-type]

    async def hello(self, request: web.Request) -> web.Response:
        """The hub's clock, roster and limits, for members."""
        self._box.door.member(request, certificate=False).check_body(body_digest(b""))
        roster = self._box.roster()
        return web.json_response(
            {
                "time": self._box.now(),
                "roster": roster.signed.decode(),
                "limits": self._box.limits.public(),
                "version": __version__,
                "operator_key_here": self._box.members.operator_key_here(),
            }
        )

    async def authority(self, request: web.Request) -> web.Response:
        """The certificate of the federation's own authority in PEM, unsigned: callers compare its fingerprint."""
        return web.Response(text=self._box.roster().ca)

    async def sites(self, request: web.Request) -> web.Response:
        """The state of each site on the roster, for coordinators."""
        caller = self._box.door.member(request)
        caller.check_body(body_digest(b""))
        if caller.role != "coordinator":
            raise Refused(Reason.RUN_OTHER)
        return web.json_response({"sites": self._box.presence.states(iter(self._box.roster().sites))})

    async def status(self, request: web.Request) -> web.Response:
        """The hub's state with names, for its operator: signed with the hub's own key."""
        self._box.door.hub(request).check_body(body_digest(b""))
        box, roster = self._box, self._box.roster()
        return web.json_response(
            {
                "federation": roster.federation,
                "roster": {"version": roster.version, "digest": roster.digest},
                "sites": box.presence.states(iter(roster.sites)),
                "coordinators": list(roster.coordinators),
                "waiting_to_join": await box.files(box.members.waiting),
                "numbers": await self._numbers(),
                "version": __version__,
            }
        )

    async def join(self, request: web.Request) -> web.Response:
        """Files a request to join, which the invite's key and the new identity sign."""
        text = await self._unsigned(request, self._box.limits.small_body)
        await self._box.files(self._box.members.file, text)
        return web.json_response({})

    async def certificate(self, request: web.Request) -> web.Response:
        """Issues a TLS certificate for a request that a member's identity signs."""
        text = await self._unsigned(request, self._box.limits.small_body)
        return web.json_response({"certificate": await self._box.files(self._box.members.certificate, text)})

    async def publish(self, request: web.Request) -> web.Response:
        """Accepts a roster that the operator signs."""
        text = await self._unsigned(request, self._box.limits.roster_body)
        await self._box.files(self._box.members.publish, text)
        self._box.waiting.wake_all()  # members learn of the new roster by the answers to their polls
        return web.json_response({"version": self._box.roster().version})

    async def _unsigned(self, request: web.Request, most: int) -> bytes:
        """The body of a request that the door does not check, because what it brings is signed itself."""
        self._box.joins.count(request.remote or "")
        return await read_body(request, most, self._box.limits)

    async def health(self, request: web.Request) -> web.Response:
        """200 while the hub works, for load balancers."""
        return web.json_response({"ok": True})

    async def metrics(self, request: web.Request) -> web.Response:
        """Numbers in the text format of Prometheus, on loopback or with the token; no names of runs or sites."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._token is None and not (self._open and request.remote in LOOPBACK):
            raise Refused(Reason.DOOR_SIGNATURE)
        if self._token is not None and not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Refused(Reason.DOOR_SIGNATURE)
        lines = [
            f"# TYPE flctl_hub_{name} gauge\nflctl_hub_{name} {value:.15g}\n"
            for name, value in (await self._numbers()).items()
        ]
        return web.Response(text="".join(lines))

    async def _numbers(self) -> dict[str, float]:
        box = self._box
        return {
            **await box.db(box.store.totals),
            "sites": len(box.roster().sites),
            "sites_online": box.presence.online(),
            "waiting_requests": len(box.waiting),
            "uploads": len(box.receiving),
            "disk_free_bytes": box.blobs.free(),
            "roster_version": box.roster().version,
        }
