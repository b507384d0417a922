"""Client memory: what a round reads does not depend on rounds that are run again, kills, or lost power."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import memory_driver, prefork

from flctl.client import memory_files
from flctl.client.memory_store import MemoryStore
from flctl.errors import FlctlError, IncompatibleError, IntegrityError, StorageError

DRIVER = [sys.executable, memory_driver.__file__]
LAYOUT = {"b": 2, "a": 3}
FILES = ("memory.json", "stamps.bin", "records.bin")


def stack(*values: float) -> dict[str, np.ndarray]:
    """For each value a client's vectors: a = (v, v, v), b = (-v, -v)."""
    column = np.array(values, np.float32)[:, None]
    return {"a": np.repeat(column, 3, axis=1), "b": np.repeat(-column, 2, axis=1)}


def check(store: MemoryStore, clients: list[int], before: int, values: list[float]) -> None:
    """That the clients read these values; 0 stands for nothing."""
    arrays, found = store.read(np.array(clients), before)
    assert found.tolist() == [value != 0 for value in values]
    for name, expected in stack(*values).items():
        np.testing.assert_array_equal(arrays[name], expected)


@pytest.fixture(params=["positioned", "seeking"])
def store(request, tmp_path, monkeypatch):
    """An empty store of ten clients; also as it works where the system cannot read and write at a place."""
    if request.param == "positioned" and not memory_files.POSITIONED:
        pytest.skip("this system seeks")
    monkeypatch.setattr(memory_files, "POSITIONED", request.param == "positioned")
    return MemoryStore(tmp_path / "memory", 10, LAYOUT)


def test_a_round_reads_the_newest_before_it(store):
    check(store, [4, 2], 1, [0, 0])
    store.write([2, 7], 1, stack(21, 71))
    store.write([2], 4, stack(24))
    check(store, [7, 2, 3], 4, [71, 21, 0])
    check(store, [7, 2, 3], 5, [71, 24, 0])
    check(store, [2], 1, [0])
    assert store.newest(3, 9) is None
    number, arrays = store.newest(2, 9)
    assert (number, arrays["a"].tolist(), arrays["b"].tolist()) == (4, [24] * 3, [-24] * 2)


def test_a_client_that_is_asked_again_reads_what_it_read_and_writes_again(store):
    for number, value in ((1, 1.0), (2, 2.0), (3, 3.0), (3, 3.5), (3, 3.25)):
        check(store, [5], number, [number - 1.0])
        store.write([5], number, stack(value))
    check(store, [5], 4, [3.25])


def test_what_is_read_is_contiguous_writable_float32_for_torch(store):
    store.write([1, 2, 3], 1, stack(1, 2, 3))
    for array in store.read([3, 1, 9], 2)[0].values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_a_resume_finds_what_the_checkpoint_rests_on(store):
    for number in (1, 2, 3):
        store.write([0, 1], number, stack(number, 10 * number))
        store.settle(number)
    store.write([1], 4, stack(40))
    for number in (5, 6, 7, 8):
        store.write([0], number, stack(number))
    store.forget_after(3)
    check(store, [0, 1], 99, [3, 30])


def test_going_back_behind_a_settled_round_is_refused_where_memory_is_gone(store):
    store.write([0], 1, stack(1))
    store.settle(2)
    store.write([0, 1], 3, stack(3, 13))
    store.forget_after(1)  # nobody wrote between rounds 1 and 2
    store.write([0], 3, stack(3))
    store.settle(3)
    with pytest.raises(IncompatibleError, match="belongs to the checkpoint of round 3 and cannot go back to round 2"):
        store.forget_after(2)
    check(store, [0], 4, [3])
    store.forget_after(0)  # before the first round nobody remembers anything
    check(store, [0, 1], 4, [0, 0])


def test_nothing_is_made_before_the_first_write(store):
    store.read([1], 1)
    store.sync()
    store.settle(1)
    store.forget_after(0)
    assert not store.directory.exists()
    store.create()
    store.create()
    assert sorted(path.name for path in store.directory.iterdir()) == sorted(FILES)
    assert [path.name for path in store.directory.parent.iterdir()] == ["memory"]


def test_an_empty_layout_never_touches_the_disk(tmp_path):
    store = MemoryStore(tmp_path / "memory", 3, {})
    store.write([0, 2], 1, {})
    store.create()
    arrays, found = store.read([0, 1], 2)
    assert (arrays, found.tolist()) == ({}, [False, False])
    assert list(tmp_path.iterdir()) == []


