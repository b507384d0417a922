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
    "ROW_SUMS",
    "WEIGHT",
    "Aggregate",
    "Allowance",
    "Arrays",
    "Ask",
    "Batch",
    "Checkpoint",
    "ClientId",
    "ClientProgress",
    "ClientUpdate",
    "Failure",
    "FloatArray",
    "Gathered",
    "IntArray",
    "Layout",
    "LocalWork",
    "Outgoing",
    "Reply",
    "Request",
    "RoundPlan",
    "RoundReport",
    "SelectionSplit",
    "ServerOptimizerName",
    "Start",
    "TaskKind",
    "Trained",
    "Work",
    "measured_as",
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
"""Suffix of names of integer vectors that are summed modulo an aggregator's ring. They are added as they are, never
rounded or scaled, and single values may exceed the ring."""
Ask = Literal["train", "evaluate", "statistics"]
"""A request to a client: to train; to evaluate the model on its own rows; or for sums of the columns of its rows."""
ROW_SUMS: Mapping[Ask, str] = {"evaluate": f"evaluate{RING}", "statistics": f"statistics{RING}"}
"""Name of the one vector of sums over a client's rows, by what is asked for. No update has vectors of these names."""
TaskKind = Literal["classification", "binary", "regression", "next-character"]
SelectionSplit = Literal["validation", "test"]
"""Split by whose rows a training picks its best round and stops early."""


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """Flat vectors that one client sends, and the weight they count with (its number of examples)."""

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
    """Local training of a client: amount, batch size, and optimiser with its learning rate already scheduled."""

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
    """Limits for clients of a cohort that make fewer steps than requested: at most `steps` [n] for the clients with the
    indices `client_indices` [n], ascending."""

    client_indices: IntArray
    steps: IntArray


@dataclass(frozen=True, slots=True)
class Work:
    """A round's instructions to its clients; one object for the whole cohort.

    `params`: the global model ({"params": [D]}, with "buffers" [B] if it has buffers); `extra`: the strategy's
    broadcast; `transforms`: each transform's broadcast by name; `layout`: the required layout of an update;
    `allowance`: the limits of simulated devices, if any; `ask`: what to do. All but training is answered with sums over
    the client's rows, and `layout` is then that of the sums.
    """

    round: int
    params: Arrays
    extra: Arrays
    transforms: Mapping[str, Arrays]
    local: LocalWork
    layout: Layout
    allowance: Allowance | None = None
    ask: Ask = "train"


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A round's cohort in client order, and its work.

    `numbers` [n] are the cohort's indices in the partition. `chunks` are the positions in the cohort of the clients
    that train together; they fix the order in which sums are made. `devices` counts the outcomes of simulated devices.
    A client that is in no chunk does not train in this round. `away` are the clients that were drawn and could not be
    asked, because their engine cannot reach them.
    """

    round: int
    cohort: tuple[ClientId, ...]
    work: Work
    numbers: IntArray
    chunks: tuple[IntArray, ...]
    devices: Mapping[str, float] = field(default_factory=dict)
    away: tuple[ClientId, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitingRound:
    """A round that cannot start: `present` clients of its cohort are available, it needs `needed`, `away` are not.

    `away` is empty if the cohort is secret.
    """

    round: int
    away: tuple[ClientId, ...]
    present: int
    needed: int

    def named(self, most: int) -> str:
        """Returns the clients that are away, in words: the first `most` of them, and the number of the others."""
        others = f" and {len(self.away) - most} more" if len(self.away) > most else ""
        return (", ".join(self.away[:most]) or "clients of a secret cohort") + others


@dataclass(frozen=True, slots=True)
class Request:
    """One message to a client: work to do, or an aggregator's message, or both. The work says what it `ask`s for.

    Clients whose requests have the same `chunk` may train side by side; an engine need not heed it.
    """

    round: int
    work: Work | None = None
    message: bytes | None = None
    chunk: int | None = None

    @property
    def ask(self) -> Ask | None:
        """The `ask` of the work; None without work."""
        return None if self.work is None else self.work.ask


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's reply: the aggregator's message and, unless the aggregator hides them, its metrics."""

    message: bytes
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientProgress:
    """A stage of a round at a client on another machine: it has the request (`fetched`), made `step` of `steps` steps
    (`training`), or its reply has arrived (`uploaded`)."""

    client: ClientId
    round: int
    stage: Literal["fetched", "training", "uploaded"]
    step: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A client's vectors after the transforms, weight included, as the aggregator's client half takes them; and the
    client's training metrics."""

    vectors: Arrays
    metrics: Mapping[str, float] = field(default_factory=dict)


FailureKind = Literal[
    "exception",
    "non-finite",
    "layout",
    "worker-died",
    "deadline",
    "protocol",
    "refused",
    "memory",
    "away",
    "denied",
    "version",
    "stalled",
]
"""`protocol`: the client sent a message that is not valid in the protocol; `refused`: it declined the request. Of
clients on other machines: `away`: it could not be reached; `denied`: its policy does not allow the request; `version`:
it runs other versions than the server; `stalled`: it answered polls, and its work did not advance."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason for which a client gave no usable reply."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """One reply for a chunk of K' clients, of which K succeeded.

    `vectors`: their sum, premultiplied by the weights, [L] each; or, if the server takes single updates, one row for
    each of `numbers`, [K, L]. `numbers` [K] are the client indices, which need not be in the order requested;
    `weights`, `loss`, `examples` and `steps` [K] follow them. `failed` has the other clients by index. `seconds` are by
    phase: load, train, transform. `bytes_up` is the size of the messages that K separate clients would have sent.
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
    """One finished round, as in `metrics.jsonl`. Sizes are bytes.

    `seconds` are by phase, with `total`. `work` has seconds of client work, summed over processes. `notes` are
    sentences on problems that were solved. `attackers` counts the cohort's malicious clients while they attack.
    `split` names the rows that `metrics` were measured on. `devices` counts the outcomes of simulated devices, with the
    simulated `seconds`. `told` has the transforms'
    entries.
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
    split: SelectionSplit | None = None
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

    `delta`: the values after training minus those before, laid out as the model. `loss`: the mean training loss over
    the examples processed, each under the model of its step; NaN if a transform makes the steps. `examples`: the rows
    of the shard, 0 without a step. `steps`: the number of steps. `start`: the strategy's measurement, if it `measures`.
    `personal`: the final values of the client's own model, if a stage started from it or parts of the model are
    private; `delta` is then without these.
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
"""Metrics of `quick_score`, by task: those that a run may stop by or be best in."""


def measured_as(name: str, split: SelectionSplit | None) -> str:
    """Returns the name of a metric of `QUICK` over rows of `split`: the loss over validation rows is no test loss."""
    return "validation_loss" if name == "test_loss" and split == "validation" else name


PADDING = -1
"""The target of a position that holds no character, in data sets of text: it is not scored."""
