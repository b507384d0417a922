"""Files and directories that are whole or absent: after errors, interrupts, a kill and a full disk."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flctl import atomic
from flctl.errors import ConfigError, StorageError


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_write_file_puts_all_bytes_and_replaces_the_old_ones(tmp_path):
    target = tmp_path / "a" / "b" / "note.json"
    atomic.write_file(target, b"old")
    atomic.write_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["note.json"]


def test_write_file_refuses_to_replace_when_told(tmp_path):
    target = tmp_path / "note.json"
    target.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"note\.json exists already"):
        atomic.write_file(target, b"theirs", replace=False)
    assert target.read_bytes() == b"mine"


def test_new_file_leaves_the_old_bytes_when_the_block_fails(tmp_path):
    target = tmp_path / "note.json"
    target.write_bytes(b"old")

    def fail_midway():
        with atomic.new_file(target, replace=True) as handle:
            handle.write(b"half")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail_midway()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["note.json"]


def test_new_directory_appears_whole_at_the_end(tmp_path):
    target = tmp_path / "parts" / "x"
    with atomic.new_directory(target) as partial:
        (partial / "report").mkdir()
        (partial / "report" / "a.csv").write_text("1")
        assert not target.exists()
        assert partial.parent == target.parent
    assert (target / "report" / "a.csv").read_text() == "1"
    assert names(target.parent) == ["x"]


@pytest.mark.parametrize("kind", ["empty directory", "directory", "file", "dangling link"])
def test_new_directory_refuses_whatever_exists(tmp_path, kind):
    target = tmp_path / "x"
    if kind.endswith("directory"):
        target.mkdir()
        if kind == "directory":
            (target / "mine").write_text("keep")
    elif kind == "file":
        target.write_text("keep")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="exists already"), atomic.new_directory(target):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("fill", [True, False])
def test_new_directory_never_replaces_what_came_to_exist_in_between(tmp_path, fill):
    target = tmp_path / "x"

    def come_second():
        with atomic.new_directory(target) as partial:
            (partial / "a").write_text("late")
            target.mkdir()
            if fill:
                (target / "first").write_text("first")

    with pytest.raises(ConfigError, match="exists already"):
        come_second()
    assert names(target) == (["first"] if fill else [])
    assert names(tmp_path) == ["x"]


def test_new_file_never_replaces_what_came_to_exist_in_between(tmp_path, monkeypatch):
    target = tmp_path / "x"
    check = atomic.refuse_existing

    def check_then_lose_the_race(path):
        check(path)
        target.write_bytes(b"first")

    def come_second():
        with atomic.new_file(target) as handle:
            handle.write(b"second")
            monkeypatch.setattr(atomic, "refuse_existing", check_then_lose_the_race)

    with pytest.raises((ConfigError, StorageError), match="x"):
        come_second()
    assert target.read_bytes() == b"first"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_new_directory_leaves_nothing_after_any_exception_not_even_parents(tmp_path, error):
    def fail_midway():
        with atomic.new_directory(tmp_path / "made" / "here" / "x") as partial:
            (partial / "a").write_text("half")
            raise error

    with pytest.raises(error):
        fail_midway()
    assert names(tmp_path) == []


def test_parents_that_others_filled_stay(tmp_path):
    def fail_midway():
        with atomic.new_directory(tmp_path / "made" / "x") as partial:
            (partial.parent / "theirs").write_text("keep")
            raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"):
        fail_midway()
    assert names(tmp_path / "made") == ["theirs"]


def test_an_error_of_the_block_that_is_not_about_writing_keeps_its_own_name(tmp_path):
    with pytest.raises(FileNotFoundError), atomic.new_directory(tmp_path / "x"):
        (tmp_path / "no such source").read_bytes()


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), atomic.new_directory(tmp_path / "file" / "x"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_file_size_limit_is_a_storage_error_and_leaves_nothing(tmp_path, kind):
    def fill():
        if kind == "file":
            atomic.write_file(tmp_path / "x", bytes(2000))
        else:
            with atomic.new_directory(tmp_path / "x") as partial:
                (partial / "a").write_bytes(bytes(2000))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


WRITER = """
    import sys, time
    from pathlib import Path
    from flctl import atomic
    with atomic.new_directory(Path(sys.argv[1])) as partial:
        (partial / "a").write_bytes(bytes(1000))
        print("ready", flush=True)
        time.sleep(600)
"""


def start_writer(target: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def stop(process: subprocess.Popen[bytes], how: int) -> None:
    process.send_signal(how)
    process.wait()
    process.stdout.close()


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_a_living_ones_is_not(tmp_path):
    killed, living = start_writer(tmp_path / "x"), start_writer(tmp_path / "y")
    try:
        stop(killed, signal.SIGKILL)
        assert len([name for name in names(tmp_path) if name.startswith(".x.")]) == 2
        with atomic.new_directory(tmp_path / "z") as partial:
            (partial / "a").write_text("1")
        left = names(tmp_path)
        assert [name for name in left if not name.startswith(".y.")] == ["z"]
        assert len(left) == 3
    finally:
        stop(living, signal.SIGINT)
    assert names(tmp_path) == ["z"]


def test_a_lock_without_its_partial_is_removed_when_it_is_old(tmp_path):
    fresh, old = tmp_path / ".a.1.flctl-lock", tmp_path / ".a.2.flctl-lock"
    for lock in (fresh, old):
        lock.touch()
    os.utime(old, (0, 0))
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == [fresh.name]


def test_what_a_killed_write_file_left_is_removed_when_it_is_old(tmp_path):
    fresh, old = tmp_path / ".a.1.flctl-unlocked", tmp_path / ".a.2.flctl-unlocked"
    for partial in (fresh, old):
        partial.touch()
    os.utime(old, (0, 0))
    with atomic.new_directory(tmp_path / "x"):
        pass
    assert names(tmp_path) == [fresh.name, "x"]


def test_only_the_projects_own_temporaries_are_removed(tmp_path):
    (tmp_path / "kept.flctl-partial").mkdir()
    (tmp_path / ".hidden").mkdir()
    atomic.remove_abandoned(tmp_path)
    assert names(tmp_path) == [".hidden", "kept.flctl-partial"]


def test_a_long_name_has_room_for_its_temporary(tmp_path):
    target = tmp_path / ("é" * 120)
    atomic.write_file(target, b"1")
    assert target.read_bytes() == b"1"
