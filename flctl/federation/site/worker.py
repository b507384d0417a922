"""The worker process of one run at a site: it has the rows and runs model code; the agent keeps keys and network."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from flctl.algorithms.run_identities import RunIdentities
from flctl.client.client_half import Answer, ClientHalf
from flctl.config.config import Config
from flctl.engines.opening import Opening, SiteFacts, most_reply_bytes
from flctl.engines.worker_process import NotOpenedError, WorkerProcess
from flctl.errors import FlctlError, ProtocolError
from flctl.federation.identity.homes import SiteHome
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason, Refused
from flctl.federation.schema.read import open_schema
from flctl.federation.site.packing import SCHEMA_FILE
from flctl.federation.site.policy import code_of
from flctl.federation.site.run_files import SiteRun
from flctl.federation.site.user_code import CodeStore
from flctl.partition.federated_files import DeclaredClient, FederatedManifest, federated_data
from flctl.run.run import Run
from flctl.types import Failure, Outgoing, Request

if TYPE_CHECKING:
    from flctl.component import Catalogue

__all__ = ["SiteWorker", "WorkerSettings", "site_manifest"]

_REASONS = {reason.value: reason for reason in Reason}
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""Variables of the agent that the worker gets, beside those that the site sets; no other."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Settings of the site for its workers: a confining command before the process, and seconds for one answer."""

    prefix: tuple[str, ...] = ()
    seconds: float | None = None


class SiteWorker:
    """Trains for one run. The process is started at the first request, and again after it died."""

    def __init__(
        self,
        home: SiteHome,
        site: str,
        plan: Plan,
        registry: Catalogue,
        settings: WorkerSettings | None = None,
        identities: RunIdentities | None = None,
    ) -> None:
        self._home, self._site, self._plan, self._registry = home, site, plan, registry
        self._settings = settings or WorkerSettings()
        self._identities = identities
        self._run = SiteRun.of(home, plan.run)
        self._process: WorkerProcess | None = None
        self._half: ClientHalf | None = None
        self.answers_once = False

    def start(self) -> None:
        """Starts the process and has it open the run, unless it is there.

        Raises Refused (`derived-changed` and what the run's data are refused for), FlctlError if it cannot start.
        """
        if self._process is not None:
            return
        process = WorkerProcess(self._opening)
        try:
            outline = process.wait_until_open()
        except NotOpenedError as error:
            process.end()
            raise Refused(_REASONS.get(error.reason, Reason.DERIVED_CHANGED)) from error
        except BaseException:
            process.end()
            raise
        config = Config.model_validate(self._opening.config)
        run = Run.outlined(config, self._registry, self._opening.partition_view(), self._run.memory, outline)
        if self._identities is not None:
            run = replace(run, aggregator=run.aggregator.enrolled(self._identities))
        self._process, self._half = process, ClientHalf.of(run)
        self.answers_once = run.aggregator.answers_once

    def answer(self, request: Request, work: bytes | None, memory: bytes) -> Answer:
        """Returns the reply and the aggregator's memory for the next phase; a `Failure` in place of the reply."""
        half = self._opened()[1]
        sent = None if work is None else self.train(work)
        return half.answer(self._site, request, memory, sent)

    def train(self, work: bytes) -> Outgoing | Failure:
        """Returns the vectors of one client's work, or the failure in their place. A process that fails is ended."""
        process = self._opened()[0]
        try:
            with self._timed(process):
                sent = process.ask([self._site], work)
        except (EOFError, OSError):
            self.end()
            return Failure("worker-died", "")
        except ProtocolError:
            self.end()
            return Failure("protocol", "")
        return sent if isinstance(sent, Failure) else sent[0]

    def _opened(self) -> tuple[WorkerProcess, ClientHalf]:
        self.start()
        if self._process is None or self._half is None:
            raise FlctlError("the worker has no process", hint="This is a bug in flctl.")
        return self._process, self._half

    @property
    def pid(self) -> int | None:
        """Number of the process; None without one."""
        return None if self._process is None else self._process.pid

    def end(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.end()
        self._process = self._half = None

    def _timed(self, process: WorkerProcess) -> _Limit:
        return _Limit(process, self._settings.seconds)

    @cached_property
    def _opening(self) -> Opening:
        manifest = site_manifest(self._home, self._plan)
        facts = SiteFacts.of(federated_data(manifest, self._home.data), self._site)
        return Opening(
            config=dict(self._plan.config),
            partition=self._home.data.resolve(),
            memory=self._run.memory.resolve(),
            disabled=tuple(self._registry.disabled),
            site=facts,
            prefix=self._settings.prefix,
            environment=self._environment(),
            reply_bytes=most_reply_bytes(self._plan.derived.layout),
            plan=self._plan.to_json().decode(),
            code=self._code(),
        )

    def _code(self) -> tuple[bytes, ...]:
        """The approved code of the plan. Each file is read once and hashed: the worker runs the bytes that were hashed.

        Raises Refused (`code-not-approved`, `code-changed`).
        """
        store = CodeStore(self._home.quarantine, self._home.approved)
        return tuple(store.load(digest) for digest in sorted(code_of(self._plan)))

    def _environment(self) -> Mapping[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # Ledgers of privacy budgets lie in the site's home, not in that of the user who started the agent.
        return {**passed, "XDG_STATE_HOME": str((self._home.path / "state").resolve())}


class _Limit:
    """Kills a process that does not answer in time."""

    def __init__(self, process: WorkerProcess, seconds: float | None) -> None:
        self._timer = threading.Timer(seconds, process.kill) if seconds else None

    def __enter__(self) -> None:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, *exception: object) -> None:
        if self._timer:
            self._timer.cancel()


def site_manifest(home: SiteHome, plan: Plan) -> FederatedManifest:
    """The federated data that a plan names, from the schema that this site packed its rows by.

    Raises Refused (`derived-changed`) if it is another schema, or the plan's digest is not that of these data.
    """
    schema = open_schema(home.path / SCHEMA_FILE)
    declared = zip(plan.sites, plan.data.rows, strict=True)
    clients = tuple(DeclaredClient(site, train, test) for site, (train, test) in declared)
    manifest = FederatedManifest(plan.federation, schema.described(), schema.standardisation, clients, schema.inputs)
    if federated_data(manifest, home.data).digest != plan.data.digest:
        raise Refused(Reason.DERIVED_CHANGED)
    return manifest
