"""Verification of a run's models: each checkpoint follows from the sums that the clients' signed messages give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from flctl import Aggregate, ConfigError, DataError, IncompatibleError, IntegrityError, MissingExtraError, PluginError
from flctl_secagg.encoding.packing import lane, unpack
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.asked_work import config_digest, work_digest
from flctl_secagg.protocol.session import Session
from flctl_secagg.transcripts.recording import PUBLISHED, ROSTER, SENT, Entry, read_entries, session_of
from flctl_secagg.transcripts.verifier import Verdict

if TYPE_CHECKING:
    from flctl import RunInfo, Work
    from flctl.server.model_check import ModelOrigin, RecordedRound

__all__ = ["ModelVerdict", "verify_models"]


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """Rounds of a run's checkpoints, by the way in which each model is tied to the sessions.

    `recomputed`: it follows from the published sums. `bound`: the server added secret noise, and the clients of the
    next round signed this model. `unbound`: the server added secret noise, and no round followed.
    """

    recomputed: tuple[int, ...] = ()
    bound: tuple[int, ...] = ()
    unbound: tuple[int, ...] = ()


def verify_models(path: Path, verdicts: Sequence[Verdict]) -> ModelVerdict:
    """Verifies the checkpoints of a run whose sessions `verify_run` verified. It repeats the server's part of each
    round and trains nothing, but opens the run with its partition, plugins and versions of torch and numpy.

    Raises IntegrityError if a model is not that of the sessions, or if the sessions had another configuration;
    IncompatibleError without the partition, a plugin or the versions.
    """
    from flctl.cli.train.job import open_stored
    from flctl.server.model_check import check_models

    try:
        run, directory = open_stored(path)
        origins = check_models(run, directory, _recorded(path / "secagg" / "transcripts", verdicts, run))
    except (ConfigError, DataError, IncompatibleError, MissingExtraError, PluginError) as error:
        raise IncompatibleError(
            f"the models cannot be compared with the sums: {error.message}",
            hint="Restore it, or use --sessions-only to verify the sessions alone.",
        ) from error
    return ModelVerdict(*(_rounds(origins, origin) for origin in ("recomputed", "bound", "unbound")))


def _rounds(origins: Mapping[int, ModelOrigin], origin: ModelOrigin) -> tuple[int, ...]:
    return tuple(sorted(round_number for round_number, found in origins.items() if found == origin))


def _recorded(folder: Path, verdicts: Sequence[Verdict], run: RunInfo) -> Iterable[RecordedRound]:
    """Returns the rounds of the sessions, ascending. Of a round that was repeated after a crash, the last sum counts.

    Raises IntegrityError if a session is for another configuration than the run's.
    """
    rounds: dict[int, list[_Recorded]] = {}
    for verdict in verdicts:
        one = _Recorded(folder / verdict.file, verdict)
        if one.session.parameters.config != config_digest(run.config):
            raise IntegrityError(
                f"{verdict.file} is a session of another configuration than the run's config.yaml",
                hint="Restore config.yaml: the clients of the session signed the digest of the original.",
            )
        if verdict.trains:
            rounds.setdefault(verdict.round, []).append(one)
    return (_round(round_number, attempts) for round_number, attempts in sorted(rounds.items()))


@dataclass(frozen=True)
class _Recorded:
    path: Path
    verdict: Verdict

    @cached_property
    def session(self) -> Session:
        return session_of(self._entries(frames.HELLO), self.path)

    def released(self) -> Aggregate:
        """Returns the sum that the transcript publishes."""
        published = next(one.message for one in self._entries(PUBLISHED) if (one.way, one.kind) == (SENT, PUBLISHED))
        parameters, survivors = self.session.parameters, len(self.verdict.survivors)
        words = unpack(published, 64, parameters.words).astype(lane(parameters.bits))
        decoded = self.session.encoding.decode(words, survivors)
        return Aggregate(decoded.arrays, decoded.weight, survivors)

    def _entries(self, kind: int) -> list[Entry]:
        return [one for one in read_entries(self.path, cut=True) if one.kind in (ROSTER, kind)]


def _round(round_number: int, attempts: Sequence[_Recorded]) -> RecordedRound:
    from flctl.server.model_check import RecordedRound

    summed = [one for one in attempts if one.verdict.refused is None]
    return RecordedRound(
        round=round_number,
        cohort=attempts[0].session.parameters.cohort,
        aggregate=summed[-1].released() if summed else None,
        sent=partial(_were_sent, attempts),
    )


def _were_sent(attempts: Sequence[_Recorded], work: Work) -> bool:
    digest = work_digest(work)
    return all(one.session.parameters.work == digest for one in attempts)