def test_vectors_without_length_are_remembered_too(tmp_path):
    store = MemoryStore(tmp_path / "memory", 3, {"none": 0})
    store.write([0, 2], 1, {"none": np.zeros((2, 0), np.float32)})
    arrays, found = store.read([0, 1, 2], 2)
    assert (arrays["none"].shape, found.tolist()) == ((3, 0), [True, False, True])


def test_many_clients_in_any_order_with_more_vectors_than_a_system_call_takes(tmp_path):
    layout = {f"v{i}": i for i in range(5)}
    store, rng = MemoryStore(tmp_path / "memory", 5000, layout), np.random.default_rng(2)
    known = {name: np.zeros((5000, length), np.float32) for name, length in layout.items()}
    for number in range(1, 7):
        clients = rng.permutation(5000)[: rng.integers(1, 3000)] if number % 2 else np.arange(4000)
        values = {name: rng.random((len(clients), n), np.float32) for name, n in layout.items()}
        store.write(clients, number, values)
        for name, array in values.items():
            known[name][clients] = array
        asked = rng.integers(0, 5000, 4000)  # some of them twice
        for name, array in store.read(asked, number + 1)[0].items():
            np.testing.assert_array_equal(array, known[name][asked])


@pytest.mark.skipif(not memory_files.POSITIONED, reason="this system seeks")
def test_a_system_call_may_take_fewer_bytes_than_it_was_given(tmp_path, monkeypatch):
    read, write = os.preadv, os.pwritev
    monkeypatch.setattr(os, "preadv", lambda file, views, place: read(file, [views[0][:7]], place))
    monkeypatch.setattr(os, "pwritev", lambda file, views, place: write(file, [views[0][:5]], place))
    store = MemoryStore(tmp_path / "memory", 10, LAYOUT)
    store.write([1, 2, 3], 1, stack(1, 2, 3))
    monkeypatch.setattr(os, "pwritev", write)
    check(store, [3, 2, 1], 2, [3, 2, 1])


def test_sync_puts_both_files_on_disk(store, monkeypatch):
    store.write([1], 1, stack(1))
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda file: synced.add(os.fstat(file).st_ino))
    MemoryStore(store.directory, 10, LAYOUT).sync()  # by another process than the one that wrote
    assert synced == {(store.directory / name).stat().st_ino for name in FILES[1:]}


WRONG = {
    "another name": {"a": np.zeros((2, 3), np.float32), "c": np.zeros((2, 2), np.float32)},
    "a name too many": {**stack(1, 2), "c": np.zeros((2, 2), np.float32)},
    "another length": {**stack(1, 2), "b": np.zeros((2, 3), np.float32)},
    "float64": {**stack(1, 2), "b": np.zeros((2, 2))},
    "fewer rows": stack(1),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_vectors_than_announced_are_refused(store, kind):
    with pytest.raises(FlctlError, match=r"vectors to remember: found .*, expected 'a' \[2, 3\] float32, 'b' \[2, 2\]"):
        store.write([0, 1], 1, WRONG[kind])
    assert not store.directory.exists()


@pytest.mark.parametrize(("clients", "number"), [([1, 1], 1), ([0, 10], 1), ([-1, 1], 1), ([0, 1], 0), ([0, 1], 2**32)])
def test_numbers_out_of_bounds_are_refused(store, clients, number):
    with pytest.raises(ValueError, match="client"):
        store.write(clients, number, stack(1, 2))
    assert not store.directory.exists()


def test_other_clients_or_another_layout_are_incompatible(store):
    store.write([1], 1, stack(1))
    MemoryStore(store.directory, 10, {"a": 3, "b": 2})
    for clients, layout, named in ((11, LAYOUT, "clients 10"), (10, {"a": 2, "b": 3}, "layout"), (10, {}, "layout")):
        with pytest.raises(IncompatibleError, match=f"has the {named}"):
            MemoryStore(store.directory, clients, layout)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "longer", "shorter", "foreign", "a link"])
def test_files_of_another_size_or_kind_are_found_before_they_are_read(store, name, damage):
    store.write([1], 1, stack(1))
    path = store.directory / name
    data = path.read_bytes()
    path.unlink()
    if damage == "a link":
        (store.directory / "elsewhere").write_bytes(data)
        path.symlink_to("elsewhere")
    elif damage != "missing":
        new = {"empty": b"", "longer": data + b"\0", "shorter": data[:-2], "foreign": b'{"a": [1, 2]}'}[damage]
        path.write_bytes(new)
    with pytest.raises(IntegrityError, match=f"client memory .*{name} (is missing|has|is damaged|is not)") as caught:
        MemoryStore(store.directory, 10, LAYOUT)
    assert "start a new run" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 5000, " " * (1 << 20) + "{}", '{"format": 1}'])
