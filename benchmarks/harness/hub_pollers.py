"""Sites that poll a hub, in a process of their own: python -m harness.hub_pollers FOLDER PORT SITE...

Prints a line `ready` once all have polled, then `SITE SECONDS` for each order, by the time that its body names.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from flctl.federation.identity.keys import Identity
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.envelope import open_envelope
from flctl.federation.transport.hub_client import HubClient
from harness.hub_federation import FEDERATION

STACK = 256 << 10


def main(folder: Path, port: int, sites: list[str]) -> None:
    """Polls for ever."""
    threading.stack_size(STACK)
    lock, waiting = threading.Lock(), set(sites)

    def poll(name: str) -> None:
        place = folder / name
        files = (folder / "federation" / "hub" / "ca.pem", place / "tls.pem", place / "tls.key")
        address = HubAddress(f"https://127.0.0.1:{port}", FEDERATION, *files)
        client = HubClient(address, Identity.open(place), name)
        wait = 0.0
        while True:
            found = client.tasks(wait)
            arrived = time.time()
            with lock:
                for text in found:
                    print(name, arrived - float(open_envelope(text)[0].body["at"]), flush=True)
                if name in waiting:
                    waiting.discard(name)
                    if not waiting:
                        print("ready", flush=True)
            wait = 25.0

    for name in sites:
        threading.Thread(target=poll, args=(name,), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
