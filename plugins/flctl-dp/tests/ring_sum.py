"""The plain sum, modulo 2^20: what secure aggregation gives, without its cost. Runs name it by this file."""

import dataclasses

from flctl import RING
from flctl.algorithms.aggregators.plain import PlainAggregator

HALF = 1 << 19


class RingSum(PlainAggregator):
    """The sum of a hundred clients or more, of which the server is to learn nothing else."""

    name = "ring-sum"
    hides = True
    transparent = False
    ring = 20
    survivors = 100

    def server(self, ctx):
        total = yield from super().server(ctx)
        wrapped = {
            name: (vector + HALF) % (2 * HALF) - HALF if name.endswith(RING) else vector
            for name, vector in total.arrays.items()
        }
        return dataclasses.replace(total, arrays=wrapped)