def test_a_manifest_that_is_none_is_found(store, text):
    store.create()
    (store.directory / "memory.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"memory\.json is (damaged|too large): "):
        MemoryStore(store.directory, 10, LAYOUT)


def test_another_format_is_incompatible(store):
    store.create()
    path = store.directory / "memory.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "flctl-memory/2"}))
    with pytest.raises(IncompatibleError, match="'flctl-memory/2'; this version of flctl reads 'flctl-memory/1'"):
        MemoryStore(store.directory, 10, LAYOUT)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "mine.txt").write_text("kept")
    with pytest.raises(IntegrityError, match=r"memory\.json is missing"):
        MemoryStore(tmp_path / "memory", 10, LAYOUT)
    assert [path.name for path in (tmp_path / "memory").iterdir()] == ["mine.txt"]


def test_every_changed_bit_of_a_record_or_its_entry_is_found(tmp_path):
    """Client 6 in the first slot: its record has 20 bytes, its entry 8 after the 8 of the settled round."""
    store = MemoryStore(tmp_path / "memory", 10, LAYOUT)
    store.write([5, 6, 7], 3, stack(5, 6, 7))
    for name, start, length in (("records.bin", 6 * 20, 20), ("stamps.bin", 8 + 6 * 8, 8)):
        path = store.directory / name
        whole = path.read_bytes()
        for bit in range(8 * start, 8 * (start + length)):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(IntegrityError, match=r"client memory: .*client 6 (from round|has a record)") as caught:
                store.read([5, 6, 7], 2**32)
            check(store, [5, 7], 4, [5, 7])
        path.write_bytes(whole)
    assert "start a new run" in caught.value.hint
    check(store, [6], 4, [6])


def test_a_record_of_another_client_or_round_is_found(store):
    """The same vectors in every record: only the check sum's beginning tells them apart."""
    store.write([0, 1], 1, stack(1, 1))
    store.write([2], 2, stack(1))
    path = store.directory / "stamps.bin"
    words = np.frombuffer(path.read_bytes(), np.uint64)
    for moved in ([0, 2, 1, 3], [0, 3, 2, 1]):  # the entries of clients 0 and 1, or of 0 and 2
        path.write_bytes(words[[*moved, *range(4, len(words))]].tobytes())
        with pytest.raises(IntegrityError, match="record of client 0 from round"):
            store.read([0], 3)


