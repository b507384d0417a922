"""Numbers of single clients from runs whose aggregator hides clients: refused unless they are asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flctl.errors import IncompatibleError

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator

__all__ = ["refuse_hidden"]


def refuse_hidden(path: Path, aggregator: Aggregator | type[Aggregator], shows: str, *, disclose: bool) -> bool:
    """True if the run's aggregator hides clients. Raises IncompatibleError then, unless `disclose`."""
    if aggregator.hides and not disclose:
        raise IncompatibleError(
            f"{shows}, and aggregator '{aggregator.name}' of {path} hides clients",
            hint="Add --disclose if you may see them; the output then states it.",
        )
    return aggregator.hides
