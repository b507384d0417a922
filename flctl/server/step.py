"""The server's step: an aggregate through the transforms in reverse order, and into the global model."""

from __future__ import annotations

from typing import Any

import numpy as np

from flctl import arrays, seeds
from flctl.algorithms.strategy import StepContext
from flctl.algorithms.transform import ServerContext
from flctl.errors import DivergenceError, PluginError
from flctl.models.flat_model import FlatModel
from flctl.run.run import Run
from flctl.server.state import State
from flctl.types import Aggregate, Arrays, Layout, RoundPlan

__all__ = ["require_vectors", "server_context", "server_step"]


def server_step(run: Run, model: FlatModel, state: State, aggregate: Aggregate, plan: RoundPlan) -> State:
    """Returns the state after the round of `plan`.

    Raises PluginError if a transform or the strategy returns vectors of another layout, DivergenceError if the new
    model is not finite. `model` only serves to round the parameters as a checkpoint would.
    """
    states: dict[str, Arrays] = dict(state.transforms)
    for name, transform in reversed(list(run.transforms.items())):
        ctx = server_context(run, plan, name)
        aggregate = run.pipeline.decoded(aggregate, name, ctx.shared)
        aggregate, states[name] = transform.on_server(aggregate, state.transforms[name], ctx)
        require_vectors(states[name], None, f"transform '{name}' returned a state with", plan.round)
    division, counts = run.division, run.partition.counts[:, 0]
    step = StepContext(plan.round, run.config.seed, run.server, int(np.count_nonzero(counts)), int(counts.sum()))
    params, strategy = run.strategy.step(division.public_of(state.params), aggregate, state.strategy, step)
    source = f"strategy '{run.strategy.name}' returned"
    require_vectors(params, run.layout, f"{source} a model with", plan.round)
    require_vectors(strategy, None, f"{source} a state with", plan.round)
    whole = division.whole(params, division.private_of(state.params))
    return State(plan.round, _as_stored(run, model, whole, plan.round), strategy, states)


def server_context(run: Run, plan: RoundPlan, name: str) -> ServerContext:
    """Returns the context of the transform `name` on the server in the round of `plan`."""
    generator = seeds.rng(run.config.seed, "round", plan.round, "server", name)
    shared = run.pipeline.shared(name, plan.round, plan.work.transforms)
    return ServerContext(plan.round, len(plan.cohort), generator, shared)


def require_vectors(vectors: Any, layout: Layout | None, source: str, round_number: int) -> None:
    """Raises PluginError unless `vectors` are named flat vectors of numbers, of the layout if one is given."""
    wrong = arrays.misfit(vectors, layout)
    if wrong:
        raise PluginError(f"round {round_number}: {source} {wrong}")


def _as_stored(run: Run, model: FlatModel, params: Arrays, round_number: int) -> Arrays:
    """Returns the model as it would be read back from a checkpoint: float32, with integer buffers rounded.

    A resumed run starts from the checkpoint, so an uninterrupted one must go on from the same values.
    """
    for name, vector in params.items():
        if not np.isfinite(vector).all():
            raise DivergenceError(
                f"round {round_number}: the new global model has values in '{name}' that are NaN or infinite",
                hint=f"Lower local.lr or server.lr (it is {run.server.lr:g}).",
            )
    model.load({name: vector.astype(np.float32, copy=False) for name, vector in params.items()})
    return model.read()
