"""Plans and ledgers as the command line shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from flctl import ConfigError

from flctl_dp.accounting.accountants import Accountant, guarantee
from flctl_dp.accounting.calibration import affordable, calibrate
from flctl_dp.accounting.releases import RELATIONS, SAMPLINGS, Relation, Release, Sampling
from flctl_dp.budget.charging import statement
from flctl_dp.budget.terms import LEDGER
from flctl_dp.ledgers.ledger import Ledger, LedgerFile
from flctl_dp.noise.banded_factor import bands_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Plan",
    "Question",
    "either",
    "envelope",
    "find_ledger",
    "grid",
    "is_kept",
    "read_ledger",
    "render",
    "render_plans",
    "render_spent",
    "spent",
]


@dataclass(frozen=True, slots=True)
class Question:
    """What all plans of a grid have in common."""

    population: int
    delta: float
    sampling: str
    relation: str | None
    accountant: str
    max_cohort: int | None = None
    bands: int | None = None

    def check(self) -> None:
        """Raises ConfigError for a word that is none."""
        for what, word, known in (
            ("--sampling", self.sampling, SAMPLINGS),
            ("--relation", self.relation, (None, *RELATIONS)),
            ("--accountant", self.accountant, get_args(Accountant)),
        ):
            if word not in known:
                raise ConfigError(f"{what} is '{word}'", hint=f"Take {', '.join(str(k) for k in known if k)}.")
        for what, given, needed in (("--max-cohort", self.max_cohort, "poisson"), ("--bands", self.bands, "cyclic")):
            if given is not None and self.sampling != needed:
                raise ConfigError(f"{what} has no meaning with --sampling {self.sampling}", hint=f"Take {needed}.")

    def release(self, cohort: float, noise: float) -> Release:
        """A round with `cohort` clients on average."""
        if not 0 < cohort <= self.population:
            raise ConfigError(f"--cohort is {cohort:g}, expected between 0 and the {self.population} clients there are")
        if self.sampling == "poisson":
            most = self.max_cohort or 0
            size = self.population if most else 0
            return Release("poisson", noise, rate=cohort / self.population, population=size, max_cohort=most)
        if self.sampling in ("fixed", "cyclic") and cohort != int(cohort):
            raise ConfigError(f"--cohort is {cohort:g}, and a {self.sampling} cohort is a whole number of clients")
        if self.sampling == "fixed":
            return Release("fixed", noise, cohort=int(cohort), population=self.population)
        if self.sampling == "cyclic":
            separation = self.population // int(cohort)
            bands = bands_of(self.bands, separation)
            return Release("cyclic", noise, bands=bands, separation=separation, place=1)
        return Release(cast(Sampling, self.sampling), noise)


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan and what it costs: against who sees the release, and against the server, who sees who took part."""

    cohort: float
    rounds: int
    noise_multiplier: float
    epsilon: float
    server_epsilon: float
    relation: str
    accountant: str
    statement: str

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def grid(
    question: Question,
    cohorts: Sequence[float],
    rounds: Sequence[int],
    noises: Sequence[float],
    targets: Sequence[float],
) -> list[Plan]:
    """A plan for each combination. Raises ConfigError unless either noises or targets are given."""
    question.check()
    return [
        _plan(question, cohort, count, noise, target)
        for cohort in cohorts
        for count in rounds
        for noise, target in either(noises, targets)
    ]


def either(noises: Sequence[float], targets: Sequence[float]) -> list[tuple[float, float | None]]:
    """(noise, target) of each: the noise, or one to begin with and the target that it is to be found for. Raises
    ConfigError unless one of both is given."""
    if bool(noises) == bool(targets):
        raise ConfigError("give either --noise-multiplier or --target-epsilon", hint="Each may be given several times.")
    return [*((noise, None) for noise in noises), *((1.0, target) for target in targets)]


