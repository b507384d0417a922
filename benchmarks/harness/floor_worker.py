"""One process of the floor: trains its half of each cohort with plain torch, and adds up what comes out, in place.

Started by `floor.Floor`, which sends one JSON object a line and hears one word back. Nothing of flctl is imported.
Data lie in the process's own memory; the model, the partial sums and SCAFFOLD's vectors in files that all map.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from harness import torch_models


@dataclass(frozen=True, slots=True)
class Job:
    """What a floor computes: a model, how clients train, and what is done to their changes.

    `kind` is "ordinary" (a module and `torch.optim.SGD`) or "lean" (flat parameters, no optimiser object, for plain
    SGD only). `mu` is FedProx's, `clip` the largest norm of a client's change, `scaffold` is option II of Karimireddy
    et al. 2020.
    """

    folder: str
    data: str
    model: str
    options: dict[str, Any]
    parameters: int
    clients: int
    lr: float
    batch_size: int
    processes: int
    kind: str = "ordinary"
    momentum: float = 0.0
    mu: float = 0.0
    clip: float | None = None
    scaffold: bool = False

    def mapped(self, name: str, rows: int = 1) -> Tensor:
        """The shared vectors `name` [rows, D]."""
        path = Path(self.folder) / f"{name}.bin"
        return torch.from_numpy(np.memmap(path, np.float32, "r+", shape=(rows, self.parameters)))


@dataclass(frozen=True, slots=True)
class Part:
    """One process's clients of one round: their rows [R] in the order of their steps, client k's being
    `rows[offsets[k]:offsets[k + 1]]`, their weights in the mean, and who they are."""

    rows: Tensor
    offsets: list[int]
    weights: list[float]
    clients: list[int]


def parts(path: Path, processes: int) -> list[Part]:
    """The parts of a round for each process, cut where the rows before a client reach the process's share."""
    with np.load(path) as plan:
        rows, offsets, weights, clients = (plan[name] for name in ("rows", "offsets", "weights", "clients"))
    shares = np.arange(processes + 1) * (offsets[-1] / processes)
    cuts = np.abs(offsets[None, :] - shares[:, None]).argmin(axis=1)
    return [
        Part(
            rows=torch.from_numpy(rows[offsets[first] : offsets[last]].copy()),
            offsets=(offsets[first : last + 1] - offsets[first]).tolist(),
            weights=weights[first:last].tolist(),
            clients=clients[first:last].tolist(),
        )
        for first, last in pairwise(cuts)
    ]


class Ordinary:
    """A module, `torch.optim.SGD` and `loss.backward()`, as one would write it by hand."""

    def __init__(self, job: Job, number: int, x: Tensor, y: Tensor) -> None:
        self.job, self.number, self.x, self.y = job, number, x, y
        self.module = torch_models.build(job.model, job.options)
        self.parameters: Any = list(self.module.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=job.lr, momentum=job.momentum)
        self.start = torch_models.unflatten(job.mapped("model")[0], self.module)
        self.partial = job.mapped("partial", job.processes)[number]
        self.sums = torch_models.unflatten(self.partial, self.module)
        self.control = Control(job, number, self.module) if job.scaffold else None

    def play(self, part: Part) -> None:
        """Trains the clients of one part and leaves their weighted sum in the partial sum."""
        self.partial.zero_()
        if self.control:
            self.control.partial.zero_()
        for k, weight in enumerate(part.weights):
            rows = part.rows[part.offsets[k] : part.offsets[k + 1]]
            self.client(part.clients[k], rows)
            self.add(weight)

    def client(self, client: int, rows: Tensor) -> None:
        """One client from the global model."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.start)
        if self.job.momentum:
            self.optimizer.state.clear()
        if self.control:
            self.control.begin(client)
        steps = 0
        for x, y in zip(*self.batches(rows), strict=True):
            self.optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(self.module(x), y))
            self.adjust()
            self.optimizer.step()
            steps += 1
        if self.control:
            self.control.end(self.parameters, self.start, steps)

    def batches(self, rows: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The client's batches, gathered once."""
        x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
        return torch.split(x, self.job.batch_size), torch.split(y, self.job.batch_size)

    def adjust(self) -> None:
        """The strategy's term in the gradient."""
        if self.job.mu:
            for parameter, start in zip(self.parameters, self.start, strict=True):
                parameter.grad.add_(parameter.detach() - start, alpha=self.job.mu)
        if self.control:
            for parameter, term in zip(self.parameters, self.control.term, strict=True):
                parameter.grad.add_(term)

    @torch.no_grad()
    def add(self, weight: float) -> None:
        """Adds the client's weights; its clipped change where changes are clipped."""
        if self.job.clip is None:
            torch._foreach_add_(self.sums, self.parameters, alpha=weight)
            return
        start: Any = self.start
        changes = torch._foreach_sub(self.parameters, start)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(changes))).item()
        scale = min(1.0, self.job.clip / norm) if norm else 1.0
        torch._foreach_add_(self.sums, changes, alpha=weight * scale)


