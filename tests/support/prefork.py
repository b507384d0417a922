"""Python processes that start in milliseconds: a server that has imported torch and flctl forks them.

A process that imports torch takes two to five CPU seconds to start. `Process` and `run` stand in for those of
`subprocess` where that start is not what a test is about. The server runs this file, in an interpreter of its own: it
never computes with torch, so that no thread of it can be missing in a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

__all__ = ["AVAILABLE", "Process", "as_subprocess", "run", "start", "start_server", "stop_server"]

AVAILABLE = hasattr(os, "fork") and hasattr(socket, "send_fds")
ADDRESS = "FLCTL_TEST_PREFORK"
"""Environment variable that names the server's socket."""
IMPORTED = (
    "torch",
    "torch._functorch.eager_transforms",
    "flctl.cli",
    "flctl.cli.train",
    "flctl.client.runtime",
    "flctl.executors.executor",
    "flctl.plugins.registry",
    "flctl.run.run",
    "flctl.server.training",
    "flctl.worker",
)
_LENGTH = struct.Struct("<I")


class Process:
    """A forked process with the interface of `subprocess.Popen`, as far as tests and pools of workers use it. `args`
    begin with `sys.executable`, then have `-P` or not, and `-c CODE`, `-m MODULE` or a script."""

    def __init__(
        self,
        args: Sequence[Any],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> None:
        start_server()
        self.args, self.returncode = [str(word) for word in args], None
        mine, theirs = zip(
            *(_stream(number, wanted) for number, wanted in enumerate((stdin, stdout, stderr))), strict=True
        )
        asked = {"args": self.args[1:], "cwd": str(cwd or Path.cwd()), "env": dict(os.environ if env is None else env)}
        self._one_waits = threading.Lock()
        self._status = socket.socket(socket.AF_UNIX)
        self._status.connect(os.environ[ADDRESS])
        packed = json.dumps(asked).encode()
        socket.send_fds(self._status, [_LENGTH.pack(len(packed))], theirs)
        self._status.sendall(packed)
        for end in theirs:
            os.close(end)
        (self.pid,) = _LENGTH.unpack(_read(self._status, _LENGTH.size))
        opened = [
            end if end is None else os.fdopen(end, "wb" if number == 0 else "rb") for number, end in enumerate(mine)
        ]
        self.stdin, self.stdout, self.stderr = opened if not text else map(_as_text, opened)

    def poll(self) -> int | None:
        """The exit code, minus the signal's number for a process that was killed; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        # One thread at a time: a second one would wait forever on a socket that the first has read and closed.
        if self.returncode is None and self._one_waits.acquire(timeout=-1 if timeout is None else timeout):
            try:
                if self.returncode is None:
                    self._receive_code(timeout)
            finally:
                self._one_waits.release()
        return self.returncode

    def _receive_code(self, timeout: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._status, selectors.EVENT_READ)
            if selector.select(timeout):
                self.returncode = struct.unpack("<i", _read(self._status, 4))[0]
                self._status.close()

    def send_signal(self, number: int) -> None:
        """Sends the signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # the server knows that it has ended, and is about to tell
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the process at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks the process to end."""
        self.send_signal(signal.SIGTERM)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """All that it still prints on the piped streams, after it has ended."""
        found: list[Any] = [None, None]

        def read(place: int, stream: IO[Any]) -> None:
            found[place] = stream.read()

        readers = [
            threading.Thread(target=read, args=(place, stream), daemon=True)
            for place, stream in enumerate((self.stdout, self.stderr))
            if stream
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return found[0], found[1]


def start(args: Sequence[Any], **options: Any) -> Process | subprocess.Popen[Any]:
    """As `subprocess.Popen`."""
    return (Process if AVAILABLE else subprocess.Popen)(args, **options)


def run(
    args: Sequence[Any],
    *,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run`, with what the process prints as text."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    process = start(args, stdin=subprocess.DEVNULL, **pipes, cwd=cwd, env=env, text=True)
    try:
        printed, told = process.communicate(timeout)
    finally:
        process.kill()
    done = subprocess.CompletedProcess(process.args, process.wait(), printed, told)
    if check:
        done.check_returncode()
    return done


def as_subprocess() -> SimpleNamespace:
    """What a module that starts processes finds under the name `subprocess`."""
    return SimpleNamespace(Popen=Process, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)


_server: list[subprocess.Popen[bytes]] = []


_starting = threading.Lock()


def start_server() -> None:
    """Starts this process's server, unless it has one or was forked by one. Threads may ask at the same time."""
    with _starting:
        if ADDRESS not in os.environ:
            _start_server()


def _start_server() -> None:
    address = Path(tempfile.mkdtemp(prefix="prefork-")) / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(64)
        command = [sys.executable, "-P", __file__, str(listening.fileno())]
        path = os.pathsep.join(filter(None, sys.path))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path, ADDRESS: str(address)}
        _server.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=env, pass_fds=[listening.fileno()]))
    os.environ[ADDRESS] = str(address)


