"""Every value that crosses a boundary: frozen, slotted, and without behaviour beyond a derived property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "PADDING",
    "QUICK",
    "RING",
    "WEIGHT",
    "Aggregate",
    "Allowance",
    "Arrays",
    "Batch",
    "Checkpoint",
    "ClientId",
    "ClientUpdate",
    "Failure",
    "FloatArray",
    "Gathered",
    "IntArray",
    "Layout",
    "LocalWork",
    "Reply",
    "Request",
    "RoundPlan",
    "RoundReport",
    "ServerOptimizerName",
    "Start",
    "TaskKind",
    "Trained",
    "Work",
]

ClientId = str
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
"""Counts, sizes, rows or client indices; a docstring gives the shape and the meaning."""
Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Examples and their targets (x, y), of the same length."""
Arrays = Mapping[str, npt.NDArray[Any]]
"""A few named FLAT vectors, never a nested tree."""
Layout = Mapping[str, int]
"""Name -> length: what an update must look like."""
WEIGHT = "weight"
"""The summed vector [1] that holds the clients' weights; float64, so that a count of examples stays exact."""
RING = ":ring"
"""How the name of a vector of whole numbers ends of which only the sum counts, modulo an aggregator's ring: they are
added up as they are, never rounded or scaled, and no single one has to fit the ring."""
TaskKind = Literal["classification", "binary", "regression", "next-character"]


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What one client has to say: flat vectors and the weight they count with (its number of examples)."""

    client_id: ClientId
    arrays: Arrays
    weight: float


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Sums over clients. `arrays` holds sum_k w_k * a_k, `weight` sum_k w_k, `count` how many; no ids exist here."""

    arrays: Arrays
    weight: float
    count: int

    def mean(self, name: str) -> npt.NDArray[Any]:
        """The weighted mean of the vector `name`, sum_k (w_k / w) a_k."""
        return np.asarray(self.arrays[name] / np.asarray(self.weight, self.arrays[name].dtype))


@dataclass(frozen=True, slots=True)
class LocalWork:
    """How a client trains: an amount, a batch size and an optimiser with its learning rate already scheduled."""

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    drop_last: bool = False
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """Who of a cohort makes fewer steps than it is asked for: at most `steps` [n] for the clients `numbers` [n],
    ascending."""

    numbers: IntArray
    steps: IntArray


@dataclass(frozen=True, slots=True)
class Work:
    """What the server asks of a client in one round; the same object for the whole cohort.

    `params`: the global model ({"params": [D], "buffers": [B] where it has any}); `extra`: the strategy's
    broadcast; `transforms`: each transform's broadcast by name; `layout`: what the update must look like;
    `allowance`: where devices are simulated, how far each of them gets.
    """

    round: int
    params: Arrays
    extra: Arrays
    transforms: Mapping[str, Arrays]
    local: LocalWork
    layout: Layout
    allowance: Allowance | None = None


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """Who takes part in a round, in client order, and what they are asked.

    `numbers` [n] are the cohort's numbers in the partition; `chunks` the places in the cohort of those that train
    together, which decides the order in which sums are made. `devices` says what became of simulated devices; those
    that are in no chunk do not train in this round.
    """

    round: int
    cohort: tuple[ClientId, ...]
    work: Work
    numbers: IntArray
    chunks: tuple[IntArray, ...]
    devices: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """One message to a client: work to do, or an aggregator's message, or both.

    Clients whose requests have the same `chunk` may train side by side; an engine need not heed it.
    """

    round: int
    work: Work | None = None
    message: bytes | None = None
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's answer: the aggregator's message and, where the aggregator does not hide, its metrics."""

    message: bytes
    metrics: Mapping[str, float] = field(default_factory=dict)


FailureKind = Literal["exception", "non-finite", "layout", "worker-died", "deadline", "protocol", "refused", "memory"]
"""`protocol`: what it sent is none of the protocol's; `refused`: it would not send what it was asked."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a client gave no usable reply."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a chunk of clients replied, together.

    `vectors`: their sum, premultiplied by the weights, [L] each; or, where the server reads each, one row for each
    of `numbers`, [K, L]. `weights` [K] and `numbers` [K] are of those that answered, in the order asked. `loss` [K],
    `examples` [K] and `steps` [K] are their metrics, `failed` the others by number. `seconds` are by phase: load,
    train, transform. `bytes_up` is how large the messages are that would carry what they say, one from each client.
    """

    vectors: Arrays
    numbers: IntArray
    weights: FloatArray
    loss: FloatArray
    examples: FloatArray
    steps: FloatArray
    failed: Mapping[int, Failure]
    seconds: Mapping[str, float]
    bytes_up: int


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One finished round, as it stands in `metrics.jsonl`. Sizes are bytes.

    Seconds are by phase, with `total`. `work` are seconds of the clients' work, summed over the processes that do it.
    `notes` say what went wrong and was mended. `attackers` are the malicious clients of the cohort, where they attack.
    `devices` counts what became of simulated devices, and has the simulated `seconds`. `told` is what transforms say.
    """

    round: int
    asked: int
    answered: int
    failed: Mapping[ClientId, Failure]
    examples: int
    loss: float | None
    seconds: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float]
    released: bool = True
    work: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    attackers: int = 0
    devices: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the rounds after `round` depend on.

    `states` holds the named states of the strategy and the transforms; `progress` what the stopping rules have
    seen; the digests say which config and partition it belongs to.
    """

    round: int
    params: Arrays
    states: Mapping[str, Arrays]
    progress: Mapping[str, Any]
    config_digest: str
    partition_digest: str


@dataclass(frozen=True, slots=True)
class Start:
    """The global model on all rows of a client, before its first step: the mean loss and its gradient [D], None where
    it was not asked for. Without dropout, and with the statistics for normalisation that the model has."""

    loss: float
    gradient: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Trained:
    """One client's local training.

    `delta`: the values after minus those before, laid out as the model; `loss`: the mean training loss over the
    examples processed, each as the model was when it met them, NaN where a transform makes the steps; `examples`: the
    rows of the shard, 0 where no step was made; `steps`: how many. `start` is what the strategy `measures`. `personal`
    are the values that the client's own model ended with, where a stage started from it or parts of the model are
    private; `delta` is without these.
    """

    delta: Arrays
    loss: float
    examples: int
    steps: int
    start: Start | None = None
    personal: Arrays | None = None


ServerOptimizerName = Literal["sgd", "momentum", "adagrad", "adam", "yogi"]


QUICK: Mapping[TaskKind, tuple[str, ...]] = {
    "classification": ("test_loss", "accuracy"),
    "binary": ("test_loss", "accuracy"),
    "next-character": ("test_loss", "accuracy", "perplexity"),
    "regression": ("test_loss", "mae", "rmse", "r2"),
}
"""What `quick_score` gives, and so what a run may stop by or be best in."""

PADDING = -1
"""The target of a position that holds no character, in data sets of text: it is not scored."""