def test_a_file_that_shrinks_while_it_is_open_is_found(store):
    store.write([9], 1, stack(9))
    os.truncate(store.directory / "records.bin", 9 * 20 + 5)
    with pytest.raises(IntegrityError, match="became shorter while it was open"):
        store.read([9], 2)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_disk_without_room_is_an_error_in_the_write_and_loses_nothing(store):
    """The limit of a process's file size stands for a full disk: the system refuses the write alike."""
    import resource

    store.write([2, 8], 1, stack(21, 81))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15 * 20, limits[1]))  # the record of client 5 in the second slot
    try:
        with pytest.raises(StorageError, match=rf"cannot write .*records\.bin: {os.strerror(errno.EFBIG)}") as caught:
            store.write([2, 4, 5, 8], 2, stack(22, 42, 52, 82))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Free disk space" in caught.value.hint
    check(store, [2, 4, 5, 8], 3, [21, 0, 0, 81])
    store.write([2, 4, 5, 8], 2, stack(22, 42, 52, 82))
    check(store, [2, 4, 5, 8], 3, [22, 42, 52, 82])


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process")
def test_a_store_that_does_not_fit_is_refused_when_it_is_made(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            MemoryStore(tmp_path / "memory", 1000, {"c": 1000}).create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


class KilledError(BaseException):
    """What takes the place of SIGKILL within one process."""


class Disk:
    """The files as the system sees them, and what a power loss may leave of them.

    Since the last sync each word of 8 bytes may be on disk as it was then, or as any write since then left it,
    whatever became of the words beside it. `countdown` writes from now the process is killed, `cut` bytes into one.
    """

    WORD = 8

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.countdown: int | None = None
        self.cut = 0
        self._original = memory_files._RecordFile.write
        self.settle()

    def __enter__(self) -> Disk:
        def write(file, views, place):
            data = b"".join(views)
            if self.countdown == 0:
                # Whole words, as the system copies them; a record may lie across them.
                data = data[: max(0, self.cut * self.WORD - place % self.WORD)]
            if data:
                self._original(file, [memoryview(data)], place)
                self._log.append((file._path.name, place, data))
            if self.countdown is not None:
                self.countdown -= 1
                if self.countdown < 0:
                    raise KilledError

        memory_files._RecordFile.write = write
        return self

    def __exit__(self, *_) -> None:
        memory_files._RecordFile.write = self._original

    def settle(self) -> None:
        """Everything is on disk."""
        self._safe = {name: (self.directory / name).read_bytes() for name in FILES[1:]}
        self._log: list[tuple[str, int, bytes]] = []

    def lose_power(self, dice: random.Random) -> None:
        for name, safe in self._safe.items():
            now, words = bytearray(safe), {}
            for place, data in ((place, data) for written, place, data in self._log if written == name):
                now[place : place + len(data)] = data
                for start in range(place - place % self.WORD, place + len(data), self.WORD):
                    part = slice(start, start + self.WORD)
                    words.setdefault(start, [safe[part]]).append(bytes(now[part]))
            left, choose = bytearray(safe), dice.choice([lambda v: v[0], lambda v: v[-1], dice.choice, dice.choice])
            for start, versions in words.items():
                left[start : start + self.WORD] = choose(versions)
            (self.directory / name).write_bytes(left)
        self.settle()


class MemoryMachine(RuleBasedStateMachine):
    """Rounds, checkpoints, kills and power losses, against a dictionary: client -> (round, value)."""

    CLIENTS = 4
    cohorts = st.just([3, 0, 1, 2]) | st.lists(st.integers(0, CLIENTS - 1), unique=True)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.value = 0

    @initialize(first=st.sampled_from([0, 250, 2**16 - 3, 2**32 - 200]))
    def start(self, first: int) -> None:
        self.open()
        self.server.create()
        self.disk = Disk(self.folder / "memory")
        self.disk.__enter__()
        self.round, self.known = first, {}
        self.saved = first, {}

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.__exit__()
        shutil.rmtree(self.folder)

    def open(self) -> None:
        """Three processes: the server, and two that clients run in."""
        self.server, *self.workers = (MemoryStore(self.folder / "memory", self.CLIENTS, LAYOUT) for _ in range(3))

    def ask(self, worker: int, cohort: list[int]) -> dict[int, tuple[int, float]]:
        """The cohort reads what the dictionary says and writes; what it wrote."""
        number = self.round + 1
        check(self.workers[worker], cohort, number, [self.known.get(client, (0, 0))[1] for client in cohort])
        values = [self.value + i + 1.0 for i in range(len(cohort))]
        self.value += len(cohort)
        self.wanted = {client: (number, value) for client, value in zip(cohort, values, strict=True)}
        self.workers[worker].write(cohort, number, stack(*values))
        return self.wanted

    @rule(cohort=cohorts, rounds=st.integers(1, 5))
    def play_some(self, cohort: list[int], rounds: int) -> None:
        """Rounds of the same clients."""
        for _ in range(rounds):
            self.play(cohort, [], False)

    @rule(cohort=cohorts, again=cohorts, others=st.booleans())
    def play(self, cohort: list[int], again: list[int], others: bool) -> None:
        """A round in which some clients are asked twice."""
        half = len(cohort) // 2
        written = {**self.ask(0, cohort[:half]), **self.ask(1, cohort[half:])}
        written |= self.ask(int(others), [client for client in again if client in cohort])
        self.known = {**self.known, **written}
        self.round += 1

    @rule(cohort=cohorts, twice=st.booleans(), again=st.booleans(), countdown=st.integers(0, 8), cut=st.integers(0, 12))
    def lose_worker(self, cohort: list[int], twice: bool, again: bool, countdown: int, cut: int) -> None:
        """A worker is killed while it writes, and the round goes on: each client has what it wrote or what it had."""
        first = self.ask(0, cohort) if twice else {}
        self.disk.countdown, self.disk.cut = countdown, cut
        try:
            self.ask(0, cohort)
        except KilledError:
            self.workers[0] = MemoryStore(self.folder / "memory", self.CLIENTS, LAYOUT)
        self.disk.countdown = None
        left = {client: self.told(client, self.round + 2) for client in cohort}
        for client, found in left.items():
            assert found in (self.known.get(client), first.get(client), self.wanted[client])
        if again:
            left = self.ask(1, cohort)
        self.known = {**self.known, **{client: found for client, found in left.items() if found}}
        self.round += 1

    @rule(early=st.booleans())
    def save(self, early: bool) -> None:
        """A checkpoint; `early`: one that is played on from before it is settled is killed then, and resumed."""
        self.server.sync()
        self.disk.settle()
        self.saved = self.round, dict(self.known)
        if early:
            self.resume()
        else:
            self.server.settle(self.round)

    def resume(self) -> None:
        self.open()
        self.server.forget_after(self.saved[0])
        self.round, self.known = self.saved[0], dict(self.saved[1])

    @rule(
        cohort=cohorts,
        save=st.booleans(),
        countdown=st.integers(0, 12),
        cut=st.integers(0, 12),
        seed=st.none() | st.integers(0, 1 << 16),
        again=st.none() | st.integers(0, 4),
    )
    def crash(self, cohort, save, countdown, cut, seed, again) -> None:
        """A kill in a round or in what follows it, perhaps with the power, and another while the run resumes."""
        self.disk.countdown, self.disk.cut = countdown, cut
        try:
            self.play(cohort, cohort[:2], True)
            if save:
                self.save(False)
            self.play(cohort, [], True)
        except KilledError:
            pass
        for left in (again, None):
            if seed is not None:
                self.disk.lose_power(random.Random(seed))
            self.disk.countdown = left
            try:
                self.resume()
            except KilledError:
                continue
            break
        self.disk.countdown = None

    @invariant()
    def every_client_remembers_what_the_dictionary_says(self) -> None:
        assert {c: self.told(c, self.round + 1) for c in range(self.CLIENTS)} == {
            client: self.known.get(client) for client in range(self.CLIENTS)
        }

    def told(self, client: int, before: int) -> tuple[int, float] | None:
        """The round and the value that the store has for a client."""
        found = self.server.newest(client, before)
        if found is None:
            return None
        for name, vector in stack(float(found[1]["a"][0])).items():
            np.testing.assert_array_equal(found[1][name], vector[0])
        return found[0], float(found[1]["a"][0])


class ManyRuns(MemoryMachine):
    """The same machine, for the slow tests."""


def steps(examples: int) -> settings:
    return settings(
        deadline=None, max_examples=examples, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
    )


MemoryMachine.TestCase.settings = steps(10)
ManyRuns.TestCase.settings = steps(100)
TestAgainstADictionary = MemoryMachine.TestCase
TestManyRunsAgainstADictionary = pytest.mark.slow(ManyRuns.TestCase)


def same_as_never_killed(folder: Path, number: int) -> None:
    store = MemoryStore(folder / "memory", memory_driver.CLIENTS, memory_driver.LAYOUT)
    expected = memory_driver.expected(number)
    for client in range(memory_driver.CLIENTS):
        found = store.newest(client, 1 << 32)
        if client not in expected:
            assert found is None
            continue
        assert found[0] == expected[client][0]
        for name, vector in expected[client][1].items():
            np.testing.assert_array_equal(found[1][name], vector)


@pytest.mark.parametrize(("rounds", "fewest"), [(10, 1), pytest.param(30, 4, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_anywhere_leaves_what_its_checkpoint_rests_on(tmp_path, rounds, fewest):
    dice, started = random.Random(5), 0
    while memory_driver.checkpoint(tmp_path) < rounds:
        process = prefork.start([*DRIVER, "train", str(tmp_path), "60"], stdout=subprocess.PIPE, text=True)
        for _ in range(dice.randint(4, 9)):
            process.stdout.readline()
        time.sleep(dice.uniform(0, 0.002))
        process.kill()
        process.communicate()
        started += 1
        done = memory_driver.checkpoint(tmp_path)
        copy = tmp_path / f"copy-{started}"  # the next process finds what the kill left
        shutil.copytree(tmp_path / "memory", copy / "memory")
        MemoryStore(copy / "memory", memory_driver.CLIENTS, memory_driver.LAYOUT).forget_after(done)
        same_as_never_killed(copy, done)
    assert started >= fewest
    prefork.run([*DRIVER, "train", str(tmp_path), "60"], check=True)
    same_as_never_killed(tmp_path, 60)


def test_processes_that_write_neighbouring_clients_at_once_do_not_disturb_each_other(tmp_path):
    """They also race for making the files."""
    commands = [[*DRIVER, "share", str(tmp_path), "30", str(part), "3"] for part in range(3)]
    processes = [
        prefork.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    same_as_never_killed(tmp_path, 30)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="measures as POSIX does")
def test_memory_does_not_grow_with_what_was_read_and_written(tmp_path):
    """20,000 clients with 10,000 floats: 2.4 GB in three slots, of which 0.6 GB are written; a cohort has 8 MB."""
    command = [*DRIVER, "measure", str(tmp_path), "20000", "10000", "200", "80"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    grown = int(done.stdout) // (1 if sys.platform == "linux" else 1024)
    assert grown < 64 << 10, f"{grown} KiB"
    assert sum(path.stat().st_size for path in (tmp_path / "memory").iterdir()) > 2_400_000_000
