"""Names of metrics, the tasks that have them, and the one that stands first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flctl.errors import ConfigError, suggest
from flctl.types import TaskKind

__all__ = [
    "IMBALANCED",
    "METRICS",
    "SUMMED",
    "Headline",
    "Metric",
    "headline",
    "higher_is_better",
    "metrics_of",
    "positive_code",
]

LABELS: tuple[TaskKind, ...] = ("classification", "binary", "next-character")
CLASSES: tuple[TaskKind, ...] = ("classification", "binary")
IMBALANCED = 0.8
"""Share of rows in one class above which accuracy does not stand first: predicting this class alone would reach it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name in JSON, what people read, which way is better, and the tasks that have it; `two_classes`: only
    if there are exactly two. (`validation_loss` is what `test_loss` is called over validation rows.)"""

    name: str
    label: str
    higher_is_better: bool
    tasks: tuple[TaskKind, ...]
    two_classes: bool = False


_ALL = (
    Metric("test_loss", "MSE (standardised)", False, (*LABELS, "regression")),
    Metric("validation_loss", "validation loss", False, ()),
    Metric("log_loss", "log loss (nats)", False, LABELS),
    Metric("accuracy", "accuracy", True, LABELS),
    Metric("balanced_accuracy", "balanced accuracy", True, LABELS),
    Metric("macro_f1", "macro F1", True, LABELS),
    Metric("recall", "recall (sensitivity)", True, CLASSES, two_classes=True),
    Metric("specificity", "specificity", True, CLASSES, two_classes=True),
    Metric("precision", "precision (PPV)", True, CLASSES, two_classes=True),
    Metric("npv", "NPV", True, CLASSES, two_classes=True),
    Metric("f1", "F1", True, CLASSES, two_classes=True),
    Metric("auroc", "AUROC", True, CLASSES),
    Metric("auprc", "AUPRC", True, CLASSES),
    Metric("ks", "KS", True, CLASSES, two_classes=True),
    Metric("calibration_error", "calibration error", False, LABELS),
    Metric("brier", "Brier score", False, LABELS),
    Metric("perplexity", "perplexity", False, ("next-character",)),
    Metric("bits_per_character", "bits per character", False, ("next-character",)),
    Metric("mae", "MAE", False, ("regression",)),
    Metric("rmse", "RMSE", False, ("regression",)),
    Metric("r2", "R2", True, ("regression",)),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}

SUMMED = frozenset(METRICS) - {"auprc", "calibration_error", "brier"}
"""Metrics that follow from sums over the rows of each client; AUROC does for two classes alone."""


def metrics_of(kind: TaskKind, classes: int) -> tuple[str, ...]:
    """Returns the names of the metrics that a task with this number of classes has.

    >>> "f1" in metrics_of("classification", 3)
    False
    """
    return tuple(one.name for one in _ALL if kind in one.tasks and (classes == 2 or not one.two_classes))


def higher_is_better(name: str) -> bool:
    """Returns True if larger values of a metric are better. Raises ConfigError for an unknown name."""
    if name not in METRICS:
        raise ConfigError(f"unknown metric '{name}'", hint=suggest(name, METRICS) or f"Known: {', '.join(METRICS)}.")
    return METRICS[name].higher_is_better


@dataclass(frozen=True, slots=True)
class Headline:
    """The metric that stands first, orders clients and picks the best round if none is named; `why`, if it is not the
    task's usual one."""

    metric: str
    why: str | None = None


def headline(kind: TaskKind, classes: Sequence[str] = (), counts: Sequence[int] = ()) -> Headline:
    """Returns RMSE for a regression; for classes accuracy, or balanced accuracy if more than `IMBALANCED` of the rows
    are of one of them. `counts` are the rows of each class that are scored.

    >>> headline("binary", ("no", "yes"), (442, 58)).metric
    'balanced_accuracy'
    """
    if kind == "regression":
        return Headline("rmse")
    total, most = sum(counts), max(counts, default=0)
    if kind not in CLASSES or most in (0, total) or most <= IMBALANCED * total:
        return Headline("accuracy")
    name = classes[list(counts).index(most)]
    why = (
        f"balanced accuracy stands first: {most / total:.0%} of the rows are '{name}', so accuracy would hide the rest"
    )
    return Headline("balanced_accuracy", why)


def positive_code(classes: Sequence[str], name: str | None) -> int:
    """Returns the code of the positive class of two: the one of this name; by default the second.

    Raises ConfigError for a name that is not a class, or if there are not two classes.
    """
    if name is None:
        return 1
    if len(classes) != 2:
        raise ConfigError(
            f"a positive class needs two classes, and there are {len(classes)}",
            hint="Leave out --positive, eval.positive.",
        )
    if name not in classes:
        hint = suggest(name, classes) or f"The classes are {' and '.join(classes)}."
        raise ConfigError(f"'{name}' is not a class of the data", hint=hint)
    return list(classes).index(name)
