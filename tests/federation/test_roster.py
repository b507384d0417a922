"""The roster: refusals of each field, members and their last day, rollback and equivocation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flctl import ConfigError
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import CoordinatorHome, FederationHome, SiteHome, state_folder
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.roster import PURPOSE, Member, Roster, RosterKeeper
from flctl.federation.identity.statements import sign

OPERATOR, HUB, SITE, OTHER, COORDINATOR = (Identity(bytes([i]) * 32, bytes([100 + i]) * 32) for i in range(1, 6))
UNTIL = "2027-12-31"
DRAFT = Roster(
    federation="hospitals",
    version=1,
    previous="",
    operator=OPERATOR.public.signing,
    url="https://fl.example:8443",
    sites={"st-marys": Member(SITE.public, UNTIL), "charite": Member(OTHER.public, UNTIL)},
    coordinators={"uni": Member(COORDINATOR.public, UNTIL)},
    hub=HUB.public,
    graph_seed=bytes(range(32)),
)
ROSTER = DRAFT.signed_by(OPERATOR)


def following(roster: Roster, **changes: object) -> Roster:
    values = {"version": roster.version + 1, "previous": roster.digest, "signed": b"", "digest": ""}
    return replace(roster, **{**values, **changes}).signed_by(OPERATOR)


def test_a_signed_roster_reads_as_it_was_written() -> None:
    found = Roster.read(ROSTER.signed, OPERATOR.public.signing)
    assert found == ROSTER
    assert found.to_json() == DRAFT.to_json()
    assert len(found.digest) == 64
    assert found.site("st-marys", on=UNTIL).identity == SITE.public
    assert found.coordinator("uni", on=UNTIL).identity == COORDINATOR.public
    assert found.name_of(OTHER.public.signing) == "charite"
    assert found.name_of(HUB.public.signing) is None


def test_each_field_with_one_letter_changed_is_refused() -> None:
    text = ROSTER.signed
    for position in range(0, len(text), 3):
        changed = bytes([*text[:position], text[position] ^ 1, *text[position + 1 :]])
        with pytest.raises(UntrustedError):
            Roster.read(changed, OPERATOR.public.signing)


def signed(**fields: object) -> bytes:
    """A roster with other fields, signed by the operator: the signature fits, and the content does not."""
    return sign(OPERATOR, PURPOSE, {**DRAFT.to_json(), **fields})


def member(identity: Identity = SITE, until: object = UNTIL) -> dict[str, object]:
    return {**identity.public.to_json(), "until": until}


LOW = {"sealing": SITE.public.sealing.hex(), "signing": "00" * 32, "until": UNTIL}
BAD_NAMES = ["", "A", "St-Marys", "st_marys", "st marys", "st-marys\n", "a\x1b[2J", "\u202eabc", "-a", "a-", "a" * 65]
BAD_NAMES += ["a" * 10_000, "münchen", "..", "a/b", "st-mary\u0455"]
REFUSED = {
    "unknown field": ({"extra": 1}, "format"),
    "version 0": ({"version": 0}, "format"),
    "version true": ({"version": True}, "format"),
    "version as text": ({"version": "1"}, "format"),
    "version beyond 2**53": ({"version": 1 << 60, "previous": "0" * 64}, "format"),
    "first version with a previous one": ({"previous": "0" * 64}, "format"),
    "first version with a previous list": ({"previous": []}, "format"),
    "second version without a previous one": ({"version": 2}, "format"),
    "previous that is no digest": ({"version": 2, "previous": "A" * 64}, "format"),
    "operator of low order": ({"operator": "00" * 32}, "operator"),
    "operator other than the signer": ({"operator": HUB.public.signing.hex()}, "operator"),
    "http": ({"url": "http://fl.example"}, "format"),
    "URL with a user": ({"url": "https://a@fl.example"}, "format"),
    "URL with a line end": ({"url": "https://fl.example\n"}, "format"),
    "URL as a list": ({"url": ["https://fl.example"]}, "format"),
    "unknown TLS": ({"tls": "none"}, "format"),
    "TLS as a list": ({"tls": []}, "format"),
    "short graph seed": ({"graph_seed": "00"}, "format"),
    "large CA": ({"ca": "x" * (1 << 15)}, "format"),
    "hub without keys": ({"hub": {}}, "format"),
    "sites as a list": ({"sites": []}, "format"),
    "member without a day": ({"sites": {"a": SITE.public.to_json()}}, "format"),
    "member with a field more": ({"sites": {"a": {**member(), "role": "site"}}}, "format"),
    "member with a wrong day": ({"sites": {"a": member(until="2027-02-30")}}, "format"),
    "member with a time": ({"sites": {"a": member(until=1)}}, "format"),
    "low-order key": ({"sites": {"a": LOW}}, "key"),
    "one identity twice": ({"sites": {"a": member(), "b": member()}}, "key"),
    "one sealing key twice": (
        {"sites": {"a": member(), "b": {**member(OTHER), "sealing": SITE.public.sealing.hex()}}},
        "key",
    ),
    "a site with the hub's key": ({"sites": {"a": member(HUB)}}, "key"),
    "a site with the operator's key": ({"sites": {"a": member(OPERATOR)}}, "key"),
    "a site and coordinator of one key": ({"coordinators": {"uni": member()}}, "key"),
    "a site and coordinator of one name": ({"coordinators": {"charite": member(COORDINATOR)}}, "name"),
    "a federation's name": ({"federation": "Hospitals"}, "name"),
    **{f"name {ascii(name)[:20]}": ({"sites": {name: member()}}, "name") for name in BAD_NAMES},
}


@pytest.mark.parametrize(("fields", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_roster_is_refused_with_its_reason(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(UntrustedError) as caught:
        Roster.read(signed(**fields))
    assert caught.value.reason == reason
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


def test_another_operator_is_refused() -> None:
    with pytest.raises(UntrustedError) as caught:
        Roster.read(ROSTER.signed, HUB.public.signing)
    assert caught.value.reason == "operator"
    with pytest.raises(UntrustedError) as caught:
        DRAFT.signed_by(HUB)
    assert caught.value.reason == "operator"


@pytest.mark.parametrize(
    ("name", "on", "reason"),
    [("charite", "2028-01-01", "expired"), ("uni", UNTIL, "unknown"), ("x\n", UNTIL, "unknown")],
)
def test_a_site_that_is_not_a_member_or_no_longer_one_is_refused(name: str, on: str, reason: str) -> None:
    with pytest.raises(UntrustedError) as caught:
        ROSTER.site(name, on=on)
    assert caught.value.reason == reason
    assert caught.value.message.isprintable()


def keeper(folder: Path) -> RosterKeeper:
    return RosterKeeper(folder, OPERATOR.public.signing)


def test_rosters_are_accepted_in_order_and_the_same_one_again(tmp_path: Path) -> None:
    second = following(ROSTER, sites={})
    assert keeper(tmp_path).accept(ROSTER.signed) == ROSTER
    assert keeper(tmp_path).accept(ROSTER.signed) == ROSTER
    assert keeper(tmp_path).accept(second.signed) == second
    assert keeper(tmp_path).newest() == second
    assert not keeper(tmp_path).newest().sites


def test_a_plan_finds_the_roster_that_it_was_made_with(tmp_path: Path) -> None:
    keeper(tmp_path).accept(ROSTER.signed)
    keeper(tmp_path).accept(following(ROSTER, sites={}).signed)
    assert keeper(tmp_path).of_digest(ROSTER.digest) == ROSTER
    with pytest.raises(UntrustedError) as caught:
        keeper(tmp_path).of_digest("0" * 64)
    assert caught.value.reason == "unknown"


def test_a_site_that_was_away_accepts_a_version_further_on(tmp_path: Path) -> None:
    third = following(following(ROSTER, sites={}))
    keeper(tmp_path).accept(ROSTER.signed)
    assert keeper(tmp_path).accept(third.signed).version == 3


CONFLICTS = {
    "a lower version": (lambda second: ROSTER.signed, "rollback"),
    "another roster of the same version": (
        lambda second: following(ROSTER, url="https://x.example").signed,
        "equivocation",
    ),
    "a next version that does not continue": (
        lambda second: following(following(ROSTER, url="https://x.example")).signed,
        "equivocation",
    ),
    "another federation": (lambda second: following(second, federation="banks").signed, "federation"),
    "another operator": (
        lambda second: replace(DRAFT, operator=HUB.public.signing, hub=OPERATOR.public).signed_by(HUB).signed,
        "operator",
    ),
}


@pytest.mark.parametrize(("made", "reason"), CONFLICTS.values(), ids=CONFLICTS)
def test_a_roster_that_conflicts_with_the_known_one_is_refused(tmp_path: Path, made, reason: str) -> None:
    second = following(ROSTER, sites={})
    keeper(tmp_path).accept(ROSTER.signed)
    keeper(tmp_path).accept(second.signed)
    with pytest.raises(UntrustedError) as caught:
        keeper(tmp_path).accept(made(second))
    assert caught.value.reason == reason
    assert keeper(tmp_path).newest() == second
    assert len(list(tmp_path.glob("equivocation-*"))) == (reason == "equivocation")


def test_a_folder_without_rosters_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no roster"):
        keeper(tmp_path).newest()


def test_homes_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SiteHome.at().path == state_folder() / "site"
    assert CoordinatorHome.at().path == state_folder() / "coordinator"
    assert FederationHome.at(name="hospitals").path == state_folder() / "federation" / "hospitals"
    monkeypatch.setenv("FLCTL_SITE_HOME", str(tmp_path / "a"))
    assert SiteHome.at().path == tmp_path / "a"
    assert SiteHome.at(tmp_path / "b").identity == tmp_path / "b" / "identity"
