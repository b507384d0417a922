"""Limits of a run: largest cohort and weight, and checks that its sums cannot be solved for single updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flctl import IncompatibleError, ProtocolError
from flctl.errors import counted
from flctl_secagg.client.disclosure import SIGN_LIKE
from flctl_secagg.client.local_bounds import MOST_CLASS_RATIO, class_ratio

if TYPE_CHECKING:
    from flctl import RunInfo
    from flctl_secagg.client.policy import Policy
    from flctl_secagg.storage import KeysHome

__all__ = [
    "largest_weight",
    "most_clients",
    "require_allowed",
    "require_coarse_clip",
    "require_even_classes",
    "require_few_cohorts",
    "require_minimum",
    "require_varied",
]


def require_varied(run: RunInfo) -> None:
    """Raises IncompatibleError if updates take few values: with unequal weights, a sum of few could be decomposed."""
    local, hint = run.config.local, "Count each client once: aggregator.max_weight=1."
    for name, transform in run.transforms.items():
        if transform.whole:
            raise IncompatibleError(
                f"transform '{name}' sends whole numbers, and weights differ: the sum of a few clients' codes can be "
                "separated",
                hint=hint,
            )
    if local.optimizer in SIGN_LIKE:
        raise IncompatibleError(
            f"steps of '{local.optimizer}' are almost signs, and weights differ: the sum of a few clients' signs can "
            "be separated",
            hint=f"{hint} Or use local.optimizer=sgd.",
        )


def require_even_classes(run: RunInfo) -> None:
    """Raises IncompatibleError if class weights would leave clients without some class almost without an update."""
    ratio = class_ratio(run.config.local.class_weights)
    if ratio > MOST_CLASS_RATIO:
        raise IncompatibleError(
            f"local.class_weights has weights with the ratio {ratio:g} (other classes: 1), expected at most "
            f"{MOST_CLASS_RATIO:g}: the sum would be almost the update of the clients with the largest weight",
            hint=f"Keep the ratio at most {MOST_CLASS_RATIO:g}, or use local.class_weights=balanced-per-client.",
        )


def require_coarse_clip(run: RunInfo, clip: float) -> None:
    """Raises IncompatibleError if a transform bounds clients and `clip` is below its norm. At or above the norm, no
    coordinate reaches the clip; below it, clipping depends on one client's data, and no noise hides it."""
    for name, transform in run.transforms.items():
        norm = getattr(transform.config, "clipping_norm", None)
        if transform.bounds_clients and not transform.whole and norm is not None and clip < norm:
            raise IncompatibleError(
                f"aggregator.clip is {clip:g}, below transforms.{name}.clipping_norm, which is {norm:g}",
                hint=f"-o aggregator.clip={norm:g}, or more; or a lower transforms.{name}.clipping_norm.",
            )


def require_minimum(cohort: Sequence[str], minimum: int, round_number: int) -> None:
    """Raises ProtocolError if a round asks fewer clients than the minimum."""
    if len(cohort) < minimum:
        raise ProtocolError(
            f"round {round_number}: the cohort has {counted(len(cohort), 'client')}, and aggregator.minimum is "
            f"{minimum}",
            hint="Select more clients per round; a random cohort can be small.",
        )


def require_few_cohorts(run: RunInfo) -> None:
    """Raises IncompatibleError if a run has enough different cohorts to solve their sums for each client's update."""
    part = run.cohort_size / run.eligible
    if run.cohort.sampling != "all" and run.config.rounds * part >= run.eligible - 1:
        raise IncompatibleError(
            f"cohorts of {run.cohort_size:g} of {counted(run.eligible, 'client')} over "
            f"{counted(run.config.rounds, 'round')}: a client takes part in {run.config.rounds * part:g}, and "
            f"{counted(run.eligible - 1, 'different sum')} are enough to compute each client's update",
            hint="Select all clients in each round (cohort.sampling=all), use fewer rounds, or set "
            "aggregator.differing=warn and rely on differential privacy.",
        )


def most_clients(run: RunInfo) -> int:
    """Largest cohort of a run. Under Poisson sampling it is exceeded with probability < 2^-40 (Bernstein's bound)."""
    cohort, eligible = run.cohort, run.eligible
    if cohort.sampling == "poisson":
        mean = float(cohort.rate or 0.0) * eligible
        return min(eligible, cohort.max_cohort or eligible, math.ceil(mean + 8 * math.sqrt(mean) + 30))
    return eligible if cohort.sampling == "all" else min(cohort.clients, eligible)


def largest_weight(run: RunInfo) -> float:
    """Weight of the client with the most rows, after the run's transforms (`weigh`)."""
    weights = np.array([max(run.partition.counts[:, 0].max(initial=0), 1)], np.float64)
    for transform in run.transforms.values():
        weights = transform.weigh(weights)
    return float(weights[0])


def require_allowed(home: KeysHome, options: Policy) -> None:
    """Raises IncompatibleError if the clients' own policy refuses the options."""
    found = home.policy().objections(options)
    if found:
        raise IncompatibleError(
            f"the policy of the clients refuses this run: {'; '.join(found)}",
            hint=f"Change aggregator.* or local.*, or the policy: flctl secagg policy show {home.path}.",
        )
