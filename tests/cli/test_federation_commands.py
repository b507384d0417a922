"""`flctl federation`: init, invite, admit, remove, renew and roster, at the operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flctl.cli import run
from flctl.federation.identity.enrolment import Enrolment
from flctl.federation.identity.homes import FederationHome, SiteHome
from flctl.federation.identity.invites import Invite
from flctl.federation.identity.joining import join

INIT = ["federation", "init", "hospitals", "--url", "https://fl.example:8443"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Runs a command with --json and returns its exit code and envelope."""

    def call(*words: str) -> tuple[int, dict[str, Any]]:
        code = run([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return SiteHome(tmp_path / "site")


def error_of(envelope: dict[str, Any]) -> str:
    return str(envelope["error"]["message"])


def test_a_site_is_invited_admitted_by_its_words_and_removed(command, site: SiteHome, tmp_path: Path) -> None:
    code, made = command(*INIT)
    assert (code, len(made["data"]["words"].split())) == (0, 6)
    code, invited = command("federation", "invite", "st-marys")
    assert (code, invited["data"]["operator_words"]) == (0, made["data"]["words"])
    identity, request = join(site, Invite.read(invited["data"]["invite"]))
    file = tmp_path / "st-marys.join.json"
    file.write_bytes(request)
    admit = ("federation", "admit", "st-marys", "--request", str(file))

    code, unasked = command(*admit)
    assert (code, error_of(unasked)[:5]) == (2, "the w")
    code, refused = command(*admit, "--words", made["data"]["words"])
    assert (code, refused["error"]["kind"]) == (6, "untrusted")
    code, admitted = command("federation", "admit", "st-marys", "--words", identity.public.words.upper())
    assert (code, admitted["data"]["version"], admitted["data"]["sites"]) == (0, 2, ["st-marys"])
    assert admitted["data"]["member"]["words"] == identity.public.words

    code, again = command(*admit, "--words", identity.public.words)
    assert (code, "is a member already" in error_of(again)) == (2, True)
    code, extended = command("federation", "admit", "st-marys", "--until", "2098-01-31")
    assert (code, extended["data"]["member"]["until"]) == (0, "2098-01-31")
    code, removed = command("federation", "remove", "st-marys")
    assert (code, removed["data"]["version"], removed["data"]["sites"]) == (0, 4, [])


def test_the_roster_lists_members_requests_and_invites(command, site: SiteHome, capsys) -> None:
    command(*INIT)
    command("federation", "invite", "uni", "--coordinator")
    federation = Enrolment(FederationHome.only())
    identity, request = join(site, federation.invite("st-marys", "site", 7))
    federation.file_request(request)
    code, listed = command("federation", "roster")
    assert code == 0
    assert [(one["name"], one["role"]) for one in listed["data"]["invites"]] == [("uni", "coordinator")]
    assert [(one["name"], one["words"]) for one in listed["data"]["requests"]] == [("st-marys", identity.public.words)]
    federation.admit(federation.request("st-marys"), federation.open_operator(), "2098-01-31")
    assert run(["federation", "roster"]) == 0
    printed = capsys.readouterr().out
    assert identity.public.words in printed
    assert "uni" in printed


def test_a_person_at_a_terminal_is_asked_for_the_words(command, site: SiteHome, monkeypatch) -> None:
    import sys
    from io import StringIO

    command(*INIT)
    federation = Enrolment(FederationHome.only())
    _, request = join(site, federation.invite("st-marys", "site", 7))
    federation.file_request(request)
    answers = StringIO("n\ny\n")
    answers.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", answers)
    assert run(["federation", "admit", "st-marys"]) == 6
    assert federation.roster().version == 1
    assert run(["federation", "admit", "st-marys"]) == 0
    assert federation.roster().version == 2


def test_the_key_may_lie_elsewhere(command, tmp_path: Path) -> None:
    stick = ("--key", str(tmp_path / "stick"))
    assert command(*INIT, *stick)[0] == 0
    assert command("federation", "roster")[1]["data"]["operator_key_here"] is False
    code, moved = command("federation", "renew", "--url", "https://new.example:8443")
    assert (code, "cannot be read" in error_of(moved)) == (2, True)
    code, moved = command("federation", "renew", "--url", "https://new.example:8443", *stick)
    assert (code, moved["data"]["url"], moved["data"]["version"]) == (0, "https://new.example:8443", 2)
    assert command("federation", "renew")[1]["data"]["expires"] > "2026"


REFUSED = {
    "no federation": (("federation", "roster"), 2, "there is no federation"),
    "another folder": (("federation", "roster", "--home", "nowhere"), 2, "there is no federation in nowhere"),
    "name": (("federation", "init", "Hospitals", "--url", "https://x"), 2, "is not a valid name"),
    "URL": (("federation", "init", "hospitals", "--url", "http://x"), 2, "is not the address of a hub"),
    "TLS": (("federation", "init", "hospitals", "--url", "https://x", "--tls", "none"), 2, "--tls none"),
}


@pytest.mark.parametrize(("words", "code", "message"), REFUSED.values(), ids=REFUSED)
def test_commands_are_refused_in_words(command, words, code: int, message: str) -> None:
    found, envelope = command(*words)
    assert (found, message in error_of(envelope)) == (code, True)


def test_commands_about_members_are_refused_in_words(command, tmp_path: Path) -> None:
    command(*INIT)
    for words, code, message in [
        (("invite", "St Marys"), 2, "is not a valid name"),
        (("admit", "st-marys"), 2, "there is no request to join"),
        (("admit", "st-marys", "--until", "soon"), 2, "--until"),
        (("admit", "st-marys", "--until", "2020-01-01"), 2, "is in the past"),
        (("remove", "st-marys"), 2, "is not a member"),
        (("admit", "st-marys", "--request", str(tmp_path / "none")), 1, "No such file"),
    ]:
        found, envelope = command("federation", *words)
        assert (words, found, message in error_of(envelope)) == (words, code, True)


def test_a_federation_without_a_ca_renews_elsewhere(command) -> None:
    assert command(*INIT, "--tls", "server")[0] == 0
    code, envelope = command("federation", "renew")
    assert (code, "no CA of its own" in error_of(envelope)) == (2, True)


def test_two_federations_have_to_be_named(command) -> None:
    command(*INIT)
    command("federation", "init", "banks", "--url", "https://fl.example")
    code, envelope = command("federation", "roster")
    assert (code, error_of(envelope)) == (2, "there are 2 federations here: banks, hospitals")