class Control:
    """SCAFFOLD's control variates (Karimireddy et al. 2020, Algorithm 1, option II), one row per client."""

    def __init__(self, job: Job, number: int, module: torch.nn.Module) -> None:
        self.lr = job.lr
        self.server = torch_models.unflatten(job.mapped("control")[0], module)
        self.rows = job.mapped("controls", job.clients)
        self.partial = job.mapped("control_partial", job.processes)[number]
        self.sums = torch_models.unflatten(self.partial, module)
        self.module = module
        self.own: Any = []
        self.term: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def begin(self, client: int) -> None:
        """c - c_i, which every step adds to the gradient."""
        self.own = torch_models.unflatten(self.rows[client], self.module)
        self.term = torch._foreach_sub(self.server, self.own)

    @torch.no_grad()
    def end(self, parameters: Any, start: list[Tensor], steps: int) -> None:
        """c_i <- c_i - c + (x - y_i) / (K lr), and the change into the sum over clients."""
        change = torch._foreach_sub(start, parameters)
        torch._foreach_div_(change, steps * self.lr)
        torch._foreach_sub_(change, self.server)
        torch._foreach_add_(self.own, change)
        torch._foreach_add_(self.sums, change)


class Lean(Ordinary):
    """Flat parameters that the module's are views of, gradients without `.grad`, no optimiser object."""

    def __init__(self, job: Job, number: int, x: Tensor, y: Tensor) -> None:
        super().__init__(job, number, x, y)
        self.flat_start, self.flat = job.mapped("model")[0], torch_models.flatten(self.module)
        self.values = torch_models.unflatten(self.flat, self.module)
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value

    def client(self, client: int, rows: Tensor) -> None:
        self.flat.copy_(self.flat_start)
        for x, y in zip(*self.batches(rows), strict=True):
            loss = cross_entropy(self.module(x), y)
            torch._foreach_add_(self.values, torch.autograd.grad(loss, self.parameters), alpha=-self.job.lr)

    def add(self, weight: float) -> None:
        self.partial.add_(self.flat, alpha=weight)


class Process:
    """The jobs that this process knows, and their rounds, read before they are timed."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.data: dict[str, tuple[Tensor, Tensor]] = {}
        self.jobs: dict[str, Ordinary] = {}
        self.parts: dict[str, dict[int, Part]] = {}

    def open(self, **fields: Any) -> None:
        """Makes a job ready; its data are read into memory once."""
        job = Job(**fields)
        if job.data not in self.data:
            x, y = (torch.from_numpy(np.load(Path(job.data) / f"{name}.npy")) for name in "xy")
            self.data[job.data] = (x, y)
        kind = Lean if job.kind == "lean" else Ordinary
        self.jobs[job.folder] = kind(job, self.number, *self.data[job.data])

    def prepare(self, folder: str, rounds: list[int]) -> None:
        """Reads what rounds consist of."""
        job = self.jobs[folder].job
        files = {number: Path(job.data) / f"round-{number}.npz" for number in rounds}
        self.parts[folder] = {n: parts(path, job.processes)[self.number] for n, path in files.items()}

    def play(self, folder: str, number: int) -> None:
        """One round's part."""
        self.jobs[folder].play(self.parts[folder].pop(number))

    def close(self, folder: str) -> None:
        """Forgets a job."""
        data = self.jobs.pop(folder).job.data
        self.parts.pop(folder, None)
        if all(other.job.data != data for other in self.jobs.values()):
            del self.data[data]


def main() -> None:
    """Obeys until the input ends."""
    torch.set_num_threads(1)
    process = Process(int(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        getattr(process, order.pop("do"))(**order)
        print("done", flush=True)


if __name__ == "__main__":
    main()
