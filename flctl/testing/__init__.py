"""Checks that components keep their contracts, for plugin authors to call from tests of any kind.

Each check runs contract, property and dropout tests on one class, and raises one `ConformanceError` that lists all that
it found, why it matters and what to do. Nothing here needs pytest.
"""

from __future__ import annotations

from flctl.testing.aggregator.contract import check_aggregator
from flctl.testing.conformance import Conformance, ConformanceError
from flctl.testing.dataset.contract import check_dataset
from flctl.testing.engine.contract import check_engine
from flctl.testing.model.contract import check_model
from flctl.testing.partitioner import check_partitioner
from flctl.testing.strategy.contract import check_strategy
from flctl.testing.transform.contract import check_transform

__all__ = [
    "Conformance",
    "ConformanceError",
    "check_aggregator",
    "check_dataset",
    "check_engine",
    "check_model",
    "check_partitioner",
    "check_strategy",
    "check_transform",
]
