"""flctl: federated learning from the command line, and the public API that plugins are written against.

Names load on first use, so that importing flctl does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flctl.version import API_VERSION, __version__

if TYPE_CHECKING:
    from flctl.algorithms.aggregator import AggregationContext as AggregationContext
    from flctl.algorithms.aggregator import Aggregator as Aggregator
    from flctl.algorithms.aggregator import Phase as Phase
    from flctl.algorithms.local_steps import LocalSteps as LocalSteps
    from flctl.algorithms.local_steps import StepsContext as StepsContext
    from flctl.algorithms.run_identities import RunIdentities as RunIdentities
    from flctl.algorithms.run_info import RunInfo as RunInfo
    from flctl.algorithms.strategy import Stage as Stage
    from flctl.algorithms.strategy import StepContext as StepContext
    from flctl.algorithms.strategy import Strategy as Strategy
    from flctl.algorithms.transform import ClientContext as ClientContext
    from flctl.algorithms.transform import Notice as Notice
    from flctl.algorithms.transform import ServerContext as ServerContext
    from flctl.algorithms.transform import SharedContext as SharedContext
    from flctl.algorithms.transform import StartContext as StartContext
    from flctl.algorithms.transform import Transform as Transform
    from flctl.client.runtime import ClientRuntime as ClientRuntime
    from flctl.component import Component as Component
    from flctl.component import Options as Options
    from flctl.data.dataset import Dataset as Dataset
    from flctl.data.dataset import DatasetReader as DatasetReader
    from flctl.data.dataset import Split as Split
    from flctl.engines.engine import Engine as Engine
    from flctl.engines.engine import Lost as Lost
    from flctl.errors import ConfigError as ConfigError
    from flctl.errors import DataError as DataError
    from flctl.errors import DivergenceError as DivergenceError
    from flctl.errors import FlctlError as FlctlError
    from flctl.errors import IncompatibleError as IncompatibleError
    from flctl.errors import IntegrityError as IntegrityError
    from flctl.errors import MissingExtraError as MissingExtraError
    from flctl.errors import PluginError as PluginError
    from flctl.errors import PrivacyBudgetError as PrivacyBudgetError
    from flctl.errors import ProtocolError as ProtocolError
    from flctl.errors import RoundFailedError as RoundFailedError
    from flctl.errors import RoundLostError as RoundLostError
    from flctl.errors import StorageError as StorageError
    from flctl.models.model import DataSpec as DataSpec
    from flctl.models.model import Model as Model
    from flctl.models.parts import Part as Part
    from flctl.partition.partitioner import Assignment as Assignment
    from flctl.partition.partitioner import Partitioner as Partitioner
    from flctl.partition.partitioner import Rows as Rows
    from flctl.partition.store import Partition as Partition
    from flctl.plugins.hookspecs import hookimpl as hookimpl
    from flctl.seeds import rng as rng
    from flctl.seeds import secure_rng as secure_rng
    from flctl.types import RING as RING
    from flctl.types import Aggregate as Aggregate
    from flctl.types import Arrays as Arrays
    from flctl.types import Checkpoint as Checkpoint
    from flctl.types import ClientUpdate as ClientUpdate
    from flctl.types import Failure as Failure
    from flctl.types import Gathered as Gathered
    from flctl.types import Layout as Layout
    from flctl.types import LocalWork as LocalWork
    from flctl.types import Reply as Reply
    from flctl.types import Request as Request
    from flctl.types import RoundPlan as RoundPlan
    from flctl.types import RoundReport as RoundReport
    from flctl.types import Start as Start
    from flctl.types import Trained as Trained
    from flctl.types import Work as Work
    from flctl.wire.frames import Frame as Frame
    from flctl.wire.frames import pack as pack
    from flctl.wire.frames import unpack as unpack

_HOMES = {
    "flctl.algorithms.aggregator": ["AggregationContext", "Aggregator", "Phase"],
    "flctl.client.runtime": ["ClientRuntime"],
    "flctl.component": ["Component", "Options"],
    "flctl.data.dataset": ["Dataset", "DatasetReader", "Split"],
    "flctl.engines.engine": ["Engine", "Lost"],
    "flctl.errors": [
        "ConfigError",
        "DataError",
        "DivergenceError",
        "FlctlError",
        "IncompatibleError",
        "IntegrityError",
        "MissingExtraError",
        "PluginError",
        "PrivacyBudgetError",
        "ProtocolError",
        "RoundFailedError",
        "RoundLostError",
        "StorageError",
    ],
    "flctl.plugins.hookspecs": ["hookimpl"],
    "flctl.algorithms.local_steps": ["LocalSteps", "StepsContext"],
    "flctl.models.model": ["DataSpec", "Model"],
    "flctl.partition.partitioner": ["Assignment", "Partitioner", "Rows"],
    "flctl.partition.store": ["Partition"],
    "flctl.models.parts": ["Part"],
    "flctl.seeds": ["rng", "secure_rng"],
    "flctl.algorithms.run_identities": ["RunIdentities"],
    "flctl.algorithms.run_info": ["RunInfo"],
    "flctl.algorithms.strategy": ["Stage", "StepContext", "Strategy"],
    "flctl.algorithms.transform": [
        "ClientContext",
        "Notice",
        "ServerContext",
        "SharedContext",
        "StartContext",
        "Transform",
    ],
    "flctl.types": [
        "RING",
        "Aggregate",
        "Arrays",
        "Checkpoint",
        "ClientUpdate",
        "Failure",
        "Gathered",
        "Layout",
        "LocalWork",
        "Reply",
        "Request",
        "RoundPlan",
        "RoundReport",
        "Start",
        "Trained",
        "Work",
    ],
    "flctl.wire": ["Frame", "pack", "unpack"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["API_VERSION", "__version__", *sorted(_HOME)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'flctl' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
