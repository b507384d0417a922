"""Files of a run at its coordinator: its name at the hub, its secret, its plan, and the decisions of the sites."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flctl.atomic import write_file
from flctl.errors import IntegrityError
from flctl.federation.identity.secret_files import read_secret, write_secret
from flctl.federation.plan.plan import Plan

__all__ = ["RunFolder"]

FOLDER, SECRET, PLAN, RUN, DECISIONS = "federation", "secret", "plan.json", "run.json", "decisions.json"
NOTICES = "notices.json"
SECRET_BYTES = 32
NAME_LENGTH = 48


@dataclass(frozen=True)
class RunFolder:
    """The folder `federation/` of a run directory."""

    path: Path

    @classmethod
    def of(cls, run_directory: Path) -> RunFolder:
        """The folder in a run directory, made if it is not there."""
        path = run_directory / FOLDER
        (path / "blobs").mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(path)

    @property
    def blobs(self) -> Path:
        """Folder of blobs in use."""
        return self.path / "blobs"

    @property
    def name(self) -> str:
        """The run's name at the hub and the sites: that of its directory and six random digits."""
        return str(self._facts()["run"])

    @property
    def asked(self) -> float:
        """Time at which the sites were first asked, in seconds since 1970."""
        return float(self._facts()["asked"])

    def secret(self) -> bytes:
        """The secret from which the keys of the run's blobs are derived: a repeated round makes the same blobs."""
        file = self.path / SECRET
        if not file.exists():
            write_secret(file, secrets.token_bytes(SECRET_BYTES))
        return read_secret(file)

    def plan(self) -> Plan | None:
        """The run's plan; None before it was made."""
        file = self.path / PLAN
        return Plan.from_json(file.read_bytes()) if file.exists() else None

    def keep_plan(self, plan: Plan) -> None:
        """Records the plan, once."""
        write_file(self.path / PLAN, plan.to_json(), replace=False)

    def decisions(self) -> dict[str, dict[str, Any]]:
        """The sites' decisions on the plan, by site."""
        return _read(self.path / DECISIONS)

    def keep_decision(self, site: str, decision: Mapping[str, Any]) -> None:
        """Records a site's decision in place of its former one."""
        known = {**self.decisions(), site: dict(decision)}
        write_file(self.path / DECISIONS, (json.dumps(known, indent=1) + "\n").encode())

    def next_notice(self) -> int:
        """The number of the run's next notice, from 1; on disk when this returns."""
        file = self.path / NOTICES
        number = int(_read(file).get("last", 0)) + 1
        write_file(file, (json.dumps({"last": number}) + "\n").encode())
        return number

    def _facts(self) -> dict[str, Any]:
        file = self.path / RUN
        if not file.exists():
            word = re.sub(r"[^a-z0-9]+", "-", self.path.resolve().parent.name.lower()).strip("-")[:NAME_LENGTH]
            facts = {"run": f"{word.strip('-') or 'run'}-{secrets.token_hex(3)}", "asked": time.time()}
            write_file(file, (json.dumps(facts) + "\n").encode())
        return _read(file)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{path} is not JSON", hint="Restore it from a backup.") from error
    return dict(value)
