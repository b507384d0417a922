"""Checks that a sum would not disclose one client's vector, made by the client before it masks the vector.

A sum hides a term only if other terms contribute, and if it cannot be decomposed. Terms that take few values, each
multiplied by a different weight, make the sum a knapsack problem. Up to about twenty clients, its solution is unique
and gives every client's signs and weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl import RING, Arrays, ProtocolError
from flctl.errors import counted
from flctl_secagg.encoding.vectors import FEW, WEIGHT
from flctl_secagg.protocol.asked_work import AskedWork

__all__ = ["MOST_ALIKE", "SIGN_LIKE", "most_common_magnitude", "require_hidden_in_a_sum", "require_unclipped"]

MOST_ALIKE = 0.2
"""Largest fraction of a vector's values that may share one magnitude if weights differ."""
SIGN_LIKE = ("adam", "adamw")
"""Optimisers whose first steps are almost the gradient's signs times the learning rate. Weight decay, `eps` and several
steps vary the magnitudes, but a server that knows the model and the decay reads the signs off the sum as well."""
UPDATE = "delta"
"""Name of the vector of the model's change. Others, such as counts of steps, are not zero without a gradient either."""
_PURE_DECAY = 1e-3
_ROUNDING = 2e-7
_WINDOW = math.log(1.01)
_SAMPLE, _LEAST_SAMPLE = 1024, 100
_ONCE = "Count each client once: aggregator.max_weight=1."


def require_hidden_in_a_sum(vector: Arrays, max_weight: float, asked: AskedWork, *, accept_zeros: bool) -> None:
    """Raises ProtocolError if a premultiplied vector adds nothing to the sum, or could be decomposed from it.

    `accept_zeros` permits an update of zero in this round.
    """
    _require_contribution(vector, accept_zeros=accept_zeros)
    if not accept_zeros:
        _require_more_than_decay(vector, asked)
    if max_weight <= 1:
        return  # equal weights: a sum of few values gives the count of each value, not the clients that sent it
    if asked.local is not None and asked.local.optimizer in SIGN_LIKE:
        raise ProtocolError(
            f"steps of '{asked.local.optimizer}' are almost signs, and weights go up to {max_weight:g}: their sum can "
            "be separated",
            hint=_ONCE,
        )
    for name, values in vector.items():
        if name == WEIGHT or name.endswith(RING):
            continue
        if values.dtype.kind in "iu":
            raise ProtocolError(
                f"'{name}' has whole numbers, and weights go up to {max_weight:g}: their sum can be separated",
                hint=_ONCE,
            )
        if values.size > FEW and most_common_magnitude(values) > MOST_ALIKE:
            raise ProtocolError(
                f"more than {MOST_ALIKE:.0%} of the values of '{name}' have one magnitude, and weights differ: their "
                "sum can be separated",
                hint=_ONCE,
            )


def require_unclipped(clipped: Mapping[str, int], layout: Sequence[tuple[str, int]], share: float) -> None:
    """Raises ProtocolError if more than `share` of a long vector's values were clipped: a clipped value carries only
    its sign, which a sum of few clients may give away."""
    for name, length in layout:
        if length > FEW and clipped.get(name, 0) > share * length:
            raise ProtocolError(
                f"{clipped[name]:,} of {counted(length, 'value')} of '{name}' exceed the clip, "
                f"at most {share:.0%} may: a clipped value reveals only its sign",
                hint="Raise aggregator.clip, or lower local.lr.",
            )


def most_common_magnitude(values: npt.NDArray[Any]) -> float:
    """Largest fraction of nonzero values whose magnitudes lie within 1 % of each other, in a sample of about 1,024.

    Returns 0 if the sample has fewer than 100 nonzero values. For scale: in a normal distribution, the fullest window
    of 1 % holds 0.5 % of the magnitudes.
    """
    sample = np.abs(values[:: max(values.size // _SAMPLE, 1)].astype(np.float64))
    sample = sample[np.isfinite(sample) & (sample > 0)]
    if sample.size < _LEAST_SAMPLE:
        return 0.0
    ordered = np.sort(np.log(sample))
    ends = np.searchsorted(ordered, ordered + _WINDOW, side="right")
    return float((ends - np.arange(ordered.size)).max()) / ordered.size


def _require_contribution(vector: Arrays, *, accept_zeros: bool) -> None:
    """Raises ProtocolError if the vector adds nothing: as a survivor, the client would count toward the minimum, but
    would hide no other client's update."""
    if WEIGHT in vector and not vector[WEIGHT].any():
        raise ProtocolError("this client has weight 0, and its vector would mask no other client's update")
    kept = {name: values for name, values in vector.items() if name != WEIGHT and values.dtype.kind == "f"}
    fractions = [kept[UPDATE]] if UPDATE in kept else list(kept.values())
    if fractions and not accept_zeros and not any(values.any() for values in fractions):
        raise ProtocolError("this client's update is zero, and would mask no other client's update")


def _require_more_than_decay(vector: Arrays, asked: AskedWork) -> None:
    """Raises ProtocolError if weight decay alone explains the model's change: it is then a multiple of the model, which
    the server knows and can subtract."""
    params = None if asked.params is None else asked.params.get("params")
    if asked.local is None or not asked.local.weight_decay or params is None or UPDATE not in vector:
        return
    delta, model = vector[UPDATE].astype(np.float64), params.astype(np.float64)
    squared = float(model @ model)
    if delta.size != model.size or delta.size <= FEW or not squared:
        return
    weight = float(vector[WEIGHT][0]) if WEIGHT in vector else 1.0
    rest = float(np.linalg.norm(delta - (delta @ model / squared) * model))
    rounding = _ROUNDING * weight * math.sqrt(squared)
    if rest <= _PURE_DECAY * float(np.linalg.norm(delta)) + rounding:
        raise ProtocolError("this client's update is weight decay alone, and would mask no other client's update")
