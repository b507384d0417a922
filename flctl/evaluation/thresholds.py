"""Choice of the threshold on the probability of the positive one of two classes, on rows that are not scored."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flctl.errors import ConfigError, DataError, counted
from flctl.evaluation.binary import RATES, rates
from flctl.evaluation.ranking import Curve, curve
from flctl.types import FloatArray

__all__ = ["ChosenThreshold", "Split", "ThresholdRule", "choose", "parse_rule"]

Split = Literal["validation", "train", "test"]
_RATE = re.compile(r"(sensitivity|specificity)=([0-9.]+)")
_COST = re.compile(r"cost=([0-9.]+):([0-9.]+)")
KNOWN = "Use a number from 0 to 1, youden, sensitivity=0.9, specificity=0.9, or cost=FP:FN such as cost=1:20."


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """A rule as it was given, with its numbers: `fixed` (the threshold), `sensitivity` and `specificity` (the least
    rate), `cost` (of a false positive, of a false negative), `youden`."""

    text: str
    kind: str
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold with the rule that chose it on `rows` rows of `split` (None: it was given), and the rates there."""

    value: float
    rule: str
    split: Split | None = None
    rows: int = 0
    rates: Mapping[str, float] | None = None


def parse_rule(text: str) -> ThresholdRule:
    """Reads `0.3`, `youden`, `sensitivity=0.9`, `specificity=0.9` or `cost=FP:FN`. Raises ConfigError for any other.

    >>> parse_rule("cost=1:20").numbers
    (1.0, 20.0)
    """
    try:
        if text == "youden":
            return ThresholdRule(text, "youden")
        if found := _RATE.fullmatch(text):
            return _within(ThresholdRule(text, found[1], (float(found[2]),)))
        if found := _COST.fullmatch(text):
            return _costly(ThresholdRule(text, "cost", (float(found[1]), float(found[2]))))
        return _within(ThresholdRule(text, "fixed", (float(text),)))
    except ValueError:
        raise ConfigError(f"--threshold '{text}' is not a threshold or a rule", hint=KNOWN) from None


def _within(rule: ThresholdRule) -> ThresholdRule:
    if not 0 <= rule.numbers[0] <= 1:
        raise ConfigError(f"--threshold {rule.text}: {rule.numbers[0]:g} is outside 0 to 1", hint=KNOWN)
    return rule


def _costly(rule: ThresholdRule) -> ThresholdRule:
    if not sum(rule.numbers):
        raise ConfigError(f"--threshold {rule.text}: no error costs anything", hint=KNOWN)
    return rule


def choose(
    rule: ThresholdRule, probability: FloatArray, positive: npt.NDArray[np.bool_], split: Split
) -> ChosenThreshold:
    """Returns the threshold that a rule chooses for rows with these probabilities [n] of the positive class.

    Of several that are equally good, the highest. It lies between two probabilities of the rows, with as few digits as
    that takes, so that what is printed can be given again. Raises DataError for rows of one class.

    >>> choose(parse_rule("youden"), np.array([0.9, 0.6, 0.1]), np.array([True, False, False]), "train").value
    0.8
    """
    if positive.all() or not positive.any():
        raise DataError(
            f"{counted(len(positive), split + ' row')} of one class: no threshold can be chosen",
            hint="Use a number: --threshold 0.3.",
        )
    found = _with_none(curve(probability, positive))
    index = _RULES[rule.kind](found, rule.numbers)
    lower = float(found.thresholds[index + 1]) if index + 1 < len(found.thresholds) else 0.0
    tp, fp = float(found.tp[index]), float(found.fp[index])
    made = rates(tp, found.tp[-1] - tp, fp, found.fp[-1] - fp)
    values = {name: float(made[name]) for name in RATES}
    return ChosenThreshold(_short(lower, float(found.thresholds[index])), rule.text, split, len(positive), values)


def _with_none(found: Curve) -> Curve:
    """The curve with, in front, the threshold above all probabilities, if there is one up to 1."""
    if found.thresholds[0] >= 1:
        return found
    columns = ((1.0, found.thresholds), (0.0, found.tp), (0.0, found.fp))
    return Curve(*(np.concatenate([[first], rest]) for first, rest in columns))


def _youden(found: Curve, _: tuple[float, ...]) -> int:
    # In whole numbers, so that thresholds of equal worth are equal: rates would differ in their last bit.
    return int(np.argmax(found.tp * found.fp[-1] - found.fp * found.tp[-1]))


def _sensitivity(found: Curve, numbers: tuple[float, ...]) -> int:
    """The highest threshold of that recall: of all of them it has the fewest false positives."""
    return int(np.argmax(found.tp / found.tp[-1] >= numbers[0] - 1e-12))


def _specificity(found: Curve, numbers: tuple[float, ...]) -> int:
    """The threshold that finds the most positives with that specificity; the highest of several."""
    kept = 1 - found.fp / found.fp[-1] >= numbers[0] - 1e-12
    return int(np.argmax(np.where(kept, found.tp, -1)))


def _cost(found: Curve, numbers: tuple[float, ...]) -> int:
    return int(np.argmin(numbers[0] * found.fp + numbers[1] * (found.tp[-1] - found.tp)))


_RULES: Mapping[str, Callable[[Curve, tuple[float, ...]], int]] = {
    "youden": _youden,
    "sensitivity": _sensitivity,
    "specificity": _specificity,
    "cost": _cost,
}


def _short(lower: float, upper: float) -> float:
    """A number above `lower` and up to `upper` with as few decimals as possible, near the middle."""
    for digits in range(1, 18):
        middle = round((lower + upper) / 2, digits)
        if lower < middle <= upper:
            return middle
    return upper if math.isfinite(upper) else 1.0
