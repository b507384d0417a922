"""A proxy on the loopback that cuts connections, answers in the hub's place, and speaks CONNECT with a password."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self


class TcpProxy:
    """Forwards connections to a port, or with `connect` to the target of each CONNECT request.

    `cuts` lists, for the next connections, the bytes after which each is cut, in the direction `cut` ("up" or "down");
    None for a connection that is left alone. `answer` may return a whole HTTP answer for a new connection, which then
    goes no further. `passed` counts bytes by direction, `targets` lists what CONNECT asked for.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        connect: bool = False,
        password: str | None = None,
        cuts: list[int | None] | None = None,
        cut: str = "up",
        answer: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self.target, self.connect, self.cut, self.answer = port, connect, cut, answer
        self.cuts = cuts if cuts is not None else []
        self.passed = {"up": 0, "down": 0}
        self.connections = 0
        self.targets: list[str] = []
        self._wanted = password and "Basic " + base64.b64encode(password.encode()).decode()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listening.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            text = self.answer()
            if text is not None:
                client.recv(65536)
                client.sendall(text)
                return
            port = self._connected(client) if self.connect else self.target
            if port is None:
                return
            with socket.create_connection(("127.0.0.1", port)) as hub:
                self._forward(client, hub)

    def _connected(self, client: socket.socket) -> int | None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(4096)
            if not part:
                return None
            head += part
        line, _, rest = head.decode("latin-1").partition("\r\n")
        if self._wanted and f"Proxy-Authorization: {self._wanted}" not in rest:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return None
        self.targets.append(line.split()[1])
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        return int(line.split()[1].rpartition(":")[2])

    def _forward(self, client: socket.socket, hub: socket.socket) -> None:
        with self._lock:
            left = self.cuts.pop(0) if self.cuts else None
        cuts = {"up": left if self.cut == "up" else None, "down": left if self.cut == "down" else None}
        ends = [
            threading.Thread(target=self._copy, args=(client, hub, "up", cuts["up"]), daemon=True),
            threading.Thread(target=self._copy, args=(hub, client, "down", cuts["down"]), daemon=True),
        ]
        for end in ends:
            end.start()
        for end in ends:
            end.join()

    def _copy(self, source: socket.socket, target: socket.socket, way: str, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while left is None or left > 0:
                data = source.recv(65536 if left is None else min(left, 65536))
                if not data:
                    break
                target.sendall(data)
                self.passed[way] += len(data)
                left = None if left is None else left - len(data)
        for one in (target, source):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
