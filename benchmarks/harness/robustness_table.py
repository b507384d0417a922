"""Accuracies of rules under attacks: a table of them, and what they are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

__all__ = ["Cell", "Claim", "Table", "claims", "markdown", "table"]

CLEAN, BACKDOOR = "none", "backdoor"
COLLAPSED, CLOSE, HURT = 0.20, 0.05, 0.05
BREAKING = ("IPM 100", "sign flip")


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: accuracy on clean test rows, and how often the backdoor worked, where there was one."""

    rule: str
    attack: str
    seed: int
    accuracy: float
    backdoor: float | None

    def line(self) -> str:
        """`krum under ALIE, seed 0: 0.8123`."""
        success = "" if self.backdoor is None else f", backdoor {self.backdoor:.4f}"
        return f"{self.rule} under {self.attack}, seed {self.seed}: {self.accuracy:.4f}{success}"


@dataclass(frozen=True, slots=True)
class Table:
    """(rule, attack) -> the trainings, one for each seed."""

    rules: Sequence[str]
    attacks: Sequence[str]
    cells: Mapping[tuple[str, str], Sequence[Cell]]

    def accuracy(self, rule: str, attack: str) -> float:
        """The mean over seeds."""
        return mean(cell.accuracy for cell in self.cells[rule, attack])

    def spread(self, rule: str, attack: str) -> tuple[float, float]:
        """The least and the most over seeds."""
        found = [cell.accuracy for cell in self.cells[rule, attack]]
        return min(found), max(found)

    def success(self, rule: str) -> float | None:
        """How often the backdoor worked, the mean over seeds; None where it was not tried."""
        found = [cell.backdoor for cell in self.cells.get((rule, BACKDOOR), ()) if cell.backdoor is not None]
        return mean(found) if found else None

    def lost(self, rule: str, attack: str) -> float:
        """What the attack takes from the rule's clean accuracy."""
        return self.accuracy(rule, CLEAN) - self.accuracy(rule, attack)

    def rows(self) -> list[list[str]]:
        """Percentages: a rule a line, the mean over seeds with the least and the most; the backdoor's success last."""
        lines = []
        for rule in self.rules:
            success = self.success(rule)
            cells = [_percent(self.accuracy(rule, attack), self.spread(rule, attack)) for attack in self.attacks]
            lines.append([rule, *cells, "-" if success is None else f"{100 * success:.1f}"])
        return lines

    def text(self) -> str:
        """The table on a terminal."""
        head = ["%", *self.attacks, "(it works)"]
        widths = [max(map(len, column)) for column in zip(head, *self.rows(), strict=True)]
        lines = (zip(widths, line, strict=True) for line in [head, *self.rows()])
        return "\n".join("  ".join(f"{cell:>{width}}" for width, cell in line) for line in lines)

    def report(self, judged: Sequence[Claim]) -> dict[str, Any]:
        """Everything as plain values."""
        runs = [asdict(cell) for cells in self.cells.values() for cell in cells]
        return {"claims": [asdict(claim) for claim in judged], "runs": runs}


@dataclass(frozen=True, slots=True)
class Claim:
    """What the table is held to, and what was found."""

    claim: str
    found: str
    met: bool

    def line(self) -> str:
        """The claim on a terminal."""
        return f"{'met' if self.met else 'NOT met'}: {self.claim}: {self.found}"


def table(cells: Sequence[Cell], rules: Sequence[str], attacks: Sequence[str]) -> Table:
    """The trainings by rule and attack."""
    found = {
        (rule, attack): [c for c in cells if (c.rule, c.attack) == (rule, attack)]
        for rule in rules
        for attack in attacks
    }
    return Table(rules, attacks, found)


def claims(made: Table) -> list[Claim]:
    """The claims that the table can be held to; it may lack some rules or attacks."""
    if CLEAN not in made.attacks:
        return []
    found = [_collapse(made, attack) for attack in BREAKING if attack in made.attacks and "mean" in made.rules]
    found += [_hurt(made)] if "ALIE" in made.attacks and "median" in made.rules else []
    return [*found, _bear(made)] if len(made.rules) > 2 else found


def _collapse(made: Table, attack: str) -> Claim:
    _, most = made.spread("mean", attack)
    return Claim(
        f"the mean collapses under {attack}: at most {COLLAPSED:.0%} for any seed", f"{most:.1%}", most <= COLLAPSED
    )


def _hurt(made: Table) -> Claim:
    lost = made.lost("median", "ALIE")
    return Claim(f"ALIE takes more than {HURT:.0%} from the median's clean run", f"{lost:.1%}", lost > HURT)


def _bear(made: Table) -> Claim:
    """Rules that lose little, whichever attack they meet."""
    worst = {rule: max(made.lost(rule, attack) for attack in made.attacks) for rule in made.rules if rule != "mean"}
    order = sorted(worst, key=lambda rule: worst[rule])
    close = [rule for rule in order if worst[rule] <= CLOSE]
    said = f"at least two rules lose no more than {CLOSE:.0%} of their clean run to any attack"
    return Claim(said, ", ".join(f"{rule} {worst[rule]:.1%}" for rule in order[: max(3, len(close))]), len(close) >= 2)


def markdown(facts: Mapping[str, Any], made: Table, judged: Sequence[Claim]) -> str:
    """The table as a page."""
    lines = ["# Robustness", "", f"Measured on {facts['date']} in {facts['seconds']} s by `{facts['command']}`."]
    lines += [f"{facts['machine']}.", "", f"{facts['setting']}.", ""]
    lines += [
        "Accuracy on clean test rows in %, the mean over seeds (least-most); 0 where training diverged. Last, how often"
    ]
    lines += [
        "the backdoor worked: test rows of other classes that were taken for its target once they had the trigger.",
        "",
    ]
    head = ["rule", *made.attacks, "backdoor works"]
    lines += [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    lines += [f"| {' | '.join(row)} |" for row in made.rows()]
    lines += ["", "| held to | found | met |", "|---|---|---|"]
    lines += [f"| {claim.claim} | {claim.found} | {'yes' if claim.met else '**no**'} |" for claim in judged]
    return "\n".join(lines) + "\n"


def _percent(value: float, spread: tuple[float, float]) -> str:
    return f"{100 * value:.1f} ({100 * spread[0]:.1f}-{100 * spread[1]:.1f})"
