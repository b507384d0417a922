"""Numbers of single clients from runs whose aggregator hides clients: refused unless they are asked for by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flctl.errors import IncompatibleError

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.component import Catalogue
    from flctl.prediction.predictor import Predictor

__all__ = ["DISCLOSED", "refuse_hidden", "refuse_personal"]

DISCLOSED = "which the run's aggregator hides"


def refuse_hidden(path: Path, aggregator: Aggregator | type[Aggregator], shows: str, *, disclose: bool) -> bool:
    """True if the run's aggregator hides clients. Raises IncompatibleError then, unless `disclose`."""
    if aggregator.hides and not disclose:
        raise IncompatibleError(
            f"{shows}, and aggregator '{aggregator.name}' of {path} hides clients",
            hint="Add --disclose if you may see them; the output then states it.",
        )
    return aggregator.hides


def refuse_personal(predictor: Predictor, registry: Catalogue, *, disclose: bool) -> bool:
    """True if the model is one client's and the run's aggregator hides clients. Raises IncompatibleError then, unless
    `disclose`."""
    if predictor.client is None:
        return False
    aggregator = registry.get("aggregator", predictor.config.aggregator.name)
    shows = f"the personal model of client '{predictor.client}' is one client's"
    return refuse_hidden(predictor.directory.path, aggregator, shows, disclose=disclose)
