"""Configurations of the six mechanisms, and faults that an end-to-end audit must find in them.

Figures: `python benchmarks/audit_power.py`.
"""

from __future__ import annotations

import numpy as np

from flctl_dp.mechanisms import adaptive, distributed, local
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.ftrl import CorrelatedDP
from flctl_dp.mechanisms.poisson_steps import PoissonSteps
from flctl_dp.noise.shares import variances

ALL, CANARIES, OVER_SECAGG = {"sampling": "all"}, 1000, 800
CONFIGS = {
    "dp": {"cohort": ALL, "noise": 1.5},
    "dp-adaptive": {"cohort": ALL, "noise": 1.5},
    "dp-ftrl": {"cohort": {"sampling": "cyclic", "clients": CANARIES // 2}, "noise": 2.0, "rounds": 2},
    "dp-local": {"cohort": ALL, "noise": 3.0},
    "dp-distributed": {
        "cohort": ALL,
        "noise": 2.0,
        "aggregator": {"name": "secagg", "minimum": 20},
        "canaries": OVER_SECAGG,
    },
    "dp-examples": {"cohort": ALL, "noise": 2.0},
}
"""Epsilon is about 2 to 3 in each: a claim that no more than a thousand canaries can refute."""


def config(name):
    """The configuration of a mechanism, its number of canaries, and of rounds."""
    chosen = CONFIGS[name]
    transforms = {name: {"noise_multiplier": chosen["noise"]}}
    given = {"cohort": chosen["cohort"], "aggregator": chosen.get("aggregator", "plain"), "transforms": transforms}
    return given, chosen.get("canaries", CANARIES), chosen.get("rounds")


def _less(state):
    return {**state, "spread": state["spread"] / 4}


def quarter_of_noise(patch):
    noised = CentralDP._noised
    patch.setattr(CentralDP, "_noised", lambda self, arrays, state, words: noised(self, arrays, _less(state), words))


def quarter_of_correlated_noise(patch):
    begun = CorrelatedDP._begun
    patch.setattr(CorrelatedDP, "_begun", lambda self, *args: _less(begun(self, *args)))


def quarter_of_shares(patch):
    drawn = distributed.drawn_share

    def fewer(kind, variance, *args):
        return drawn(kind, max(one for one in variances(kind) if 16 * one <= variance), *args)

    patch.setattr(distributed, "drawn_share", fewer)


def quarter_of_row_noise(patch):
    init = PoissonSteps.__init__
    patch.setattr(PoissonSteps, "__init__", lambda self, *args: init(self, *args[:4], args[4] / 4, *args[5:]))


def no_clipping(patch):
    patch.setattr(CentralDP, "factors", lambda self, norms, _: np.ones_like(norms))


def no_clipping_within(module):
    return lambda patch: patch.setattr(module, "shrinking", lambda norms, _: np.ones_like(norms))


def no_clipping_nor_limit_of_rounding(patch):
    """Rounding counts vectors that are too long as zeros: a fault of clipping alone gives nothing away."""
    rounded = distributed.rounded
    patch.setattr(distributed, "_clipped", lambda flat, bound: flat)
    patch.setattr(distributed, "rounded", lambda turned, reach, words: rounded(turned, 1 << 50, words))


def no_clipping_of_rows(patch):
    patch.setattr(PoissonSteps, "factors", lambda self, norms: np.ones_like(norms))


def leaking_row(patch):
    """The first row of each batch is not clipped, as by an index that is off by one."""
    factors = PoissonSteps.factors
    patch.setattr(PoissonSteps, "factors", lambda self, norms: np.r_[np.ones(1), factors(self, norms)[1:]])


def weights_by_rows(patch):
    patch.setattr(CentralDP, "weigh", lambda self, weights: weights)


FAULTS = {
    ("dp", "a quarter of the noise"): quarter_of_noise,
    ("dp", "no clipping"): no_clipping,
    ("dp", "weights by rows"): weights_by_rows,
    ("dp-adaptive", "a quarter of the noise"): quarter_of_noise,
    ("dp-adaptive", "no clipping"): no_clipping_within(adaptive),
    ("dp-adaptive", "weights by rows"): weights_by_rows,
    ("dp-ftrl", "a quarter of the noise"): quarter_of_correlated_noise,
    ("dp-ftrl", "no clipping"): no_clipping,
    ("dp-ftrl", "weights by rows"): weights_by_rows,
    ("dp-local", "a quarter of the noise"): quarter_of_noise,
    ("dp-local", "no clipping"): no_clipping_within(local),
    ("dp-distributed", "a quarter of the noise"): quarter_of_shares,
    ("dp-distributed", "no clipping"): no_clipping_nor_limit_of_rounding,
    ("dp-examples", "a quarter of the noise"): quarter_of_row_noise,
    ("dp-examples", "no clipping"): no_clipping_of_rows,
    ("dp-examples", "a leaking row"): leaking_row,
}
"""(transform, fault) -> puts the fault in place. Where clients add the noise, a weight scales it too, and sums of
dp-distributed are without weights: there is no fault of weights."""
