"""Forked processes behave as those of `subprocess` do where several threads, or kills, meet at once."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from support import prefork

pytestmark = pytest.mark.skipif(not prefork.AVAILABLE, reason="forks")


def wait_for(process, codes):
    codes.append(process.wait())


def test_all_threads_that_wait_for_a_process_learn_its_exit_code():
    for _ in range(10):
        process = prefork.start([sys.executable, "-c", "input(); raise SystemExit(7)"], stdin=subprocess.PIPE)
        codes: list[int] = []
        threads = [threading.Thread(target=wait_for, args=(process, codes), daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        process.stdin.write(b"\n")
        process.stdin.close()
        for thread in threads:
            thread.join(60)
        assert codes == [7, 7, 7]


def test_a_wait_with_a_limit_ends_while_another_thread_waits_without_one():
    process = prefork.start([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    waiting.join(60)
    process.stdin.close()
    assert process.poll() == -9


def test_a_process_that_ended_just_now_may_be_killed(monkeypatch):
    process = prefork.start([sys.executable, "-c", ""])
    assert process.wait() == 0
    monkeypatch.setattr(process, "poll", lambda: None)  # as it was a moment before
    process.kill()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00\x01\x00", b"\x00\x00"])
def test_the_server_outlives_a_process_that_was_killed_while_it_asked(sent):
    prefork.start_server()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ[prefork.ADDRESS])
        asking.sendall(sent)
    assert prefork.run([sys.executable, "-c", "print(5)"]).stdout == "5\n"
