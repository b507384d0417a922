"""`check_partitioner`: our schemes pass, and for each check a scheme that breaks it is told so."""

import numpy as np
import pytest
from support.conformance import caught, unmutated

from flctl import Assignment, DataError, Partitioner
from flctl.plugins.registry import Registry
from flctl.testing import check_partitioner
from flctl.testing.partitioner import PARTITIONER, PartitionerSubject

OPTIONS = {"sizes": {"sizes": [20, 10, 5]}, "distribution": None}
"""Those without which a scheme cannot be made; None where the options are a file."""


@pytest.mark.parametrize("name", sorted(Registry().offers("partitioner")))
def test_every_scheme_of_ours_keeps_the_contract(tmp_path, name):
    options = OPTIONS.get(name)
    if name == "distribution":
        (tmp_path / "m.csv").write_text("5,1,1\n1,5,1\n1,1,5\n")
        options = {"matrix": str(tmp_path / "m.csv")}
    assert check_partitioner(Registry().get("partitioner", name), options).checks == PARTITIONER.ids


class Modulo(Partitioner):
    """Row i is client i mod K's, until a subclass breaks something."""

    name = "modulo"

    def assign(self, rows, clients, rng):
        if clients > rows.count:
            raise DataError(f"{clients} clients and {rows.count} rows")
        return Assignment(np.arange(rows.count) % clients, clients)


def test_a_sound_scheme_passes():
    assert check_partitioner(Modulo).checks == PARTITIONER.ids


class Beyond(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(np.arange(rows.count) % (clients + 1), clients)


class Fractions(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment((np.arange(rows.count) % clients).astype(np.float32), clients)


class Short(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(np.zeros(rows.count - 1, np.int64), clients)


class Lists(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment([0] * rows.count, clients)


class OneName(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(np.zeros(rows.count, np.int64), clients, ("one",) * clients)


class Bare(Modulo):
    def assign(self, rows, clients, rng):
        return super().assign(rows, clients, rng).owner


class Refuses(Modulo):
    def assign(self, rows, clients, rng):
        raise DataError("nothing suits")


class Fails(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(rows.labels % clients, clients)


class TwoOnly(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(np.arange(rows.count) % 2, 2)


class Dice(Modulo):
    def assign(self, rows, clients, rng):
        return Assignment(np.random.randint(0, clients, rows.count), clients)


class Sorts(Modulo):
    def assign(self, rows, clients, rng):
        rows.target.sort(axis=0)
        return super().assign(rows, clients, rng)


class Counts(Modulo):
    calls = 0

    def assign(self, rows, clients, rng):
        self.calls += 1
        return Assignment((np.arange(rows.count) + self.calls) % clients, clients)


class Careless(Modulo):
    def assign(self, rows, clients, rng):
        first = rng.choice(rows.count, clients, replace=False)
        owner = rng.integers(0, clients, rows.count)
        owner[first] = np.arange(clients)
        return Assignment(owner, clients)


class Longer(Modulo):
    def alter(self, x, y, client, clients, rng):
        return np.concatenate([x, x]), y


class Widens(Modulo):
    def alter(self, x, y, client, clients, rng):
        return x + 0.5, y


class InPlace(Modulo):
    def alter(self, x, y, client, clients, rng):
        x[:] = 0
        return x, y


class Noise(Modulo):
    def alter(self, x, y, client, clients, rng):
        return (x + np.random.normal(size=x.shape)).astype(x.dtype), y


class Keeps(Modulo):
    last = None

    def alter(self, x, y, client, clients, rng):
        self.last = client
        return x, y


class TestRows(Modulo):
    """Cannot alter the rows that are held out."""

    __test__ = False

    def alter(self, x, y, client, clients, rng):
        if len(x) > 3:
            raise ValueError("four rows are too many")
        return x, y


MUTANTS = {
    "assign": [
        (Beyond, "the scheme returned an owner outside -1..0"),
        (Fractions, "the scheme returned owners float32"),
        (Short, "the scheme returned owners int64 (119,), expected integers (120,)"),
        (Lists, "owner is list, expected a numpy array"),
        (OneName, "the scheme returned 1 different id for 2 clients"),
        (Bare, "it returned ndarray, expected an Assignment"),
        (Refuses, "it refuses all cases, also 120 rows of 3 classes among 1 client: nothing suits"),
        (Fails, "90 numbers among 1 client: TypeError"),
    ],
    "clients": [(TwoOnly, "120 rows of 3 classes among 5 clients: it made 2")],
    "seed": [
        (Dice, "owner differs by up to"),
        (Sorts, "it changed the rows: target differs by"),
        (Counts, "on an object that was used before: owner differs by"),
    ],
    "edges": [(Careless, "3 equal rows among 5 clients: ValueError")],
    "alter": [
        (Longer, "x float32 (3, 4) became float32 (6, 4)"),
        (Widens, "x uint8 (3, 1, 6, 6) became float64 (3, 1, 6, 6)"),
        (InPlace, "alter changed its arguments: [0] differs by"),
        (Noise, "equal arguments gave unequal rows: [0] differs by"),
        (Keeps, "alter keeps state on the object"),
    ],
    "written": [(TestRows, "ValueError: four rows are too many")],
}


def subject(component, directory):
    return PartitionerSubject(component, {}, directory)


def test_for_every_check_something_is_known_that_breaks_it():
    assert unmutated(PARTITIONER, MUTANTS) == []


@pytest.mark.parametrize(
    ("which", "mutant", "words"),
    [(which, *case) for which, cases in MUTANTS.items() for case in cases],
    ids=lambda value: getattr(value, "__name__", str(value)[:20]),
)
def test_what_breaks_a_check_is_told_so(tmp_path, which, mutant, words):
    caught(PARTITIONER, subject(mutant, tmp_path), which, words)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_scheme_that_sets_the_number_of_clients_is_asked_without_one_too(keeps):
    class PerLabel(Partitioner):
        """A client for each label."""

        name = "per-label"
        sets_clients = keeps

        def assign(self, rows, clients, rng):
            if rows.labels is None:
                raise DataError("per-label needs labels")
            return Assignment(rows.labels.copy(), len(rows.classes))

    from flctl.testing import ConformanceError

    if keeps:
        with pytest.raises(ConformanceError, match=r"among 4 clients: it made 3"):
            check_partitioner(PerLabel)
        assert check_partitioner(PerLabel, skip=["clients"]).checks
    else:
        with pytest.raises(ConformanceError, match=r"among 2 clients: it made 3"):
            check_partitioner(PerLabel)
