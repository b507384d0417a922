"""Aggregators of several phases that tests of several packages run."""

from flctl import Phase, ProtocolError
from flctl.algorithms.aggregators.plain import PlainAggregator


class RollCall(PlainAggregator):
    """Asks who is there first; trains those who answered; asks them to confirm."""

    name = "roll-call"
    transparent = False

    def server(self, ctx):
        if not ctx.cohort:
            return ctx.total().aggregate()
        present = yield Phase(dict.fromkeys(ctx.cohort, b"there?"), trains=False)
        here = [client for client, reply in dict(present).items() if reply == b"here"]
        vectors = dict((yield Phase(dict.fromkeys(here, b"train"), trains=True)))
        confirmed = dict((yield Phase(dict.fromkeys(vectors, b"sure?"), trains=False)))
        total = ctx.total()
        for client, vector in vectors.items():
            if confirmed.get(client) == b"sure":
                total.add(client, vector)
        return total.aggregate()

    def client(self, memory, message, vector, ctx):
        if message == b"there?":
            return b"asked", b"here"
        if memory != b"asked":
            raise ProtocolError("the first phase is missing")
        return memory, b"sure" if vector is None else super().client(b"", b"", vector, ctx)[1]
