"""The rows whose figure is a speed-up of rounds over the floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flctl.plugins.registry import Registry
from harness.contest import FLOOR, LEAN, OURS, PLAIN, Amount, Contest, Session
from harness.flctl_rounds import PLUGIN
from harness.measurement import Repeats, ratios
from harness.results import Result, Target
from harness.workloads import W1, W2, W3, Workload

__all__ = ["ROWS", "RoundRow"]

EACH = (f"plugins=[{PLUGIN.as_posix()}]", "strategy=mean-of-each")
PROX = ("strategy=fedprox", "strategy.proximal_mu=0.1")
MOMENTUM = ("local.momentum=0.9",)
SCAFFOLD = ("strategy=scaffold",)
CLIP = 0.15
"""A little below the norm of most updates of W3 in its first rounds, so that clipping has work to do."""
QUICK = Amount(blocks=2, rounds=1, workers=1, alone=False)
LONG, SHORT, SHORTEST = Amount(blocks=5, rounds=1), Amount(blocks=11, rounds=3), Amount(blocks=9, rounds=3)
SPEED_UP = "faster than the floor"


@dataclass(frozen=True, slots=True)
class RoundRow:
    """One workload under settings of flctl, and the fields that give the floor the same algorithm (`variant`)."""

    name: str
    title: str
    workload: Workload
    target: Target
    amount: Amount
    settings: tuple[str, ...] = ()
    variant: Mapping[str, Any] = field(default_factory=dict)
    strategy: str | None = None
    executor: str | None = None

    def measure(self, session: Session, executor: str | None = None) -> Result:
        """Plays it; skipped where this flctl has no such strategy."""
        if self.strategy and self.strategy not in Registry().offers("strategy"):
            skipped = f"this flctl has no strategy '{self.strategy}'"
            return Result(self.name, self.title, SPEED_UP, self.target, skipped=skipped)
        contest = self.contest(session, self.workload, executor)
        if not self.workload.ragged:
            return self._result(contest, ratios(contest.times, FLOOR, OURS), SPEED_UP, {})
        equal = self.contest(session, replace(self.workload, ragged=False), executor)
        base = ratios(equal.times, FLOOR, OURS)
        own = ratios(contest.times, FLOOR, OURS)
        part = Repeats(*(value / base.median for value in (own.median, own.low, own.high)))
        return self._result(contest, part, "of the equal-size speed-up", {"speed_up": own, "equal_speed_up": base})

    def contest(self, session: Session, workload: Workload, executor: str | None) -> Contest:
        """The row's rounds on a workload, in the session's form."""
        amount = self.amount
        if session.quick:
            # One row goes through worker processes, the others are spared their start.
            amount, workload = replace(QUICK, workers=2 if self.name == "w2" else 1), workload.tiny()
        return session.contest(workload, amount, self.settings, self.variant, executor or self.executor)

    def _result(self, contest: Contest, spread: Repeats, figure: str, extra: Mapping[str, Repeats]) -> Result:
        return Result(
            row=self.name,
            title=self.title,
            figure=figure,
            target=self.target,
            spread=spread,
            seconds={name: Repeats.of(times) for name, times in contest.times.items()},
            executor=contest.executor,
            details={
                "checksum": contest.check,
                "phases": contest.phases,
                "times": contest.times,
                **{f"over_{name.replace(' ', '_')}": ratios(contest.times, name, OURS) for name in _others(contest)},
                **extra,
            },
        )


def _others(contest: Contest) -> list[str]:
    return [name for name in (LEAN, PLAIN) if name in contest.times]


def _row(name: str, title: str, workload: Workload, must: float, hoped: float | None = None, **rest: Any) -> RoundRow:
    amount = {"W1": LONG, "W2": SHORT, "W3": SHORTEST}[workload.name]
    return RoundRow(name, title, workload, Target(must, hoped), amount, **rest)


RAGGED2, RAGGED3 = replace(W2, ragged=True), replace(W3, ragged=True)
ROWS = (
    _row("w1", "CNN, 1.66M parameters, 100 clients x 600, 10 a round", W1, 1.2, 1.4),
    _row("w2", "2NN, 199k parameters, 1,000 clients x 20, 100 a round", W2, 5, 8),
    _row("w2-each", "W2, a strategy that reads single updates", W2, 2, 3, settings=EACH),
    _row("w2-fedprox", "W2, fedprox", W2, 1.5, 2, settings=PROX, variant={"mu": 0.1}),
    _row("w2-momentum", "W2, local momentum 0.9", W2, 1.5, 2, settings=MOMENTUM, variant={"momentum": 0.9}),
    _row("w2-scaffold", "W2, scaffold", W2, 1.5, 2, settings=SCAFFOLD, variant={"scaffold": True}, strategy="scaffold"),
    _row("w2-ragged", "W2, sizes log-normal in 5..500", RAGGED2, 0.7),
    _row("w3", "softmax 60 -> 10, 10,000 clients x 20, 1,000 a round", W3, 40, 80),
    _row("w3-each", "W3, a strategy that reads single updates", W3, 20, settings=EACH),
    _row("w3-clip", "W3, clipped updates", W3, 30, settings=(f"transforms.clip.norm={CLIP}",), variant={"clip": CLIP}),
    _row("w3-fedprox", "W3, fedprox", W3, 15, 20, settings=PROX, variant={"mu": 0.1}),
    _row("w3-momentum", "W3, local momentum 0.9", W3, 15, 20, settings=MOMENTUM, variant={"momentum": 0.9}),
    _row("w3-scaffold", "W3, scaffold", W3, 15, 20, settings=SCAFFOLD, variant={"scaffold": True}, strategy="scaffold"),
    _row("w3-ragged", "W3, sizes log-normal in 5..500", RAGGED3, 0.7),
)
