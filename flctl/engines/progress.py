"""Announcements of how far clients on other machines are; an observer that fails does not disturb the round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flctl.types import ClientProgress

if TYPE_CHECKING:
    from flctl.run.run import Run

__all__ = ["announce_progress"]


def announce_progress(run: Run, progress: ClientProgress) -> None:
    """Tells observers how far a client is. Exceptions of observers are dropped: they may come at any moment of an
    exchange, from plugins that only look on."""
    try:
        run.registry.hook.flctl_client_progress(progress=progress)
    except Exception:  # whatever an observer's own parts raise
        return
