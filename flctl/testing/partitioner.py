"""The contract of partition schemes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flctl.data.dataset import Dataset
from flctl.errors import ConfigError, DataError, PluginError, counted
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.split import check_assignment
from flctl.partition.writer import PartitionSpec, rows_of, write_partition
from flctl.testing.calls import remembered
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, UnaskedError, conform, said
from flctl.testing.examples import or_examples
from flctl.testing.randomness import global_seed
from flctl.testing.temporary import temporary_directory
from flctl.testing.values import copied, difference

__all__ = ["PARTITIONER", "check_partitioner"]

REFUSALS = (DataError, ConfigError)


@dataclass(frozen=True, slots=True)
class Case:
    """A data set to divide among `clients` clients, by a group or not."""

    name: str
    dataset: Dataset
    by: str | None
    clients: int | None

    @property
    def rows(self) -> Rows:
        """Rows that the scheme may read."""
        return rows_of(self.dataset, self.by)

    def __str__(self) -> str:
        clients = "any number of clients" if self.clients is None else counted(self.clients, "client")
        return f"{self.name} among {clients}"


def _datasets() -> Iterator[tuple[str, Dataset, str | None]]:
    rng = np.random.default_rng(4)
    y, x = rng.integers(0, 3, 120), rng.normal(size=(120, 4)).astype(np.float32)
    site = np.array([f"site-{n}" for n in rng.integers(0, 6, 120)])
    classes = Dataset("classes", "classification", x, y.astype(np.int64), ("a", "b", "c"), groups={"site": site})
    yield "120 rows of 3 classes", classes, None
    yield "120 rows of 6 sites", classes, "site"
    yield "90 numbers", Dataset("numbers", "regression", x[:90], rng.normal(size=90).astype(np.float32)), None
    images = rng.integers(0, 256, (60, 1, 6, 6)).astype(np.uint8)
    yield "60 images", Dataset("images", "classification", images, y[:60].astype(np.int64), ("a", "b", "c")), None
    codes = rng.integers(0, 9, (2, 40, 5)).astype(np.int32)
    speaker = np.repeat(["x", "y", "z", "w"], 10)
    text = Dataset("text", "next-character", codes[0], codes[1], tuple("abcdefghi"), groups={"speaker": speaker})
    yield "40 lines of text", text, None
    yield "40 lines of 4 speakers", text, "speaker"


class PartitionerSubject:
    """A scheme with its options, and what became of each case."""

    def __init__(self, component: type[Partitioner], options: Mapping[str, Any], directory: Path) -> None:
        self.component = component
        self.options = options
        self.directory = directory
        self.notes: list[str] = []

    def make(self) -> Partitioner:
        """A new object with the options."""
        return self.component.from_options(dict(self.options))

    def assign(self, case: Case, seed: int = 0, elsewhere: int = 0) -> Assignment:
        """The assignment by a new object."""
        with global_seed(elsewhere):
            return self.make().assign(copied(case.rows), case.clients, np.random.default_rng(seed))

    @cached_property
    def cases(self) -> list[Case]:
        """Each data set among several numbers of clients; by none where the scheme sets the number."""
        deals = getattr(self.make(), "base", self.make())
        client_counts = (None, 1, 4) if deals.sets_clients else (1, 2, 5, 13)
        return [Case(name, data, by, n) for name, data, by in _datasets() for n in client_counts]

    @cached_property
    def outcomes(self) -> Mapping[int, Any]:
        """Number of the case -> its assignment, or what was raised."""
        found: dict[int, Any] = {}
        for case_index, case in enumerate(self.cases):
            try:
                found[case_index] = self.assign(case)
            except Exception as error:
                found[case_index] = error
        return found

    def dealt(self) -> list[tuple[Case, Assignment]]:
        """Returns the cases that were divided. Raises UnaskedError if there are none."""
        found = [(self.cases[n], a) for n, a in self.outcomes.items() if isinstance(a, Assignment)]
        sound = [(case, assignment) for case, assignment in found if not _faults(case, assignment)]
        if not sound:
            raise UnaskedError
        return sound


def _faults(case: Case, assignment: Assignment) -> list[str]:
    """Yields reasons why an assignment is invalid."""
    if not isinstance(getattr(assignment, "owner", None), np.ndarray):
        return [f"owner is {type(getattr(assignment, 'owner', None)).__name__}, expected a numpy array"]
    try:
        check_assignment(assignment, case.rows.count)
    except (PluginError, DataError) as error:
        return [error.message]
    return []


def _all() -> Checks:
    checks = component_checks("partitioner")
    _add_assign(checks)
    _add_seed(checks)
    _add_edges(checks)
    _add_alter(checks)
    _add_written(checks)
    return checks


def check_partitioner(
    partitioner: type[Partitioner], options: Mapping[str, Any] | None = None, *, skip: Collection[str] = ()
) -> Conformance:
    """Checks that a scheme keeps the contract of `flctl.Partitioner`; returns the names of the checks that ran.

    Divides tables, images, numbers and text, with and without groups, among several numbers of clients, and writes a
    partition. `skip` are ids of checks that do not apply. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        subject = PartitionerSubject(partitioner, or_examples(options, partitioner), Path(directory))
        return conform(PARTITIONER, subject, title_of(partitioner, "partitioner"), skip)


