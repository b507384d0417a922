"""Files of one run at a site: its plan as it was asked, client memory, and the aggregator's memory between phases."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flctl.atomic import write_file
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.names import require_name
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused

__all__ = ["SiteRun"]

PLAN, ENVELOPE, PHASES, MEMORY, INCOMING = "plan.json", "plan.envelope", "phases", "memory", "incoming"


@dataclass(frozen=True)
class SiteRun:
    """The folder `runs/RUN` of a site's home."""

    path: Path

    @classmethod
    def of(cls, home: SiteHome, run: str) -> SiteRun:
        """The folder of a run, which need not exist. Raises UntrustedError for an invalid name."""
        return cls(home.runs / require_name(run, "run"))

    @classmethod
    def all(cls, home: SiteHome) -> Iterator[SiteRun]:
        """The runs that have a plan, by name."""
        for file in sorted(home.runs.glob(f"*/{PLAN}")):
            yield cls(file.parent)

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def memory(self) -> Path:
        """Folder of client memory, which the worker writes."""
        return self.path / MEMORY

    @property
    def incoming(self) -> Path:
        """Folder of blobs that arrive."""
        (self.path / INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.path / INCOMING

    def plan(self) -> Plan:
        """The plan that was asked. Raises Refused (`plan-unknown`) without one."""
        file = self.path / PLAN
        if not file.exists():
            raise Refused(Reason.PLAN_UNKNOWN)
        return Plan.from_json(file.read_bytes())

    def has_plan(self) -> bool:
        """True if the run's plan arrived."""
        return (self.path / PLAN).exists()

    def keep_plan(self, plan: bytes, envelope: bytes) -> bool:
        """Records a plan and the coordinator's signed envelope, once; False if this plan is there.

        Raises Refused (`plan-run`) if the run has another plan.
        """
        file = self.path / PLAN
        if file.exists():
            if file.read_bytes() != plan:
                raise Refused(Reason.PLAN_RUN)
            return False
        write_file(self.path / ENVELOPE, envelope)
        write_file(file, plan)
        return True

    def phase_memory(self, round_number: int, attempt: int, phase: int) -> bytes:
        """The aggregator's memory from the last phase before `phase`; empty in a round's first phase."""
        files = {
            int(file.name.split("-")[2]): file for file in (self.path / PHASES).glob(f"{round_number}-{attempt}-*")
        }
        before = [number for number in files if number < phase]
        return files[max(before)].read_bytes() if before else b""

    def keep_phase_memory(self, round_number: int, attempt: int, phase: int, memory: bytes) -> None:
        """Records the aggregator's memory for the phases after `phase`."""
        if memory or (phase > 1 and self.phase_memory(round_number, attempt, phase)):
            write_file(self.path / PHASES / f"{round_number}-{attempt}-{phase}", memory)

    def settle(self, round_number: int) -> None:
        """Removes the aggregator's memory of rounds up to `round_number`."""
        for file in (self.path / PHASES).glob("*-*-*"):
            if int(file.name.partition("-")[0]) <= round_number:
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes blobs that arrived."""
        shutil.rmtree(self.path / INCOMING, ignore_errors=True)
