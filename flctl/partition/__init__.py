"""Partitions of rows among clients: schemes, the shard store, and measures of skew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flctl.partition.schemes import PARTITIONERS as PARTITIONERS

__all__ = ["PARTITIONERS"]


def __getattr__(name: str) -> Any:
    # On first use: reading a store must not pay for the schemes.
    if name == "PARTITIONERS":
        from flctl.partition.schemes import PARTITIONERS

        return PARTITIONERS
    raise AttributeError(f"module 'flctl.partition' has no attribute '{name}'")
