"""Plans: the epsilon of rounds before any is trained, or the noise for an epsilon."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, get_args

from flctl import ConfigError

from flctl_dp.accounting.accountants import Accountant, guarantee
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, calibrate
from flctl_dp.accounting.figures import rounded_up, weak
from flctl_dp.accounting.releases import RELATIONS, SAMPLINGS, Relation, Release, Sampling
from flctl_dp.budget.statements import statement
from flctl_dp.budget.terms import delta_warning, refuse_delta
from flctl_dp.noise.banded_factor import bands_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Asked", "Plan", "Question", "grid", "render", "render_plans", "require_known"]

Size_contra = TypeVar("Size_contra", contravariant=True)
Answer_co = TypeVar("Answer_co", covariant=True)


class Asked(Protocol, Generic[Size_contra, Answer_co]):
    """The common part of all plans of a grid."""

    def check(self) -> None:
        """Raises ConfigError for options that no plan can be made of."""

    def plan(self, size: Size_contra, rounds: int, noise: float, target: float | None) -> Answer_co:
        """The plan for a cohort or batch size, with `noise`, or with the least noise for the epsilon `target`."""


def grid(
    question: Asked[Size_contra, Answer_co],
    sizes: Sequence[Size_contra],
    rounds: Sequence[int],
    noises: Sequence[float],
    targets: Sequence[float],
) -> list[Answer_co]:
    """A plan for each combination. Raises ConfigError unless either noises or targets are given."""
    question.check()
    if bool(noises) == bool(targets):
        raise ConfigError("use either --noise-multiplier or --target-epsilon", hint="Each may be repeated.")
    pairs = [*((noise, None) for noise in noises), *((1.0, target) for target in targets)]
    return [question.plan(size, count, *pair) for size in sizes for count in rounds for pair in pairs]


def require_known(*words: tuple[str, str | None, Iterable[str | None]]) -> None:
    """Raises ConfigError unless each (option, word, known words) has a known word."""
    for option, word, known in words:
        if word not in known:
            listed = ", ".join(str(one) for one in known if one)
            raise ConfigError(f"{option} is '{word}'", hint=f"Use one of {listed}.")


@dataclass(frozen=True, slots=True)
class Question:
    """The options of `flctl dp plan` that all plans of a grid share; `population` is the number of clients."""

    population: int
    delta: float
    sampling: str
    relation: str | None
    accountant: str
    max_cohort: int | None = None
    bands: int | None = None

    def check(self) -> None:
        """Raises ConfigError for an unknown word, an option of another sampling, or a delta of 1 / clients or more."""
        require_known(
            ("--sampling", self.sampling, SAMPLINGS),
            ("--relation", self.relation, (None, *RELATIONS)),
            ("--accountant", self.accountant, get_args(Accountant)),
        )
        refuse_delta("--delta", self.delta, self.population)
        for what, given, needed in (("--max-cohort", self.max_cohort, "poisson"), ("--bands", self.bands, "cyclic")):
            if given is not None and self.sampling != needed:
                raise ConfigError(
                    f"{what} has no effect with --sampling {self.sampling}", hint=f"Use --sampling {needed}."
                )

    def release(self, cohort: float, noise: float) -> Release:
        """A round with `cohort` clients on average."""
        if not 0 < cohort <= self.population:
            raise ConfigError(
                f"--clients-per-round is {cohort:g}, expected a number above 0 and at most --clients {self.population}"
            )
        if self.sampling == "poisson":
            most = self.max_cohort or 0
            size = self.population if most else 0
            return Release("poisson", noise, rate=cohort / self.population, population=size, max_cohort=most)
        if self.sampling in ("fixed", "cyclic") and cohort != int(cohort):
            raise ConfigError(f"--clients-per-round is {cohort:g}, and {self.sampling} sampling needs a whole number")
        if self.sampling == "fixed":
            return Release("fixed", noise, cohort=int(cohort), population=self.population)
        if self.sampling == "cyclic":
            separation = self.population // int(cohort)
            bands = bands_of(self.bands, separation)
            return Release("cyclic", noise, bands=bands, separation=separation, place=1)
        return Release(cast(Sampling, self.sampling), noise)

    def plan(self, size: float, rounds: int, noise: float, target: float | None) -> Plan:
        """The plan for cohorts of `size` clients on average."""
        release = self.release(size, noise)
        relation: Any = self.relation or release.default_relation()
        release.check_relation(relation)
        accountant = cast(Accountant, self.accountant)
        if target is not None:
            noise = calibrate(PlannedRounds(release, rounds), PrivacyTarget(target, self.delta, relation, accountant))
            release = replace(release, noise_multiplier=noise)
        releases = release.over(rounds)
        found = guarantee(releases, self.delta, relation, "release", accountant)
        seen = guarantee(releases, self.delta, relation, "observer", accountant)
        line = statement(releases, self.delta, relation)
        warnings = [text for text in (delta_warning(self.delta, self.population), weak(found.epsilon)) if text]
        return Plan(size, rounds, noise, found.epsilon, seen.epsilon, relation, found.accountant, line, warnings)


@dataclass(frozen=True, slots=True)
class Plan:
    """One plan and its epsilon: against the release, and against observers who also see the cohorts."""

    cohort: float
    rounds: int
    noise_multiplier: float
    epsilon: float
    observer_epsilon: float
    relation: Relation
    accountant: str
    statement: str
    warnings: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def render(console: Console, plans: Sequence[Plan]) -> None:
    """Prints the plans of rounds."""
    columns = {
        "clients per round": "cohort",
        "rounds": "rounds",
        "noise multiplier": "noise_multiplier",
        "epsilon (release)": "epsilon",
        "epsilon (cohorts seen)": "observer_epsilon",
        "relation": "relation",
        "accountant": "accountant",
    }
    render_plans(console, plans, columns)


def render_plans(console: Console, plans: Sequence[Any], columns: Mapping[str, str]) -> None:
    """Prints one plan as a sentence, several as a table with the columns title -> attribute, and their warnings."""
    if len(plans) == 1:
        console.print(f"noise multiplier {plans[0].noise_multiplier:.4g}\n{plans[0].statement}", markup=False)
    else:
        _render_table(console, plans, columns)
    for warning in dict.fromkeys(text for one in plans for text in one.warnings):
        console.print(f"warning: {warning}", markup=False)


def _render_table(console: Console, plans: Sequence[Any], columns: Mapping[str, str]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in columns:
        table.add_column(title, justify="right")
    for one in plans:
        cells = {name: getattr(one, name) for name in columns.values()}
        table.add_row(*(_cell(name, value) for name, value in cells.items()))
    console.print(table)


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return rounded_up(value) if name.endswith("epsilon") else f"{value:.4g}"
