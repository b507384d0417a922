"""A plugin file for tests: FedAvg whose clients and server remember, so that a resume has something to get wrong."""

import numpy as np

import flctl


class Remembering(flctl.Strategy):
    """Adds each client's running mean of its past changes to what it sends, and damps by the server's own count."""

    name = "remembering"

    def init(self, params):
        return {"rounds": np.zeros(1, np.float32)}

    def remembers(self, layout):
        return {"mean": layout["params"]}

    def report(self, local, work, memory):
        past = memory["mean"]
        mean = 0.5 * past + 0.5 * local.delta["params"]
        return {"delta": mean}, float(local.examples), {"mean": mean}

    def step(self, params, aggregate, state, ctx):
        params, state = super().step(params, aggregate, state, ctx)
        rounds = state["rounds"] + 1
        return {**params, "params": params["params"] * (1 - np.float32(0.01) * rounds)}, {**state, "rounds": rounds}


@flctl.hookimpl
def flctl_strategies():
    return [Remembering]
