"""Shared by the tests: small partitions, runs and engines, and the command line in its own process."""

from support.runs import (
    Given,
    Hidden,
    OneByOne,
    ScriptedEngine,
    checkpoint_digests,
    flctl,
    make_run,
    played,
    slow_but,
    toy_dataset,
    toy_partition,
    train_run,
    untimed_lines,
)

__all__ = [
    "Given",
    "Hidden",
    "OneByOne",
    "ScriptedEngine",
    "checkpoint_digests",
    "flctl",
    "make_run",
    "played",
    "slow_but",
    "toy_dataset",
    "toy_partition",
    "train_run",
    "untimed_lines",
]
