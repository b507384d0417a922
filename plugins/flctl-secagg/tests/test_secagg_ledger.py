"""The record of sessions under many processes: whoever comes at once is served, and what is in the way is named."""

import multiprocessing
import sqlite3
from threading import Timer

import pytest
from flctl_secagg.client import ledger
from flctl_secagg.client.ledger import Ledger

from flctl import ProtocolError, StorageError

PROCESSES, RECORDS = 5, 40


def _claim(folder, me, barrier, refusals):
    """Opens new records at the same moments as the others."""
    refused = []
    for number in range(RECORDS):
        barrier.wait()
        try:
            Ledger(folder / f"{number}.sqlite").claim(f"client {me}", b"session", 1)
        except StorageError as error:
            refused.append(error.message)
    refusals.put(refused)


def test_processes_that_open_a_new_record_at_once_are_all_served(tmp_path):
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    barrier, refusals = context.Barrier(PROCESSES), context.Queue()
    started = [
        context.Process(target=_claim, args=(tmp_path, me, barrier, refusals), daemon=True) for me in range(PROCESSES)
    ]
    for process in started:
        process.start()
    assert [refusals.get() for _ in started] == [[]] * PROCESSES
    for process in started:
        process.join()
    for number in range(RECORDS):
        for me in range(PROCESSES):
            with pytest.raises(ProtocolError, match="already taken"):
                Ledger(tmp_path / f"{number}.sqlite").claim(f"client {me}", b"session", 1)


class Refusing(sqlite3.Connection):
    """Says at once that it is locked, as SQLite does where two processes switch to the journal; the third one works."""

    refusals = 0

    def execute(self, statement, *values):
        if "journal_mode" in statement and Refusing.refusals < 2:
            Refusing.refusals += 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(statement, *values)


def test_a_refusal_without_waiting_is_tried_again(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *given, **more: connect(*given, **more, factory=Refusing))
    Ledger(tmp_path / "record").claim("a", b"session", 1)
    assert Refusing.refusals == 2


def held(path):
    """A connection that has the whole new file to itself."""
    connection = sqlite3.connect(path, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("CREATE TABLE other (x)")
    return connection


def test_a_record_that_another_process_sets_up_is_waited_for(tmp_path):
    other = held(tmp_path / "record")
    release = Timer(0.2, other.rollback)
    release.start()
    Ledger(tmp_path / "record").claim("a", b"session", 1)
    release.join()


def test_being_locked_out_is_not_called_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "_SECONDS", 0.05)
    other = held(tmp_path / "record")
    with pytest.raises(StorageError, match="another process has held the record") as refused:
        Ledger(tmp_path / "record").claim("a", b"session", 1)
    assert "disk" not in refused.value.hint
    other.rollback()


def test_a_file_that_is_no_record_is_refused_at_once(tmp_path):
    (tmp_path / "record").write_bytes(b"anything else" * 100)
    with pytest.raises(StorageError, match="cannot be used: file is not a database"):
        Ledger(tmp_path / "record").claim("a", b"session", 1)
