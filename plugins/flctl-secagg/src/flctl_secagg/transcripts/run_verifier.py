"""Verification of a whole run: its transcripts as one hash chain, compared with the journal, the metrics, the
checkpoints and the server's ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flctl import IntegrityError
from flctl.errors import counted
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.server.journal import JOURNAL, TRANSCRIPTS, Journal, Outcome, chained
from flctl_secagg.server.survivor_lists import SERVER
from flctl_secagg.transcripts.recording import SHOWN
from flctl_secagg.transcripts.verifier import Verdict, verify

__all__ = ["verify_run"]


def verify_run(run: Path, operator: bytes | None = None, remembered: Path | None = None) -> list[Verdict]:
    """Verifies all recorded sessions of a run; returns their verdicts, in order. `remembered`: clients' own record (the
    ledger in their directory of keys), whose heads of the past have to be this run's.

    Raises IntegrityError if a session is missing, duplicated or out of order, if it contradicts the journal, the
    metrics, the checkpoints or the ledger, or if `verify` raises it.
    """
    home = run / "secagg"
    outcomes = Journal(home).outcomes()
    folder = home / TRANSCRIPTS
    left = {path.name: path for path in sorted(folder.glob("*.transcript"))}
    if not left and all(one.transcript is None for one in outcomes):
        return []
    if not outcomes and left:
        raise IntegrityError(f"{home / JOURNAL} is missing, or empty", hint="Restore it: it chains the transcripts.")
    verdicts, head = [], ""
    for head, outcome in chained([*outcomes, _END]):
        if outcome is not _END:
            path = left.pop(_name(outcome), None)
            verdicts.append(_verified(path, head, outcome, operator))
    verdicts += _unfinished(list(left.values()), head, operator)
    if len({one.sid for one in verdicts}) != len(verdicts) or len({one.operator for one in verdicts}) > 1:
        raise IntegrityError(f"{folder}: a session is duplicated, or rosters have different operators")
    if remembered is not None and verdicts:
        _check_remembered(remembered, verdicts)
    training = {one.sid for one in verdicts if one.trains}
    _check_rounds(run, [one for one in outcomes if one.sid in training])
    _check_ledger(home, outcomes)
    _check_summary(run / "summary.json", max((one.round for one in outcomes), default=0))
    return verdicts


_END = Outcome(0, "", "ended")


def _name(outcome: Outcome) -> str:
    return f"round-{outcome.round:05d}-{outcome.sid[:SHOWN]}.transcript"


def _verified(path: Path | None, head: str, outcome: Outcome, operator: bytes | None) -> Verdict:
    """Verifies the session of an outcome; `head` is the digest of the journal before it."""
    if path is None:
        raise IntegrityError(
            f"the transcript {_name(outcome)} is missing", hint="Restore it: the journal has its outcome."
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != outcome.transcript:
        raise IntegrityError(f"{path.name} differs from the transcript in the journal (SHA-256 differs)")
    verdict = verify(path, operator, cut=outcome.end == "cut")
    if verdict.previous != head:
        raise IntegrityError(f"{path.name} follows other sessions than in the journal")
    recorded = (verdict.sid, verdict.round, verdict.refused is None)
    if recorded != (outcome.sid, outcome.round, outcome.end == "summed"):
        raise IntegrityError(f"{path.name} has another session, or outcome, than the journal")
    if outcome.end == "summed" and verdict.survivors != outcome.survivors:
        raise IntegrityError(f"{path.name} has other survivors than the journal")
    return verdict


def _unfinished(left: Sequence[Path], head: str, operator: bytes | None) -> list[Verdict]:
    """Verifies a last transcript without an outcome: the server was stopped during its session."""
    found = [verify(path, operator, cut=True) for path in left[:1]]
    if len(left) > 1 or any(one.previous != head or one.refused is None for one in found):
        raise IntegrityError(f"the journal does not have the transcript {left[0].name}")
    return found


def _check_rounds(run: Path, outcomes: Sequence[Outcome]) -> None:
    """Raises IntegrityError if a line of metrics.jsonl contradicts its round's outcome, or a checkpoint has none."""
    ends = {one.round: one for one in outcomes if one.is_end_of("train")}
    for round_number, answered in _lines(run / "metrics.jsonl"):
        one = ends.get(round_number)
        expected = None if one is None else len(one.survivors) if one.end == "summed" else 0
        if answered != expected:
            raise IntegrityError(
                f"metrics.jsonl: round {round_number} has {counted(answered, 'answer')}, and the journal {expected}"
            )
    for path in sorted((run / "checkpoints").glob("round-*")):
        round_number = int(path.name.removeprefix("round-"))
        if round_number and round_number not in ends:
            raise IntegrityError(f"{path.name} is a checkpoint of a round without a recorded session")


def _check_summary(path: Path, last: int) -> None:
    """Raises IntegrityError if the run's summary, where there is one, counts more rounds than the journal."""
    if not path.is_file():
        return  # the run has not finished
    try:
        rounds = int(json.loads(path.read_bytes())["rounds"])
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is not the summary of a run") from error
    if rounds > last:
        raise IntegrityError(f"{path.name} counts {counted(rounds, 'round')}, and the journal ends in round {last}")


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    if not path.is_file():
        raise IntegrityError(f"{path} is missing")
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            line = json.loads(text)
            yield int(line["round"]), int(line["answered"])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path} has a line that is not a round's metrics") from error


def _check_remembered(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Raises IntegrityError if a client remembers a session that the transcripts do not have, or after another past."""
    known = {(bytes.fromhex(one.previous), bytes.fromhex(one.sid)) for one in verdicts}
    for client, run, head, sid in Ledger(path).heads():
        if run == verdicts[0].run and (head, sid) not in known:
            raise IntegrityError(f"client '{client}' remembers another past of run '{run}' than the transcripts have")


def _check_ledger(home: Path, outcomes: Sequence[Outcome]) -> None:
    """Raises IntegrityError if the server's ledger has survivors of a round that the journal does not have."""
    path = home / "ledger.sqlite"
    if not path.is_file():
        return  # with a directory of keys, the ledger is there, not in the run
    known = {(one.round, one.survivors) for one in outcomes if one.end in ("summed", "burnt")}
    for run in Ledger(path, synced=False).runs(SERVER):
        for opening in Ledger(path, synced=False).openings(SERVER, run):
            if (opening.round, opening.survivors) not in known:
                raise IntegrityError(f"the ledger has other survivors of round {opening.round} than the journal")
