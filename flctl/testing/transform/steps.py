"""Local steps of a transform that makes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flctl import seeds
from flctl.algorithms.local_steps import LocalSteps, StepsContext
from flctl.algorithms.transform import StartContext, Transform
from flctl.errors import counted
from flctl.run.run import Run
from flctl.testing.conformance import Checks
from flctl.testing.transform.subject import TransformSubject

__all__ = ["add_steps"]

_NORMS = np.array([0.0, 1e-12, 0.5, 1.0, 3.0, 1e6, 1e30])
_CLIENT, _STEPS, _BATCH = 3, 5, 4


def add_steps(checks: Checks) -> None:
    """Adds the check of `steps`."""

    @checks.add(
        "steps",
        "steps returns flctl.LocalSteps: at most ctx.steps steps, of existing rows, with a finite factor for each "
        "norm and a gradient of the model's size, also for an empty batch.",
        why="Local training applies them to the per-example gradients of every client.",
        todo="Follow the error message; `ctx` has the number of rows, of steps, and of rows per step.",
    )
    def find(s: TransformSubject) -> Iterator[str]:
        if not s.make().makes_steps:
            return
        run, _ = s.trial.prepare(s.named, "engine=inprocess")
        name, transform = next((name, one) for name, one in run.transforms.items() if one.makes_steps)
        ctx = _context(run, name, transform)
        steps = transform.steps(ctx)
        if not isinstance(steps, LocalSteps):
            yield f"it returned {type(steps).__name__}, expected flctl.LocalSteps"
            return
        yield from _row_faults(steps, ctx)
        yield from _factor_faults(steps)
        yield from _gradient_faults(steps, run.division.layout["params"])


def _context(run: Run, name: str, transform: Transform) -> StepsContext:
    """A client that is about to train in the first round."""
    state = transform.begin(transform.init(run.pipeline.layouts[name]), StartContext(1, run))
    return StepsContext(
        run=run,
        round=1,
        client_id=str(run.partition.client_ids[_CLIENT]),
        number=_CLIENT,
        stage=0,
        local=run.config.local.amount(),
        rows=int(run.partition.counts[_CLIENT, 0]),
        steps=_STEPS,
        batch_size=_BATCH,
        broadcast=transform.broadcast(state),
        rng=seeds.rng(0, "steps"),
    )


def _row_faults(steps: LocalSteps, ctx: StepsContext) -> Iterator[str]:
    made: list[Any] = list(steps.batches())
    if len(made) > ctx.steps:
        yield f"it makes {counted(len(made), 'step')}, expected at most {ctx.steps}"
    for batch in made:
        rows = np.asarray(batch)
        inside = bool(((rows >= 0) & (rows < ctx.rows)).all())
        if rows.dtype != np.int64 or rows.ndim != 1 or not inside:
            yield f"a step uses the rows {str(batch)[:60]}, expected int64 indices in [0, {ctx.rows})"
            return


def _factor_faults(steps: LocalSteps) -> Iterator[str]:
    together: Any = steps.factors(_NORMS.copy())
    if np.shape(together) != _NORMS.shape or not np.isfinite(together).all():
        yield f"for the norms {_NORMS.tolist()} it returned the factors {np.asarray(together).tolist()!s:.100}"
        return
    alone = [steps.factors(_NORMS[index : index + 1].copy()) for index in range(len(_NORMS))]
    if not np.allclose(together, np.ravel(alone), rtol=1e-12, atol=0):
        yield "the factor of a row's norm depends on the other norms"


def _gradient_faults(steps: LocalSteps, parameters: int) -> Iterator[str]:
    found = np.asarray(steps.gradient(np.zeros(parameters)))
    if found.shape != (parameters,) or not np.isfinite(found).all():
        yield f"for an empty batch its gradient has the shape {found.shape}, or values that are NaN or infinite"
