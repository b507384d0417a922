"""Transforms outside of runs: an update sent by clients through a pipeline, and what the server makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flctl import arrays
from flctl.algorithms.pipeline import Pipeline
from flctl.algorithms.transform import ServerContext, Transform
from flctl.plugins.registry import Registry
from flctl.types import Aggregate, ClientUpdate, LocalWork, Work

OPTIONS: Mapping[str, dict[str, Any]] = {
    "topk": {"fraction": 0.3},
    "randomk": {"fraction": 0.4},
    "quantise": {"bound": 4.0},
    "qsgd": {"bits": 4, "bucket": 5},
    "signsgd": {},
    "ef-signsgd": {},
    "powersgd": {"rank": 1},
    "float16": {},
    "bfloat16": {},
}
"""Every compressor, with options for small vectors."""
LINEAR = ("randomk", "quantise")


def make(name: str, **options: Any) -> Transform:
    return Registry().get("transform", name).from_options(options or OPTIONS[name])


def pipeline(*transforms: Transform, length: int = 12, each: bool = False, **vectors: int) -> Pipeline:
    """The transforms in this order, for updates of one vector `delta` and others."""
    return Pipeline({t.name: t for t in transforms}, {"delta": length, **vectors}, 5, each)


def work_of(line: Pipeline, number: int = 1, states: Mapping[str, Any] | None = None) -> Work:
    """What clients are asked in a round, with the transforms' broadcasts."""
    states = states or {name: t.init(line.layouts[name]) for name, t in line.transforms.items()}
    broadcasts = {name: t.broadcast(states[name]) for name, t in line.transforms.items()}
    return Work(number, {}, {}, broadcasts, LocalWork(), line.sent)


def update(values: Any, weight: float = 1.0, client: str = "a", **others: Any) -> ClientUpdate:
    vectors = {"delta": np.array(values, np.float32)}
    vectors |= {name: np.array(other, np.float32) for name, other in others.items()}
    return ClientUpdate(client, vectors, weight)


def memory_of(line: Pipeline) -> dict[str, Any]:
    return arrays.zeros(line.memory_layout)


def arrived(line: Pipeline, sent: ClientUpdate, work: Work) -> ClientUpdate:
    """What the server makes of one client's message, all of it decoded."""
    shared = line.shared_by_all(work)
    seen = line.arrive(sent, shared, lambda name: context(line, name, work))
    total = Aggregate(seen.arrays, 1.0, 1)
    for name in reversed(list(line.transforms)):
        total = line.decoded(total, name, shared[name])
    return ClientUpdate(sent.client_id, total.arrays, sent.weight)


def context(line: Pipeline, name: str, work: Work) -> ServerContext:
    return ServerContext(work.round, 3, np.random.default_rng(0), line.shared(name, work.round, work.transforms))


def through(line: Pipeline, given: ClientUpdate, number: int = 1) -> np.ndarray:
    """The vector `delta` that arrives when a client that remembers nothing sends `given`."""
    work = work_of(line, number)
    return arrived(line, line.send(given, work, memory_of(line))[0], work).arrays["delta"]
