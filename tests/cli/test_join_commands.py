"""`flctl site join` and `flctl federation join`: over the hub, and by a file."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import HubServer

from flctl.cli import run
from flctl.federation.hub.enrolling import FederationFolder
from flctl.federation.hub.serve import TlsFiles
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.homes import CoordinatorHome, FederationHome, SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.keys import Identity


class Served:
    """A federation whose hub serves on the loopback, with TLS of its own CA."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        home = FederationHome(folder)
        found(home, Founding("hospitals", f"https://127.0.0.1:{port}"))
        self.enrolment = Enrolment(home)
        self.identities = {"hub": Identity.open(home.hub)}
        self.roster = self.enrolment.roster()
        files = TlsFiles(home.hub / "tls.pem", home.hub / "tls.key", home.hub / "ca.pem")
        self.server = HubServer(home.hub, tls=files, members=self, box_members=FederationFolder(home))
        self.server.port = port


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served") / "federation")
    with made.server:
        yield made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command with --json in an empty folder and returns its exit code and envelope."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        code = run([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def test_a_site_joins_over_the_hub_and_is_admitted_by_its_words(served: Served, command) -> None:
    invite = served.enrolment.invite("st-marys", "site", 7)
    code, joined = command("site", "join", invite.text)
    assert (code, joined["data"]["name"], joined["data"]["request"]) == (0, "st-marys", None)
    home = SiteHome.at()
    identity = Identity.open(home.identity)
    assert joined["data"]["words"] == identity.public.words
    assert joined["data"]["operator_words"] == served.enrolment.operator.words
    assert served.enrolment.request("st-marys").identity == identity.public
    assert command("site", "join", invite.text)[1]["data"]["words"] == identity.public.words
    folder = str(served.enrolment.home.path)
    code, _ = command("federation", "admit", "st-marys", "--words", identity.public.words, "--home", folder)
    assert (code, "st-marys" in served.enrolment.roster().sites) == (0, True)


def test_a_line_that_somebody_else_used_is_refused_and_says_so(served: Served, command, tmp_path: Path) -> None:
    invite = served.enrolment.invite("leaked", "site", 7)
    assert command("site", "join", invite.text, "--home", str(tmp_path / "thief"))[0] == 0
    code, refused = command("site", "join", invite.text, "--home", str(tmp_path / "site"))
    assert (code, "was used already" in refused["error"]["message"]) == (3, True)


def test_a_coordinator_joins_with_its_own_command(served: Served, command, monkeypatch: pytest.MonkeyPatch) -> None:
    invite = served.enrolment.invite("uni", "coordinator", 7)
    code, refused = command("site", "join", invite.text)
    assert (code, refused["error"]["hint"]) == (2, "Run: flctl federation join LINE")
    monkeypatch.setattr("sys.stdin", StringIO(f"{invite.text}\n"))
    assert command("federation", "join", "-")[0] == 0
    assert Membership.open(CoordinatorHome.at()).role == "coordinator"
    assert served.enrolment.request("uni").role == "coordinator"


def test_an_offline_request_is_a_file_that_the_operator_reads(served: Served, command, tmp_path: Path) -> None:
    invite = served.enrolment.invite("charite", "site", 7)
    code, joined = command("site", "join", invite.text, "--offline")
    assert (code, joined["data"]["request"]) == (0, "charite.join.json")
    assert b'"secret"' not in (tmp_path / "charite.join.json").read_bytes()
    assert served.enrolment.file_request((tmp_path / "charite.join.json").read_bytes()).name == "charite"


def test_a_hub_out_of_reach_leaves_keys_and_a_hint(tmp_path: Path, command) -> None:
    home = FederationHome(tmp_path / "federation")
    found(home, Founding("hospitals", "https://127.0.0.1:1"))
    invite = Enrolment(home).invite("st-marys", "site", 7)
    code, failed = command("site", "join", invite.text)
    assert (code, "was not reached" in failed["error"]["message"]) == (1, True)
    assert "--offline" in failed["error"]["hint"]
    words = Identity.open(SiteHome.at().identity).public.words
    assert command("site", "join", invite.text, "--offline")[1]["data"]["words"] == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("site", "join", "https://fl.example"), "is not an invite"),
        (("federation", "join", ""), "is not an invite"),
        (("site", "join", "LINE", "--out", "x"), "--out names the file of --offline"),
    ],
)
def test_wrong_lines_and_options_are_refused_in_words(served: Served, command, words, message: str) -> None:
    line = served.enrolment.invite("options", "site", 7).text
    code, refused = command(*(line if word == "LINE" else word for word in words))
    assert (code, message in refused["error"]["message"]) == (2, True)
    assert not SiteHome.at().identity.exists()


def test_a_proxy_is_kept_for_later_connections_in_a_private_file(served: Served, command) -> None:
    from flctl.federation.addresses import hub_address

    line = served.enrolment.invite("behind", "site", 7).text
    proxy = "http://user:password@proxy.example:3128"
    assert command("site", "join", line, "--offline", "--proxy", proxy)[0] == 0
    home = SiteHome.at()
    assert [path.stat().st_mode & 0o077 for path in home.path.glob("proxy*")] == [0]
    roster = served.enrolment.admit(
        served.enrolment.file_request(Path("behind.join.json").read_bytes()),
        served.enrolment.open_operator(),
        "2099-12-31",
    )
    Membership.open(home).keeper(home).accept(roster.signed)
    assert hub_address(home, Membership.open(home)).proxy == proxy
    assert hub_address(home, Membership.open(home), "http://other.example:1").proxy == "http://other.example:1"