def _add_assign(checks: Checks) -> None:
    @checks.add(
        "assign",
        "assign returns one owner for each row, -1 or a client of 0..clients-1, or refuses with a DataError or "
        "ConfigError.",
        why="A partition assigns rows to clients: a row with two owners would count twice, and a row of an unknown "
        "client would be lost.",
        todo="Return Assignment(owner, clients): owner int64 [rows], client_ids distinct text or None.",
    )
    def find(s: PartitionerSubject) -> Iterator[str]:
        for case_index, found in s.outcomes.items():
            case = s.cases[case_index]
            if isinstance(found, Exception) and not isinstance(found, REFUSALS):
                yield f"{case}: {said(found)}"
            elif not isinstance(found, Assignment | Exception):
                yield f"{case}: it returned {type(found).__name__}, expected an Assignment"
            elif isinstance(found, Assignment):
                yield from (f"{case}: {fault}" for fault in _faults(case, found))
        if all(isinstance(found, REFUSALS) for found in s.outcomes.values()):
            yield f"it refuses all cases, also {s.cases[0]}: {s.outcomes[0]}"

    @checks.add(
        "clients",
        "It makes the requested number of clients, unless sets_clients is True.",
        why="`--clients 20` gives twenty clients, some of them perhaps empty.",
        todo="Return Assignment(owner, clients) with the requested number; set sets_clients = True if the scheme "
        "ignores it.",
    )
    def find_clients(s: PartitionerSubject) -> Iterator[str]:
        for case, assignment in s.dealt():
            if case.clients is not None and assignment.clients != case.clients:
                yield f"{case}: it made {assignment.clients}"


def _add_seed(checks: Checks) -> None:
    @checks.add(
        "seed",
        "Equal generators give equal assignments, on any object and under any global random state; rows are unchanged.",
        why="`--seed 7` makes the same partition anywhere, byte for byte.",
        todo="Draw only from the generator argument; do not sort or shuffle rows in place.",
    )
    def find(s: PartitionerSubject) -> Iterator[str]:
        for case, assignment in s.dealt():
            differs = difference(assignment, s.assign(case, elsewhere=1))
            yield from [f"{case}: {differs}"] if differs else []
            rows = copied(case.rows)
            used = s.make()
            used.assign(rows, case.clients, np.random.default_rng(0))
            again = used.assign(copied(case.rows), case.clients, np.random.default_rng(0))
            differs = difference(assignment, again)
            yield from [f"{case}, on an object that was used before: {differs}"] if differs else []
            changed = difference(case.rows, rows)
            yield from [f"{case}: it changed the rows: {changed}"] if changed else []


