"""The built-in engines."""

from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine

__all__ = ["ENGINES"]

ENGINES = [InProcessEngine, PoolEngine]
