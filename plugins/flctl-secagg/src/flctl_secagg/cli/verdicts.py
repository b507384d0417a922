"""Lines of `flctl secagg verify` about sessions, models and what was not checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flctl.errors import counted

if TYPE_CHECKING:
    from flctl_secagg.transcripts.models import ModelVerdict
    from flctl_secagg.transcripts.verifier import Verdict

__all__ = ["model_lines", "session_lines", "unchecked_lines"]


def session_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Returns a line for each session."""
    return [_session_line(one) for one in verdicts]


def _session_line(one: Verdict) -> str:
    name = f"round {one.round}, attempt {one.attempt}"
    if one.refused:
        return f"{name}: refused: {one.refused}"
    short = f", {one.short} too short to test" if one.short else ""
    unsigned = f", not signed by {', '.join(one.unsigned)}" if one.unsigned else ""
    clients = f"{len(one.survivors)} of {counted(one.asked, 'client')}"
    return f"{name}: correct, {clients}, {counted(one.masked, 'vector')} masked{short}{unsigned}"


def model_lines(models: ModelVerdict) -> list[str]:
    """Returns a line for each way in which checkpoints are tied to the sessions."""
    lines = []
    if models.recomputed:
        lines.append(f"models that follow from the sums: {_checkpoints(models.recomputed)}")
    if models.bound:
        lines.append(
            f"models with secret noise of the server, which the clients of the next round signed: "
            f"{_checkpoints(models.bound)}"
        )
    if models.unbound:
        lines.append(
            f"models with secret noise of the server, which nothing but the server vouches for: "
            f"{_checkpoints(models.unbound)}"
        )
    return lines


def _checkpoints(rounds: Sequence[int]) -> str:
    named = "checkpoint" if len(rounds) == 1 else "checkpoints"
    return f"{named} {', '.join(map(str, rounds))}"


def unchecked_lines(*, chain: bool, models: bool, pinned: bool) -> list[str]:
    """Returns lines about checks that were not made: of the chain of sessions, the models, and the operator."""
    lines = []
    if not chain:
        lines.append("only one transcript: name the run to check that no transcript is missing")
    if chain and not models:
        lines.append("the models of the checkpoints were not compared with the sums")
    if not pinned:
        lines.append(
            "the roster's signature was not checked against a known key: use --operator with the operator's public key"
        )
    return lines