def _add_edges(checks: Checks) -> None:
    @checks.add(
        "edges",
        "With more clients than rows, one row, or one class it assigns rows, or refuses with a DataError or "
        "ConfigError.",
        why="Users try small files first, and an IndexError does not explain the problem.",
        todo='Raise flctl.DataError("30 clients and 20 rows", hint=...) for impossible requests.',
    )
    def find(s: PartitionerSubject) -> Iterator[str]:
        x = np.zeros((3, 2), np.float32)
        group = {"site": np.array(["a", "a", "b"])}
        three = Dataset("three", "classification", x, np.zeros(3, np.int64), ("a", "b"), groups=group)
        one = Dataset("one", "regression", x[:1], np.zeros(1, np.float32), groups={"site": np.array(["a"])})
        for dataset in (three, one):
            for by in (None, "site"):
                for clients in (1, 2, 5, 40):
                    yield from _edge(s, Case(f"{len(dataset)} equal rows", dataset, by, clients))


def _edge(s: PartitionerSubject, case: Case) -> Iterator[str]:
    try:
        assignment = s.assign(case)
    except REFUSALS:
        return
    except Exception as error:
        yield f"{case}: {said(error)}"
        return
    yield from (f"{case}: {fault}" for fault in _faults(case, assignment))


def _add_alter(checks: Checks) -> None:
    @checks.add(
        "alter",
        "alter keeps shape and dtype, does not work in place, and depends only on its arguments.",
        why="It is called for each client's training and test rows, which may be empty, and again when a partition "
        "is repeated.",
        todo="Return new arrays of x.shape, x.dtype and y.dtype; draw from the generator argument.",
    )
    def find(s: PartitionerSubject) -> Iterator[str]:
        if type(s.make()).alter is Partitioner.alter:
            return
        for case, assignment in s.dealt():
            for rows in (0, 3):
                yield from (f"{case}: {fault}" for fault in _altered(s, case, assignment.clients, rows))


def _altered(s: PartitionerSubject, case: Case, clients: int, rows: int) -> Iterator[str]:
    results, x, y = [], case.dataset.x[:rows].copy(), case.dataset.y[:rows].copy()
    for elsewhere in (1, 2):
        scheme = s.make()
        scheme.assign(case.rows, case.clients, np.random.default_rng(0))
        kept = remembered(scheme)
        with global_seed(elsewhere):
            results.append(scheme.alter(x, y, 0, clients, np.random.default_rng(5)))
        if difference(kept, remembered(scheme)):
            yield "alter keeps state on the object, and clients are altered in any order"
    for given, found, name in zip((x, y), results[0], "xy", strict=True):
        if (found.shape, found.dtype) != (given.shape, given.dtype):
            yield f"{name} {given.dtype} {given.shape} became {found.dtype} {found.shape}"
    changed = difference((x, y), (case.dataset.x[:rows], case.dataset.y[:rows]))
    yield from [f"alter changed its arguments: {changed}"] if changed else []
    differs = difference(results[0], results[1])
    yield from [f"equal arguments gave unequal rows: {differs}"] if differs else []


def _add_written(checks: Checks) -> None:
    @checks.add(
        "written",
        "It writes a partition, and an identical one the second time.",
        why="Partitioning is the purpose of a scheme, and equal arguments give equal bytes.",
        todo="Follow the error message.",
    )
    def find(s: PartitionerSubject) -> Iterator[str]:
        case = max(s.dealt(), key=lambda dealt: dealt[1].clients)[0]
        digests = [
            write_partition(
                s.directory / name,
                case.dataset,
                s.make(),
                PartitionSpec(clients=case.clients, test_fraction=0.2, seed=5, by=case.by),
            ).digest
            for name in ("one", "two")
        ]
        if digests[0] != digests[1]:
            yield f"{case}: two partitions of one seed differ"


PARTITIONER = _all()
