"""The hub as a program: it starts, says its state, ends on a signal, and loads no code of models or plugins."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flctl.cli import run
from flctl.cli.federation import serve as serve_command
from flctl.errors import ConfigError, MissingExtraError
from flctl.federation.hub.enrolling import FederationFolder
from flctl.federation.hub.program import HubOptions, run_hub
from flctl.federation.hub.serve import Listening
from flctl.federation.identity.enrolment import Founding, found
from flctl.federation.identity.homes import FederationHome

IMPORTED = """
import sys
import flctl.federation.hub.program, flctl.federation.transport.hub_client, flctl.federation.transport.joining_calls
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "numpy", "pandas", "sklearn", "pluggy", "typer"}))
print(sorted(name for name in sys.modules if name.startswith("flctl.") and not name.startswith("flctl.federation.")))
"""


@pytest.fixture
def home(tmp_path: Path) -> FederationHome:
    made = FederationHome(tmp_path / "federation")
    found(made, Founding("hospitals", "https://localhost:8443"))
    return made


@pytest.fixture
def served(home: FederationHome) -> Iterator[FederationHome]:
    """The folder while a hub serves it, in a process as users start it."""
    command = [sys.executable, "-m", "flctl", "federation", "serve", "--home", str(home.path), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "the hub of hospitals listens on 0.0.0.0 port" in process.stderr.readline()
            assert "the operator's key lies in the hub's folder" in process.stderr.readline()
            yield home
            process.send_signal(signal.SIGTERM)
            assert process.communicate(timeout=30)[1] == "the hub has ended\n"
            assert process.returncode == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_hub_serves_says_its_state_and_ends_on_a_signal(
    served: FederationHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["federation", "status", "--home", str(served.path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["federation"], data["roster"]["version"], data["numbers"]["open_tasks"]) == ("hospitals", 1, 0)
    assert run(["federation", "status", "--home", str(served.path)]) == 0
    assert "waiting to join" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="another hub serves"):
        run_hub(served, HubOptions(port=0), lambda where, members: None)


def test_the_hub_and_its_client_import_neither_torch_nor_plugins() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    heavy, own = done.stdout.splitlines()
    assert heavy == "[]"
    assert own == "['flctl.atomic', 'flctl.errors', 'flctl.federation', 'flctl.version']"


def test_without_a_hub_the_status_says_how_to_start_one(
    home: FederationHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["federation", "status", "--home", str(home.path)]) == 2
    assert "flctl federation serve" in capsys.readouterr().err


def test_a_port_in_use_is_said(home: FederationHome) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            run_hub(home, HubOptions("127.0.0.1", port), lambda where, members: None)


def test_without_tls_the_hub_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    home = FederationHome(tmp_path / "terminated")
    found(home, Founding("hospitals", "https://fl.example", "server"))
    with pytest.raises(ConfigError, match="in the clear"):
        run_hub(home, HubOptions("0.0.0.0", 0), lambda where, members: None)
    listened: list[Listening] = []

    def end(where: Listening, members: FederationFolder) -> None:
        listened.append(where)
        threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGINT))).start()

    run_hub(home, HubOptions(port=0), end)
    assert listened[0].host == "127.0.0.1"


def test_on_windows_the_hub_is_refused_with_a_sentence(home: FederationHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flctl.federation.hub.program.os.name", "nt")
    with pytest.raises(ConfigError, match="does not run on Windows"):
        run_hub(home, HubOptions(port=0), lambda where, members: None)


def test_missing_tls_files_are_named(tmp_path: Path) -> None:
    home = FederationHome(tmp_path / "house")
    found(home, Founding("hospitals", "https://fl.example", "house"))
    with pytest.raises(ConfigError, match=r"the hub's TLS certificate is missing: .*tls\.pem"):
        run_hub(home, HubOptions(port=0), lambda where, members: None)


def test_without_aiohttp_the_command_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        serve_command.serve()
    assert missing.value.hint == "pip install 'flctl[hub]'"
    assert missing.value.exit_code == 5