def _plan(question: Question, cohort: float, rounds: int, noise: float, target: float | None) -> Plan:
    release = question.release(cohort, noise)
    relation: Any = question.relation or release.default_relation()
    release.check_relation(relation)
    accountant = cast(Accountant, question.accountant)
    if target is not None:
        noise = calibrate(release, rounds, target, question.delta, relation, accountant=accountant)
        release = replace(release, noise_multiplier=noise)
    releases = release.over(rounds)
    found = guarantee(releases, question.delta, relation, "release", accountant)
    seen = guarantee(releases, question.delta, relation, "server", accountant)
    line = statement(releases, question.delta, relation)
    return Plan(cohort, rounds, noise, found.epsilon, seen.epsilon, relation, found.accountant, line)


def render(console: Console, plans: Sequence[Plan]) -> None:
    """The plans of rounds in words."""
    columns = {
        "clients a round": "cohort",
        "rounds": "rounds",
        "noise": "noise_multiplier",
        "epsilon (release)": "epsilon",
        "epsilon (server)": "server_epsilon",
        "relation": "relation",
        "by": "accountant",
    }
    render_plans(console, plans, columns)


def render_plans(console: Console, plans: Sequence[Any], columns: Mapping[str, str]) -> None:
    """One plan as a sentence, several as a table with the columns title -> attribute."""
    if len(plans) == 1:
        console.print(f"noise multiplier {plans[0].noise_multiplier:.4g}\n{plans[0].statement}", markup=False)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in columns:
        table.add_column(title, justify="right")
    for one in plans:
        cells = (getattr(one, name) for name in columns.values())
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)


def find_ledger(path: Path) -> LedgerFile:
    """The ledger at `path`, or in the partition there."""
    return LedgerFile(path / LEDGER if path.is_dir() else path)


def is_kept(file: LedgerFile) -> bool:
    """Whether a ledger is or was there."""
    return file.path.is_file() or file.path.with_name(file.path.name + ".head").is_file()


def read_ledger(file: LedgerFile) -> Ledger:
    """The ledger. Raises ConfigError where there is none, IntegrityError where it was changed."""
    ledger = file.read()
    if ledger is None:
        raise ConfigError(f"{file.path} is no ledger: nothing was released, or it lies elsewhere")
    return ledger


def spent(file: LedgerFile, delta: float, target: float | None) -> dict[str, Any]:
    """What a ledger comes to, for the population and for each run, and what is left of `target`."""
    ledger = read_ledger(file)
    releases, relation = ledger.releases(), ledger.relation
    runs = list(dict.fromkeys(charge.run for charge in ledger.charges))
    data: dict[str, Any] = {
        "ledger": file.path.as_posix(),
        "population": ledger.population,
        "relation": relation,
        "delta": delta,
        "charges": len(ledger.charges),
        "epsilon": guarantee(releases, delta, relation).epsilon,
        "server_epsilon": guarantee(releases, delta, relation, "server").epsilon,
        "runs": [_of_run(ledger, run, delta, relation) for run in runs],
        "statement": statement(releases, delta, relation),
    }
    if target is not None and ledger.charges:
        last = ledger.charges[-1]
        release = last.release
        left = affordable(releases, release, 1 << 20, target, delta, relation, first=last.round + 1)
        data |= {"target_epsilon": target, "rounds_left": left, "like": str(release)}
    return data


def _of_run(ledger: Ledger, run: str, delta: float, relation: Relation) -> dict[str, Any]:
    releases = ledger.releases(run)
    epsilon = guarantee(releases, delta, relation).epsilon
    return {"run": run, "charges": sum(releases.values()), "epsilon": epsilon}


def render_spent(console: Console, data: Mapping[str, Any]) -> None:
    """A ledger in words."""
    console.print(f"{data['charges']} releases of the population {data['population'][:24]}", markup=False)
    console.print(data["statement"], markup=False)
    for run in data["runs"]:
        console.print(f"  run {run['run'][:12]}: {run['charges']} releases, eps={run['epsilon']:.4g}", markup=False)
    if "rounds_left" in data:
        said = f"{data['rounds_left']} more such rounds ({data['like']}) stay within eps={data['target_epsilon']:g}"
        console.print(said, markup=False)


def envelope(command: str, data: Mapping[str, Any]) -> str:
    """flctl's JSON envelope of a result; an infinite epsilon is null."""
    return json.dumps({"flctl": 1, "command": command, "ok": True, "data": _finite(data)}, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
