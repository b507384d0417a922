"""RunInfo: the read-only protocol of what a component may read of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flctl.types import Layout, SelectionSplit

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import Aggregator
    from flctl.algorithms.pipeline import Pipeline
    from flctl.algorithms.strategy import Strategy
    from flctl.algorithms.transform import Transform
    from flctl.config.config import CohortConfig, Config
    from flctl.models.parts import ParameterSplit
    from flctl.partition.view import PartitionView

__all__ = ["RunInfo"]


class RunInfo(Protocol):
    """One training, read-only, as strategies, transforms, aggregators and executors see it.

    Plugins may rely on these names and on nothing else of a run. `check(run)` and `placed(run)` receive one, and so do
    the contexts that carry a `run`.

    >>> import flctl
    >>> class Median(flctl.Strategy):
    ...     name = "median-of-many"
    ...     def check(self, run: flctl.RunInfo) -> None:
    ...         if run.cohort_size < 3:
    ...             raise flctl.IncompatibleError(f"a median of {run.cohort_size:g} clients is no better than a mean")
    """

    @property
    def config(self) -> Config:
        """The checked configuration."""

    @property
    def partition(self) -> PartitionView:
        """The assignment of rows to clients: ids, counts, task, shape and classes."""

    @property
    def strategy(self) -> Strategy:
        """The algorithm."""

    @property
    def transforms(self) -> Mapping[str, Transform]:
        """The transforms by name, in the order of the configuration."""

    @property
    def aggregator(self) -> Aggregator:
        """The aggregator."""

    @property
    def pipeline(self) -> Pipeline:
        """The path of an update from the strategy on a client to the sum."""

    @property
    def division(self) -> ParameterSplit:
        """The model's parameters, split into those that are sent and those that stay private to each client."""

    @property
    def layout(self) -> Layout:
        """Name -> length of the model's vectors that are sent; private ones are left out."""

    @property
    def update_layout(self) -> Layout:
        """Name -> length of the vectors of an update as it leaves the client."""

    @property
    def memory_layout(self) -> Layout:
        """Name -> length of the vectors that each client keeps from one of its rounds to its next."""

    @property
    def makes_steps(self) -> str | None:
        """Name of the transform that computes the clients' local steps; None if no transform does."""

    @property
    def selection_split(self) -> SelectionSplit | None:
        """Split that determines the best round and early stopping: validation if the partition has such rows, else
        test; None without either."""

    @property
    def eligible(self) -> int:
        """Number of clients with training rows."""

    @property
    def cohort_size(self) -> float:
        """Clients sampled per round; the expected number if it is random."""

    @property
    def cohort(self) -> CohortConfig:
        """The `cohort:` section, with over-selection added to `clients`."""

    @property
    def attacks_updates(self) -> bool:
        """True if the run simulates malicious clients that replace their updates."""

    @property
    def replays(self) -> bool:
        """True if past rounds are repeated for inspection: nothing may be charged to a ledger, or recorded."""

    @property
    def directory(self) -> Path:
        """The run's directory."""
