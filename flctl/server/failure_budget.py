"""The number of clients that may fail in a round before the round is given up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flctl.errors import DivergenceError, ProtocolError, RoundFailedError, command_line
from flctl.run.run import Run
from flctl.types import ClientId, Failure, RoundPlan

__all__ = ["FailureBudget"]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """Compares a round's failures with `engine.max_failures`.

    `failed` is the mapping that the round's intake and exchanges add to; the budget only reads it.
    """

    run: Run
    plan: RoundPlan
    failed: Mapping[ClientId, Failure]

    def checked(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items, and checks the budget after each has been used."""
        for item in items:
            yield item
            self.check()

    def check(self) -> None:
        """Raises an error that names the first failed client of the cohort if more clients failed than allowed.

        DivergenceError if all failures are values that are not finite, ProtocolError if the named client refused,
        RoundFailedError otherwise.
        """
        allowed = self.run.config.engine.max_failures
        if len(self.failed) <= allowed:
            return
        client = next(client for client in self.plan.cohort if client in self.failed)
        failure = self.failed[client]
        message = (
            f"round {self.plan.round}: client '{client}' failed ({failure.kind}): {failure.message}; "
            f"{len(self.failed)} failed, max_failures is {allowed}, the seed is {self.run.config.seed}"
        )
        replay = f"Replay it with `{self._replay_command(client)}`"
        if all(found.kind == "non-finite" for found in self.failed.values()):
            lr = self.plan.work.local.lr
            raise DivergenceError(message, hint=f"Lower local.lr (it is {lr:g}). {replay}.")
        if failure.kind == "refused":
            raise ProtocolError(message, hint=f"{replay}.")
        raise RoundFailedError(message, hint=f"{replay}, or allow failing clients with --max-failures.")

    def _replay_command(self, client: ClientId) -> str:
        run = self.run.memory_directory.parent
        return command_line("flctl", "runs", "replay", run, "--round", self.plan.round, "--client", client)
