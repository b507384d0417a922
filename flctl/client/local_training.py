"""Local training of a chunk of clients, stage by stage, and the memory that it reads and writes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.local_steps import LocalSteps, StepsContext
from flctl.algorithms.strategy import Stage
from flctl.client.memory import ClientMemory
from flctl.client.memory_store import MemoryStore
from flctl.errors import PluginError
from flctl.executors.batches import local_keys, most_steps, stage_keys, step_counts
from flctl.executors.costs import FLOAT
from flctl.executors.executor import Executor
from flctl.executors.per_example_steps import StepsOf
from flctl.executors.shards import Shards
from flctl.executors.updates import Facts, Updates
from flctl.run.run import Run
from flctl.timing import PhaseTimer
from flctl.types import Arrays, Failure, IntArray, Trained, Work

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LocalTraining"]

_COPIES = 6
"""Vectors as long as the model that a client has until it is added up: its start, its changes, what it sends."""


class LocalTraining:
    """Trains clients of a run, side by side or one after the other. Nothing is kept from one chunk to the next."""

    def __init__(self, run: Run) -> None:
        model = run.build_model()
        begin = run.division.private_of(model.read())
        self.run, self.clock = run, PhaseTimer()
        self.executor, self.outline = Executor(run.execution, model, run.task()), model.outline
        self.store = MemoryStore(run.memory_directory, run.partition.clients, run.memory_layout)
        self.client_memory = ClientMemory(run, self.store, begin)

    @property
    def at_once(self) -> int:
        """Number of clients whose memory and models are held at once if clients train one after the other."""
        if not (self.executor.one_by_one and self.run.memory_layout):
            return 1 << 62
        model = sum(self.run.division.layout.values())
        client_bytes = FLOAT * (_COPIES * model + 2 * sum(self.run.memory_layout.values()))
        return max(1, (self.run.execution.memory - self.run.execution.fixed_bytes) // client_bytes)

    def memory(self, client_indices: IntArray, work: Work) -> dict[str, Any]:
        """Returns the clients' memory, name -> [K, length]."""
        with self.clock.phase("load"):
            return self.client_memory.memory(client_indices, work)

    def remember(self, memories: Mapping[int, Arrays], round_number: int) -> None:
        """Keeps what each of the clients remembers of round `round_number`."""
        if self.run.memory_layout and memories:
            stacked = {
                name: np.stack([memory[name] for memory in memories.values()]) for name in self.run.memory_layout
            }
            rows = {name: block.astype(np.float32, copy=False) for name, block in stacked.items()}
            self.store.write(list(memories), round_number, rows)

    def train_plain(self, client_indices: IntArray, work: Work) -> Updates:
        """Trains clients without memory from the global model, and returns their updates."""
        return self._stage(client_indices, work, {}, Stage(work.local), 0)

    def reported(self, facts: Facts) -> Facts:
        """Returns the facts to report. If a transform bounds clients, a client that diverged counts as one without a
        step, not as a failure."""
        if not (self.run.bounds_clients and facts.failures):
            return facts
        failures = {
            position: failure for position, failure in facts.failures.items() if not self._counts_as_zeros(failure)
        }
        diverged = [position for position in facts.failures if position not in failures]
        loss, examples, steps = facts.loss.copy(), facts.examples.copy(), facts.steps.copy()
        loss[diverged], examples[diverged], steps[diverged] = math.nan, 0, 0
        return dataclasses.replace(facts, loss=loss, examples=examples, steps=steps, failures=failures)

    def train_each(self, client_indices: IntArray, work: Work, memory: Arrays) -> list[Trained | Failure]:
        """Each client's result, with what the strategy `measures`."""
        whole = self.client_memory.whole(work, memory)
        whole_work = dataclasses.replace(work, params=whole)
        chains: list[_Chain] = []
        for stage_index, stage in enumerate(self.run.strategy.stages(work.local)):
            if not chains or stage.start != "before":
                start = (
                    whole if stage.start == "global" else self.client_memory.personal(work, memory, len(client_indices))
                )
                chains.append(_Chain(start, personal=stage.start == "personal"))
            chains[-1].add(self._stage(client_indices, whole_work, memory, stage, stage_index, chains[-1].end))
        done = [self._result(chains, position) for position in range(len(client_indices))]
        return self._with_measurements(done, client_indices, whole_work)

    def _stage(
        self,
        client_indices: IntArray,
        work: Work,
        memory: Arrays,
        stage: Stage,
        stage_index: int,
        start: Arrays | None = None,
    ) -> Updates:
        stage_work = dataclasses.replace(work, params=work.params if start is None else start, local=stage.local)
        shards = self._limited_shards(client_indices, work, stage_index)
        with self.clock.phase("train"):
            adjusts, steps = self._adjusts(work, memory, stage), self._steps(stage_work, shards, stage_index)
            return self.executor.train(stage_work, shards, adjusts, steps)

    def _steps(self, work: Work, shards: Shards, stage: int) -> StepsOf | None:
        """Returns a function that gives a transform's local steps for the client at a position of the chunk; None if no
        transform makes steps."""
        name = self.run.makes_steps
        if name is None:
            return None
        client_indices, sizes = shards.clients, shards.sizes
        counts, widths, _ = step_counts(sizes, work.local, shards.limits)

        def steps(position: int) -> LocalSteps:
            client = str(self.run.partition.client_ids[int(client_indices[position])])
            named = ("round", work.round, "client", client, name, "steps", stage)
            ctx = StepsContext(
                run=self.run,
                round=work.round,
                client_id=client,
                number=int(client_indices[position]),
                stage=stage,
                local=work.local,
                rows=int(sizes[position]),
                steps=int(counts[position]),
                batch_size=int(min(widths[position], sizes[position])),
                broadcast=work.transforms.get(name, {}),
                rng=seeds.rng(self.run.config.seed, *named),
            )
            return self._make_steps(name, ctx)

        return steps

    def _make_steps(self, name: str, ctx: StepsContext) -> LocalSteps:
        made = self.run.transforms[name].steps(ctx)
        if not isinstance(made, LocalSteps):
            found = type(made).__name__
            raise PluginError(f"transform '{name}' returned {found} for local steps, expected flctl.LocalSteps")
        return made

    def _result(self, chains: list[_Chain], position: int) -> Trained | Failure:
        """Returns the result of the client's first chain of stages, with the end of the chain of its own model."""
        results = [chain.result(position) for chain in chains]
        failed = next((result for result in results if isinstance(result, Failure)), None)
        first = results[0]
        if failed is not None and not self._counts_as_zeros(failed):
            return failed
        if isinstance(first, Failure):
            first = self.unmoved
        own = [chain for chain in chains if chain.personal] or chains[:1]
        if not (own[0].personal or self.run.division.private):
            return first
        return dataclasses.replace(
            first, delta=self.run.division.public_of(first.delta), personal=own[-1].ended(position)
        )

    def _counts_as_zeros(self, failure: Failure) -> bool:
        return self.run.bounds_clients and failure.kind == "non-finite"

    @property
    def unmoved(self) -> Trained:
        """The result of a client whose model did not change."""
        return Trained(arrays.zeros(self.run.division.layout), math.nan, 0, 0)

    def _with_measurements(
        self, done: list[Trained | Failure], client_indices: IntArray, work: Work
    ) -> list[Trained | Failure]:
        measures = self.run.strategy.measures
        if measures == "nothing":
            return done
        with self.clock.phase("train"):
            starts = self.executor.measure(work, self._shards(client_indices, work, 0), gradient=measures == "gradient")
        pairs = zip(done, starts, strict=True)
        return [one if isinstance(one, Failure) else dataclasses.replace(one, start=start) for one, start in pairs]

    def _shards(self, client_indices: IntArray, work: Work, stage: int) -> Shards:
        keys = local_keys(self.run.config.seed, work.round, self.run.partition.client_ids.take(client_indices))
        weights = self.run.class_weights
        return Shards(
            self.run.adversary.rows(work.round),
            client_indices,
            stage_keys(keys, stage),
            lambda: self.clock.phase("load"),
            class_weights=None if weights is None else weights.of(client_indices),
        )

    def _limited_shards(self, client_indices: IntArray, work: Work, stage: int) -> Shards:
        """Returns the clients' rows in a stage, with the largest number of steps that the earlier stages leave to
        each."""
        shards, limits = self._shards(client_indices, work, stage), most_steps(work.allowance, client_indices)
        if limits is None:
            return shards
        before = self.run.strategy.stages(work.local)[:stage]
        made = sum((step_counts(shards.sizes, earlier.local)[0] for earlier in before), np.zeros_like(limits))
        return dataclasses.replace(shards, limits=np.maximum(limits - made, 0))

    def _adjusts(
        self, work: Work, memory: Arrays, stage: Stage
    ) -> Callable[[Any], Callable[[Tensor, Tensor], Tensor]] | None:
        """Returns the functions that adjust the clients' gradients in a stage (see `executors.executor.Adjusts`)."""
        adjust, moving = stage.adjust_of(self.run.strategy), self._moving(stage)
        if adjust is None and moving is None:
            return None
        change, remembered = adjust or _identity, self.client_memory.of_strategy(memory)

        def adjusts(positions: Any) -> Callable[[Tensor, Tensor], Tensor]:
            # Copies for each call: what one client changes in place is gone before the next, in whatever process.
            anchor, memory_rows = _tensors(work.params, positions), _tensors(remembered, positions)
            client_work = dataclasses.replace(work, params=anchor, extra=_tensors(work.extra, positions))

            def alone(grad: Tensor, params: Tensor) -> Tensor:
                grad = change(grad, params, client_work, memory_rows)
                return grad if moving is None else grad.mul_(moving)

            def stacked(grad: Tensor, params: Tensor) -> Tensor:
                first = dataclasses.replace(client_work, params=_leading_rows(anchor, grad))
                grad = change(grad, params, first, _leading_rows(memory_rows, grad))
                return grad if moving is None else grad.mul_(moving)

            return alone if np.ndim(positions) == 0 else stacked

        return adjusts

    def _moving(self, stage: Stage) -> Tensor | None:
        """Returns 1 for each coordinate that the stage trains and 0 for the others; None if it trains all."""
        import torch

        if stage.moves == "all":
            return None
        private = torch.from_numpy(self.run.division.masks["params"]).float()
        return private if stage.moves == "private" else 1 - private


