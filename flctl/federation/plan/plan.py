"""The plan of a run at real sites: everything that decides what runs there, as one value with one digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flctl.errors import IntegrityError, ProtocolError
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.names import require_name
from flctl.federation.plan.moments import moment
from flctl.federation.plan.studies import Study
from flctl.federation.reasons import Reason, Refused

__all__ = [
    "ASKS",
    "MOST_BYTES",
    "PURPOSE",
    "Ask",
    "DataFacts",
    "Derived",
    "InstalledFiles",
    "Plan",
    "Versions",
]

PURPOSE = "flctl/plan/1"
"""Purpose of a coordinator's signature on a plan."""
MOST_BYTES = 4 << 20
"""Largest plan. One of 500 sites takes about 40 KB."""
MOST_TEXT = 2000
Ask = Literal["train", "evaluate", "statistics"]
ASKS: tuple[Ask, ...] = ("train", "evaluate", "statistics")
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
DIGEST = re.compile(r"[0-9a-f]{64}")
_CODES = (*range(0x7F, 0xA0), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
_HIDDEN = re.compile(rb"\\[bfnrtu]|" + b"|".join(chr(code).encode() for code in _CODES))
"""Control characters, as canonical JSON writes them, and marks that change the direction or have no width."""


@dataclass(frozen=True)
class InstalledFiles:
    """A plugin as it is installed: its distribution and the SHA-256 of its files.

    `record` is the SHA-256 of the distribution's RECORD. An editable installation has no list of its files: it is then
    that of the files themselves, and `editable` is True.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    distribution: str
    version: str
    record: str
    editable: bool = False


@dataclass(frozen=True)
class Versions:
    """Versions that a run's numbers depend on, and the files of the plugins that it uses, by plugin name."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    flctl: str
    torch: str
    numpy: str
    plugins: Mapping[str, InstalledFiles] = field(default_factory=dict)


@dataclass(frozen=True)
class Derived:
    """Values that a run computes from all clients' declared rows and from the seed.

    They are fixed by the plan, because a site that holds one client's rows must not compute others. `steps` are the
    local steps of each site in a round, in the order of the plan's sites; `max_weight` is the weight of the client with
    the most rows after the transforms; `aggregator` are the aggregator's own values. `model` is the SHA-256 of the
    initial model. `layout` is that of an update, `broadcast` that of what a round sends: "params", "extra:NAME" and
    "transform:TRANSFORM:NAME"; `types` are the number types of the latter, as "<f4".
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    executor: str
    alone: bool
    memory: int
    cohort: Mapping[str, str | int | float]
    steps: tuple[int, ...]
    max_weight: float
    aggregator: Mapping[str, str | int | float | bool | None]
    preprocess: Mapping[str, Any]
    model_name: str
    model: str
    parameters: int
    layout: Mapping[str, int]
    memory_layout: Mapping[str, int]
    broadcast: Mapping[str, int]
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFacts:
    """The federated data directory: its digest, the task, and the rows that each site declared.

    `rows` are (training rows, test rows) of each site, in the order of the plan's sites.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    digest: str
    schema: str
    task: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Plan:
    """Everything that decides what runs at the sites. A site approves its `digest`, and nothing else runs there.

    `roster` is the digest of the federation's roster, `until` the last moment of the run as an ISO date or UTC time,
    `config` the effective configuration after all defaults, `files` the SHA-256 of each file of user code by name,
    `ask` what the sites are asked for, `study` the ranges that the plan belongs to, if it is part of a study.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    federation: str
    run: str
    coordinator: str
    purpose: str
    roster: str
    sites: tuple[str, ...]
    rounds: int
    until: str
    config: Mapping[str, Any]
    derived: Derived
    versions: Versions
    files: Mapping[str, str]
    data: DataFacts
    ask: tuple[Ask, ...] = ("train", "evaluate")
    study: Study | None = None
    format: Literal["flctl-plan/1"] = "flctl-plan/1"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def tree(self) -> dict[str, Any]:
        """Returns the plan as plain nested values."""
        return asdict(self)

    def to_json(self) -> bytes:
        """Returns the plan as canonical JSON."""
        return canonical(self.tree())

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Reads a plan. Raises Refused with the reason `plan-form` unless the text is the canonical one of a plan, or
        for characters that a person who reviews it does not see."""
        if _HIDDEN.search(text):
            raise Refused(Reason.PLAN_FORM)
        try:
            parse(text, MOST_BYTES)
            plan: Self = _adapter().validate_json(text)
        except (ProtocolError, ValidationError) as error:
            raise Refused(Reason.PLAN_FORM) from error
        plan.check()
        if plan.to_json() != text:  # a number as 1 where a plan writes 1.0 would have a second digest
            raise Refused(Reason.PLAN_FORM)
        return plan

    def site_index(self, site: str) -> int:
        """Returns the position of a site. Raises Refused with the reason `plan-sites` if it is not listed."""
        if site not in self.sites:
            raise Refused(Reason.PLAN_SITES)
        return self.sites.index(site)

    def check(self) -> None:
        """Raises Refused with the reason `plan-form` if names, digests, dates or numbers of entries do not fit."""
        try:
            for name, kind in ((self.federation, "federation"), (self.coordinator, "coordinator"), (self.run, "run")):
                require_name(name, kind)
            for site in self.sites:
                require_name(site, "site")
            if self.study is not None:
                self.study.check()
            moment(self.until)
        except (IntegrityError, ValueError) as error:
            raise Refused(Reason.PLAN_FORM) from error
        if not all(self._facts()):
            raise Refused(Reason.PLAN_FORM)

    def _facts(self) -> tuple[bool, ...]:
        digests = (self.roster, self.derived.model, *self.files.values())
        records = tuple(plugin.record for plugin in self.versions.plugins.values())
        return (
            bool(self.sites) and len(set(self.sites)) == len(self.sites),
            len(self.sites) == len(self.data.rows) == len(self.derived.steps),
            0 < len(self.purpose) <= MOST_TEXT and self.purpose.isprintable(),
            all(DIGEST.fullmatch(digest) for digest in (*digests, *records)),
            self.rounds >= 1 and self.config.get("rounds") == self.rounds,
            bool(self.ask) and len(set(self.ask)) == len(self.ask),
            all(min(rows) >= 0 for rows in self.data.rows),
            all(steps >= 0 for steps in self.derived.steps),
            self.derived.parameters >= 1 and self.derived.alone,
        )


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Plan)
