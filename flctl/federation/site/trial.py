"""One step of a plan on made-up rows in the site's own confined worker: what runs is seen before it is approved."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl.config.config import Config
from flctl.errors import DataError
from flctl.federation.identity.homes import SiteHome
from flctl.federation.plan.plan import Plan
from flctl.federation.schema.mock import mock_rows
from flctl.federation.schema.read import open_schema
from flctl.federation.site.data import pack
from flctl.federation.site.packing import SCHEMA_FILE
from flctl.federation.site.settings import read_settings
from flctl.federation.site.worker import SiteWorker, WorkerSettings, site_manifest
from flctl.partition.federated import SiteData
from flctl.partition.federated_files import federated_data
from flctl.partition.store import Partition
from flctl.types import Outgoing, Work
from flctl.wire import messages

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["TrialStep", "try_plan"]


@dataclass(frozen=True, slots=True)
class TrialStep:
    """Outcome of a trial: the vectors that would leave the site by name and length, their bytes, figures, seconds."""

    vectors: Mapping[str, int]
    bytes: int
    metrics: Mapping[str, float]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "vectors": dict(self.vectors),
            "bytes": self.bytes,
            "metrics": dict(self.metrics),
            "seconds": round(self.seconds, 3),
        }


def try_plan(home: SiteHome, site: str, plan: Plan, registry: Catalogue) -> TrialStep:
    """Trains the first round of a plan on made-up rows of the schema, as many as the site declared.

    Nothing is sent, and no row of the site is read. Raises Refused (`derived-changed` among others) if the worker does
    not open the plan, DataError if training fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="try-", dir=home.path))
    try:
        made = _made_up(SiteHome(folder), home, site, plan)
        work = _first_work(made, site, plan, registry)
        prefix = read_settings(home.path).worker.prefix
        worker = SiteWorker(made, site, plan, registry, WorkerSettings(prefix))
        try:
            return _trained(worker, work)
        finally:
            worker.end()
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


def _made_up(made: SiteHome, home: SiteHome, site: str, plan: Plan) -> SiteHome:
    """A home with the schema of `home` and made-up rows."""
    if not (home.path / SCHEMA_FILE).exists():
        raise DataError("this site has packed no data", hint="flctl site data FILE --schema SCHEMA")
    schema = open_schema(home.path / SCHEMA_FILE)
    shutil.copy(home.path / SCHEMA_FILE, made.path / SCHEMA_FILE)
    train, test = plan.data.rows[plan.site_index(site)]
    rows = mock_rows(schema, train + test, 0, site)
    pack(made.data, schema, {site: rows}, test / (train + test) if test else 0.0)
    return made


def _first_work(made: SiteHome, site: str, plan: Plan, registry: Catalogue) -> bytes:
    """The first round's work, as the coordinator would send it."""
    from flctl import arrays
    from flctl.federation.site.checks import scheduled_work
    from flctl.run.run import Run
    from flctl.server.state import initial_state

    data = federated_data(site_manifest(made, plan), made.data)
    view = SiteData(data, Partition.open(made.data), site)
    run = Run.build(Config.model_validate(plan.config), registry, view, made.path / "memory")
    state = initial_state(run, run.build_model().read())
    broadcasts = {name: one.broadcast(state.transforms[name]) for name, one in run.transforms.items()}
    work = Work(
        round=1,
        params=arrays.frozen(run.division.public_of(state.params)),
        extra=arrays.frozen(run.strategy.broadcast(state.strategy)),
        transforms={name: vectors for name, vectors in broadcasts.items() if vectors},
        local=scheduled_work(plan, 1),
        layout=run.update_layout,
    )
    return messages.pack_work(work)


def _trained(worker: SiteWorker, work: bytes) -> TrialStep:
    started = time.perf_counter()
    sent = worker.train(work)
    if not isinstance(sent, Outgoing):
        raise DataError(f"the step failed on made-up rows: {sent.kind}: {sent.message}")
    sizes = {name: int(vector.size) for name, vector in sent.vectors.items()}
    size = sum(int(vector.nbytes) for vector in sent.vectors.values())
    return TrialStep(sizes, size, sent.metrics, time.perf_counter() - started)