class _Chain:
    """Stages that each continue from the end of the one before: the start, [L] or [K, L], and the change since."""

    def __init__(self, start: Arrays, *, personal: bool) -> None:
        self._start, self.personal = start, personal
        self._results: list[Trained | None] = []
        self._failures: dict[int, Failure] = {}

    @property
    def end(self) -> Arrays:
        """Returns the clients' current values, [L] or [K, L]."""
        if not self._results:
            return self._start
        ends = [self.ended(position) for position in range(len(self._results))]
        return {name: np.stack([end[name] for end in ends]) for name in self._start}

    def ended(self, position: int) -> Arrays:
        """Returns one client's current values; its start if it failed."""
        start = {name: vector[position] if vector.ndim == 2 else vector for name, vector in self._start.items()}
        result = self._results[position]
        return start if result is None else {name: start[name] + result.delta[name] for name in start}

    def add(self, updates: Updates) -> None:
        """Takes the next stage's changes."""
        results = updates.results()
        self._results = list(map(_summed, self._results, results)) if self._results else results
        self._failures = {**updates.facts.failures, **self._failures}

    def result(self, position: int) -> Trained | Failure:
        """One client's change over all stages; loss and rows are those of the last."""
        result = self._results[position]
        return self._failures[position] if result is None else result


def _identity(grad: Tensor, params: Tensor, work: Work, memory: Arrays) -> Tensor:
    return grad


def _summed(before: Trained | None, after: Trained | None) -> Trained | None:
    if before is None or after is None:
        return None
    delta = {name: before.delta[name] + after.delta[name] for name in after.delta}
    examples = max(before.examples, after.examples)
    return dataclasses.replace(after, delta=delta, examples=examples, steps=before.steps + after.steps)


def _tensors(vectors: Arrays, positions: Any) -> dict[str, Any]:
    """Returns tensors: the rows of stacked vectors at `positions`, or the only row."""
    import torch

    return {n: torch.from_numpy(np.array(v[positions] if v.ndim == 2 else v)) for n, v in vectors.items()}


def _leading_rows(tensors: Mapping[str, Any], grad: Tensor) -> dict[str, Any]:
    """Returns the first rows of stacked tensors, as many as the gradient has."""
    return {name: tensor[: len(grad)] if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
