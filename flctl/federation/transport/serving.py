"""The file in which a hub says where it listens, for programs on its own machine."""

from __future__ import annotations

import json
from pathlib import Path

from flctl.atomic import write_file

__all__ = ["HUB", "forget_serving", "note_serving", "serving_at"]

HUB = "hub"
"""Name under which the hub's own key signs; a member may have the same name, and another key."""
SERVING_FILE = "serving.json"
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read, not bound


def note_serving(folder: Path, host: str, port: int, *, tls: bool) -> None:
    """Notes in the hub's folder where it listens."""
    write_file(folder / SERVING_FILE, json.dumps({"host": host, "port": port, "tls": tls}).encode())


def forget_serving(folder: Path) -> None:
    """Removes the note."""
    (folder / SERVING_FILE).unlink(missing_ok=True)


def serving_at(folder: Path) -> tuple[str, bool] | None:
    """Returns host:port of the hub that serves the folder, and True if it has TLS; None without a note."""
    try:
        value = json.loads((folder / SERVING_FILE).read_text(encoding="utf-8"))
        host = ANY.get(value["host"], str(value["host"]))
        return (f"[{host}]" if ":" in host else host) + f":{int(value['port'])}", bool(value["tls"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
