"""The line to the hub: signed requests over connections that are kept, each answered, refused or retried."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from flctl.errors import ProtocolError
from flctl.federation.identity.keys import Identity
from flctl.federation.reasons import Reason, Refused
from flctl.federation.transport.connection import HubAddress, certificate_issuer, open_connection
from flctl.federation.transport.request_signing import SignedRequest, authorization, body_digest, new_nonce
from flctl.federation.transport.retries import Interrupted, Pace, Retries, printable

__all__ = ["Answer", "Line"]

MOST_ANSWER = 64 << 20
"""Largest JSON answer in bytes that is read."""
ANSWER_SECONDS = 60.0
"""Longest silence of an answer beyond the time that the hub was asked to wait."""
IDLE_SECONDS = 30.0
"""Connections that were idle for longer are not used again: a proxy or firewall may have forgotten them."""
T = TypeVar("T")
CLOSED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)
PASSING = frozenset({"door-clock", "door-replay"})
"""Refusals that pass: a clock is set, and a request that a proxy sent twice is signed again."""
EPOCH_HEADER = "Flctl-Epoch"
AGAIN = frozenset({407, 408, 425, 429, 500, 502, 503, 504, 507})
"""Status codes after which a request is repeated, whatever their origin: the hub, a proxy or a terminator."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and JSON of an answer."""

    status: int
    headers: Mapping[str, str]
    value: Any


class Line:
    """Requests to one hub, signed if there is an identity. Threads may share it: each request in progress has a
    connection of its own."""

    def __init__(
        self, address: HubAddress, identity: Identity | None, name: str, said: Callable[[str], None], pace: Pace
    ) -> None:
        self.address = address
        """The hub's address; assign another when it moves."""
        self.name = name
        self.stop = threading.Event()
        """Ends waiting and retrying when set."""
        self.epochs = 0
        """Number of different starts of the hub that were met."""
        self._identity, self._epoch = identity, ""
        self._idle: list[tuple[HubAddress, float, http.client.HTTPConnection]] = []
        self._lock = threading.Lock()
        self._retries = Retries(pace, said, self.stop)

    def ask(self, method: str, path: str, body: bytes = b"", wait: float = 0.0) -> Answer:
        """Sends a small request until it is answered. Raises Refused with the hub's reason, HubAwayError if the
        pace gives up."""
        return self._retries.run(lambda: self.once(method, path, body, wait))

    def retried(self, work: Callable[[], T], moved: Callable[[], int]) -> T:
        """Repeats `work`, which calls `once` or `exchange`, as `ask` does; `moved` counts its progress in bytes."""
        return self._retries.run(work, moved)

    def once(self, method: str, path: str, body: bytes = b"", wait: float = 0.0) -> Answer:
        """One attempt at a small request; a second one if the hub has restarted, whose epoch it then knows."""
        headers = {"Content-Type": "application/json"} if body else {}
        for _ in range(2):
            with self.exchange(method, path, body_digest(body), headers, len(body), wait) as connection:
                if body:
                    connection.send(body)
                answer = self._read(connection.getresponse())
            if self._accepted(answer):
                return answer
        raise Interrupted("the hub restarts")

    @contextmanager
    def exchange(
        self, method: str, path: str, digest: str, headers: Mapping[str, str], length: int, wait: float = 0.0
    ) -> Iterator[http.client.HTTPConnection]:
        """A connection on which a signed request's headers were sent; kept if the block has read the whole answer."""
        connection, address, kept = self._connected()
        try:
            self._send_headers(connection, (method, path, digest), headers, length)
            connection.sock.settimeout(wait + ANSWER_SECONDS)
            yield connection
        except BaseException as error:
            connection.close()
            if kept and isinstance(error, CLOSED):
                raise Interrupted("a kept connection was closed", at_once=True) from error
            raise
        with self._lock:
            self._idle.append((address, time.monotonic(), connection))

    def judged(self, answer: Answer) -> Answer:
        """Returns the answer to an exchange. Raises Refused or Interrupted."""
        if not self._accepted(answer):
            raise Interrupted("the hub has restarted")
        return answer

    def read(self, response: http.client.HTTPResponse) -> Answer:
        """Reads a whole JSON answer."""
        return self._read(response)

    def close(self) -> None:
        """Closes the connections that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for *_, connection in idle:
            connection.close()

    def _connected(self) -> tuple[http.client.HTTPConnection, HubAddress, bool]:
        """A connection, its address, and True if it was used before."""
        address = self.address
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            if kept is None:
                return self._opened(address), address, False
            if kept[0] == address and time.monotonic() - kept[1] < IDLE_SECONDS:
                return kept[2], address, True
            kept[2].close()

    def _opened(self, address: HubAddress) -> http.client.HTTPConnection:
        try:
            connection = open_connection(address)
        except ssl.SSLCertVerificationError as error:
            issuer = certificate_issuer(address)
            if issuer is None:
                raise
            raise Interrupted(
                f"the certificate at {address.host}:{address.port} is issued by {issuer!r:.200} and not by this "
                f"federation's authority ({error.verify_message}); a proxy may open TLS here"
            ) from error
        with suppress(OSError):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _send_headers(
        self,
        connection: http.client.HTTPConnection,
        signed: tuple[str, str, str],
        headers: Mapping[str, str],
        length: int,
    ) -> None:
        method, path, digest = signed
        request = SignedRequest(
            self.address.federation, self.name, method, path, digest, int(time.time()), new_nonce(), self._epoch
        )
        connection.putrequest(method, self.address.prefix + path, skip_accept_encoding=True)
        if self._identity is not None:
            connection.putheader("Authorization", authorization(self._identity, request))
        for name, value in headers.items():
            connection.putheader(name, value)
        if method != "GET":
            connection.putheader("Content-Length", str(length))
        connection.endheaders()

    def _read(self, response: http.client.HTTPResponse) -> Answer:
        text = response.read(MOST_ANSWER + 1)
        if len(text) > MOST_ANSWER:
            raise Interrupted(f"an answer of more than {MOST_ANSWER} bytes")
        try:
            value = json.loads(text) if text else None
        except (ValueError, RecursionError):
            value = None
        return Answer(response.status, dict(response.headers.items()), value)

    def _accepted(self, answer: Answer) -> bool:
        """True for an answer, False if the request has to be signed again. Raises Refused or Interrupted."""
        status, value = answer.status, answer.value
        reason = value.get("reason") if isinstance(value, dict) else None
        if 200 <= status < 300 and isinstance(value, (dict, list)):
            return True
        if reason == "door-epoch" and EPOCH_HEADER in answer.headers:
            if self._epoch != answer.headers[EPOCH_HEADER]:
                self._epoch = answer.headers[EPOCH_HEADER]
                self.epochs += 1
            return False
        sentence = printable(value.get("sentence") or "") if isinstance(value, dict) else ""
        if status in AGAIN or reason is None or reason in PASSING:
            raise Interrupted(sentence or f"HTTP status {status} from the hub or a proxy before it")
        raise _refusal(str(reason), sentence)


def _refusal(reason: str, sentence: str) -> Exception:
    try:
        return Refused(Reason._value2member_map_[reason], sentence)  # type: ignore[arg-type]
    except KeyError:
        return ProtocolError(f"the hub refused a request: {sentence}", hint="Compare the versions of flctl.")