def stop_server() -> None:
    """Ends the server that this process started, if it did, and counts its CPU time to this process's children."""
    while _server:
        process, address = _server.pop(), Path(os.environ.pop(ADDRESS))
        process.communicate()
        address.unlink()
        address.parent.rmdir()


def _stream(number: int, wanted: int | None) -> tuple[int | None, int]:
    """This process's end of one of the three streams, if it has one, and the other process's end."""
    if wanted == subprocess.PIPE:
        reads, writes = os.pipe()
        return (writes, reads) if number == 0 else (reads, writes)
    if wanted == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    return None, os.dup(number)


def _as_text(stream: IO[bytes] | None) -> IO[str] | None:
    return stream and os.fdopen(os.dup(stream.fileno()), stream.mode.rstrip("b"), encoding="utf-8")


def _read(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise EOFError("the server of forked processes is gone")
        data += part
    return data


def _serve(listening: socket.socket) -> None:
    """Forks what is asked for, and sends exit codes, until standard input ends."""
    asking: dict[int, socket.socket] = {}
    ended, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with selectors.DefaultSelector() as selector:
        for source in (listening, sys.stdin.fileno(), ended):
            selector.register(source, selectors.EVENT_READ)
        while True:
            sources = [key.fileobj for key, _ in selector.select()]
            if sys.stdin.fileno() in sources:
                return
            if ended in sources:
                os.read(ended, 4096)
                _report(asking)
            if listening in sources:
                _fork(listening, asking)


def _report(asking: dict[int, socket.socket]) -> None:
    """Sends the exit codes of the processes that have ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with asking.pop(found[0]) as status, contextlib.suppress(OSError):
                status.sendall(struct.pack("<i", os.waitstatus_to_exitcode(found[1])))


def _fork(listening: socket.socket, asking: dict[int, socket.socket]) -> None:
    status, _ = listening.accept()
    streams: list[int] = []
    try:
        head, streams, _, _ = socket.recv_fds(status, _LENGTH.size, 3)
        asked = json.loads(_read(status, _LENGTH.unpack(head)[0]))
    except (OSError, EOFError, struct.error):  # it was killed before it had asked
        status.close()
    else:
        asking[_forked(asked, streams, (listening, status, *asking.values()))] = status
    for stream in streams:
        os.close(stream)


def _forked(asked: Mapping[str, Any], streams: Sequence[int], sockets: Sequence[socket.socket]) -> int:
    """Forks the process that was asked for, sends its number on the second of `sockets`, and returns it."""
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
        for other in sockets:
            other.close()
        os._exit(_be(asked, streams))
    with contextlib.suppress(OSError):
        sockets[1].sendall(_LENGTH.pack(pid))
    return pid


def _be(asked: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Becomes the process that was asked for, in a fork; its exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(asked["cwd"])
    address = os.environ[ADDRESS]
    os.environ.clear()
    os.environ.update({**asked["env"], ADDRESS: address})
    code = _exit_code(list(asked["args"]))
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    return code


def _exit_code(args: list[str]) -> int:
    try:
        _interpret(args)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return (end.code or 0) & 0xFF
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        traceback.print_exc()
        return 1
    return 0


def _interpret(args: list[str]) -> None:
    """As the interpreter does with its arguments."""
    isolated = args[0] == "-P"
    if isolated:
        args = args[1:]
    kind, rest = (args[0], args[1:]) if args[0] in ("-c", "-m") else ("", args)
    here = [] if isolated else [str(Path(rest[0]).parent) if not kind else ""]
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*here, *filter(None, named), *(place for place in sys.path if place not in named)]
    sys.argv = [kind, *rest[1:]] if kind else rest
    if kind == "-c":
        main = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(rest[0], "<string>", "exec"), main)
    elif kind == "-m":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported by the server
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(rest[0], run_name="__main__")


def _warm() -> None:
    """Imports what the forked processes need; their pools of workers are forked too."""
    for name in IMPORTED:
        importlib.import_module(name)
    from flctl.engines import worker_process
    from flctl.plugins.registry import Registry

    Registry()  # imports the plugins

    worker_process.subprocess = as_subprocess()
    gc.freeze()  # a collection in a fork would copy every page of what was imported


if __name__ == "__main__":
    _warm()
    _serve(socket.socket(fileno=int(sys.argv[1])))
