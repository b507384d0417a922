"""Repeats one client's work of one round, from the newest checkpoint before it; nothing of the run is changed."""

from __future__ import annotations

import shutil
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from flctl.algorithms.aggregators.plain import PlainAggregator
from flctl.cli import output
from flctl.cli.hidden import refuse_hidden
from flctl.cli.train.job import open_stored
from flctl.errors import ConfigError
from flctl.types import Request

if TYPE_CHECKING:
    from flctl.run.directory import RunDirectory
    from flctl.run.run import Run

__all__ = ["replay_client"]


def replay_client(path: Path, round_number: int, client: str, *, disclose: bool = False) -> Mapping[str, Any]:
    """The outcome of the client's work; if it fails, its traceback goes to stderr. `disclose` allows it for a run whose
    aggregator hides clients, and is part of the outcome. Raises IncompatibleError without it."""
    run, directory = open_stored(path)
    hidden = refuse_hidden(path, run.aggregator, "a replay shows one client's loss", disclose=disclose)
    run.partition.index(client)
    saved = [n for n in directory.checkpoints.rounds() if n < round_number]
    if not saved:
        raise ConfigError(f"{path} has no checkpoint before round {round_number}")
    with TemporaryDirectory() as scratch:
        memory = Path(scratch) / "memory"
        if directory.memory.is_dir():
            shutil.copytree(directory.memory, memory)
        repeated = _over_plain_sums(replace(run, memory_directory=memory, replays=True))
        outcome = _replay(repeated, directory, saved[-1], round_number, client)
    disclosed = {"disclosed": True} if hidden else {}
    return {"round": round_number, "client": client, "seed": run.config.seed, **disclosed, **outcome}


def _over_plain_sums(run: Run) -> Run:
    """The run without a protocol that hides updates: it is the client's work that is repeated, not what protects it,
    and the protocol's own record of the run stays as it is."""
    if not run.aggregator.hides:
        return run
    output.note(f"repeating without aggregator '{run.aggregator.name}': sums may differ by what it rounds")
    return replace(run, aggregator=PlainAggregator())


def _replay(run: Run, directory: RunDirectory, saved: int, round_number: int, client: str) -> Mapping[str, Any]:
    from flctl.client.runtime import ClientRuntime
    from flctl.engines.inprocess import InProcessEngine
    from flctl.server.rounds import Rounds
    from flctl.server.training import state_of

    engine = InProcessEngine()
    with engine.open(run):
        rounds = Rounds(run, engine)
        state = state_of(directory.checkpoints.load(saved, rounds.model))
        while state.round < round_number - 1:
            output.note(f"repeating round {state.round + 1}, to reach round {round_number}")
            state, _ = rounds.play(state, last=lambda seconds: False)
        plan = rounds.plan(state)
    # A secret cohort was drawn by the operating system and is drawn anew here: it says nothing of the round.
    in_cohort = None if run.secret_cohort else client in plan.cohort
    try:
        reply, _ = ClientRuntime(run).reply(client, Request(round_number, plan.work, b""), b"")
    except Exception as error:  # whatever the client's code raises is what the user wants to see
        traceback.print_exc(file=sys.stderr)
        return {"in_cohort": in_cohort, "failed": type(error).__name__, "message": str(error)}
    return {"in_cohort": in_cohort, "failed": None, "bytes_up": len(reply.message), **reply.metrics}
