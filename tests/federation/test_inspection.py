"""`flctl federation doctor`: each fault of a federation's folder is found, and an intact folder passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from flctl.cli import run
from flctl.federation.identity.certificates import Authority
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import FederationHome, SiteHome
from flctl.federation.identity.inspection import inspect
from flctl.federation.identity.joining import join
from flctl.federation.identity.keys import Identity


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> FederationHome:
    folder = tmp_path_factory.mktemp("origin")
    home = FederationHome(folder / "federation")
    found(home, Founding("hospitals", "https://fl.example:8443", key=folder / "stick"))
    federation = Enrolment(home)
    _, request = join(SiteHome(folder / "site"), federation.invite("st-marys", "site", 7))
    federation.admit(federation.file_request(request), federation.open_operator(folder / "stick"), "2099-12-31")
    return home


@pytest.fixture
def federation(origin: FederationHome, tmp_path: Path) -> Enrolment:
    shutil.copytree(origin.path.parent, tmp_path / "copy")
    return Enrolment(FederationHome(tmp_path / "copy" / "federation"))


def stick(federation: Enrolment) -> Identity:
    return federation.open_operator(federation.home.path.parent / "stick")


def found_in(federation: Enrolment) -> dict[str, tuple[str, str]]:
    return {finding.subject: (finding.status, finding.detail) for finding in inspect(federation)}


def test_an_intact_folder_passes(federation: Enrolment, capsys: pytest.CaptureFixture[str]) -> None:
    assert {status for status, _ in found_in(federation).values()} == {"ok"}
    assert run(["federation", "doctor", "--home", str(federation.home.path)]) == 0
    assert "1 site, 0 coordinators" in capsys.readouterr().out


def _other_key(federation: Enrolment) -> None:
    shutil.rmtree(federation.home.hub)
    Identity.create(federation.home.hub)


def _other_ca(federation: Enrolment) -> None:
    for name in ("ca.key", "ca.pem"):
        (federation.home.hub / name).unlink()
    Authority.create(federation.home.hub, "hospitals")


def _changed_version(federation: Enrolment) -> None:
    first = min(federation.home.roster.iterdir())
    first.write_bytes(first.read_bytes().replace(b"fl.example", b"fx.example"))


def _foreign_version(federation: Enrolment) -> None:
    newest = federation.roster()
    fork = replace(newest, previous="0" * 64, signed=b"", digest="").signed_by(stick(federation))
    max(federation.home.roster.iterdir()).write_bytes(fork.signed)


def _two_versions(federation: Enrolment) -> None:
    fork = replace(federation.roster(), url="https://x.example", signed=b"", digest="").signed_by(stick(federation))
    with pytest.raises(UntrustedError):
        federation.keeper.accept(fork.signed)


FAULTS: dict[str, tuple[Callable[[Enrolment], object], str, str, str]] = {
    "a changed roster": (_changed_version, "roster", "fail", "does not fit its signature"),
    "a roster that does not continue": (_foreign_version, "roster", "fail", "does not continue version 1"),
    "two rosters of a version": (_two_versions, "roster", "fail", "two rosters of one version"),
    "the operator's key": (
        lambda one: shutil.copy(one.home.path.parent / "stick" / "identity.key", one.home.operator),
        "operator",
        "warn",
        "the private key lies here",
    ),
    "another key of the hub": (_other_key, "hub", "fail", "another one than the roster's"),
    "a readable key": (lambda one: (one.home.hub / "ca.key").chmod(0o644), "private files", "fail", "hub/ca.key"),
    "no certificate": (lambda one: (one.home.hub / "tls.pem").unlink(), "certificate", "fail", "is missing"),
    "another CA": (_other_ca, "certificate", "fail", "another one than the roster's"),
    "a member that is over": (
        lambda one: one.extend("st-marys", stick(one), "2020-01-01"),
        "members",
        "warn",
        "over: st-marys",
    ),
}


@pytest.mark.parametrize(("damage", "subject", "status", "text"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found_and_named(
    federation: Enrolment,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Enrolment], object],
    subject: str,
    status: str,
    text: str,
) -> None:
    damage(federation)
    found_status, detail = found_in(federation)[subject]
    assert (found_status, text in detail) == (status, True)
    code = run(["federation", "doctor", "--home", str(federation.home.path), "--json"])
    assert (code, len(json.loads(capsys.readouterr().out)["data"]["findings"])) == (int(status == "fail"), 7)
