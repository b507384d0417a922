"""Enrolment: invites, requests to join, admission, removal, TLS certificates and their renewal."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flctl import ConfigError
from flctl.federation.identity import enrolment as enrolment_module
from flctl.federation.identity import joining
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.certificates import (
    Authority,
    certificate_request,
    last_moment,
    make_tls_key,
    needs_renewal,
)
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.homes import CoordinatorHome, FederationHome, SiteHome
from flctl.federation.identity.invites import Invite, JoinRequest
from flctl.federation.identity.joining import Membership, join
from flctl.federation.identity.keys import KEY_FILE, PUBLIC_FILE, Identity
from flctl.federation.identity.per_run import run_identities
from flctl.federation.identity.renewals import issue, keep_certificate, renewal
from flctl.federation.identity.statements import sign

UNTIL = "2099-12-31"


def reason_of(caught: pytest.ExceptionInfo[UntrustedError]) -> str:
    return caught.value.reason


@pytest.fixture
def federation(tmp_path: Path) -> Enrolment:
    home = FederationHome(tmp_path / "operator")
    found(home, Founding("hospitals", "https://fl.example:8443"))
    return Enrolment(home)


@pytest.fixture
def site(tmp_path: Path) -> SiteHome:
    return SiteHome(tmp_path / "site")


def joined(federation: Enrolment, home: SiteHome, name: str = "st-marys") -> Identity:
    identity, request = join(home, federation.invite(name, "site", 7))
    operator = federation.open_operator()
    federation.admit(federation.file_request(request), operator, UNTIL)
    return identity


def test_a_new_federation_has_a_signed_empty_roster_and_private_keys_of_mode_0600(federation: Enrolment) -> None:
    roster = federation.roster()
    assert (roster.version, dict(roster.sites), roster.url) == (1, {}, "https://fl.example:8443")
    secret = list(federation.home.path.rglob("*.key"))
    assert {path.name for path in secret} == {KEY_FILE, "ca.key", "tls.key"}
    assert {path.stat().st_mode & 0o077 for path in secret} == {0}
    with pytest.raises(ConfigError, match="exists already"):
        found(federation.home, Founding("hospitals", "https://fl.example:8443"))


def test_an_operator_key_on_a_stick_leaves_only_its_public_half_at_the_hub(tmp_path: Path) -> None:
    home = FederationHome(tmp_path / "hub")
    found(home, Founding("hospitals", "https://fl.example:8443", key=tmp_path / "stick"))
    assert [path.name for path in home.operator.iterdir()] == [PUBLIC_FILE]
    federation = Enrolment(home)
    with pytest.raises(ConfigError, match="cannot be read"):
        federation.open_operator()
    assert federation.open_operator(tmp_path / "stick").public == federation.operator
    assert federation.open_operator(tmp_path / "stick" / KEY_FILE).public == federation.operator
    Identity.create(tmp_path / "other")
    with pytest.raises(UntrustedError) as caught:
        federation.open_operator(tmp_path / "other")
    assert reason_of(caught) == "operator"


def test_a_site_joins_with_keys_that_are_made_there(federation: Enrolment, site: SiteHome) -> None:
    invite = federation.invite("st-marys", "site", 7)
    identity, request = join(site, Invite.read(f"  {invite.text[:50]}\n{invite.text[50:]} "))
    assert federation.requests() == []
    filed = federation.file_request(request)
    assert (filed.identity, filed.name, filed.role) == (identity.public, "st-marys", "site")
    assert [one.name for one in federation.requests()] == ["st-marys"]
    roster = federation.admit(filed, federation.open_operator(), UNTIL)
    assert (roster.version, roster.site("st-marys").identity) == (2, identity.public)
    assert federation.requests() == []
    membership = Membership.open(site)
    assert (membership.name, membership.operator) == ("st-marys", federation.operator)
    assert membership.keeper(site).accept(roster.signed).site("st-marys").until == UNTIL


def test_each_version_of_the_roster_has_a_new_graph_seed(federation: Enrolment, site: SiteHome) -> None:
    first = federation.roster()
    joined(federation, site)
    assert federation.roster().graph_seed != first.graph_seed


def test_joining_again_keeps_the_keys_and_a_filed_request_is_filed_once(federation: Enrolment, site: SiteHome) -> None:
    invite = federation.invite("st-marys", "site", 7)
    first = join(site, invite)
    second = join(site, invite)
    assert (second[0].public, second[1]) == (first[0].public, first[1])
    assert federation.file_request(first[1]) == federation.file_request(second[1])


def test_a_new_invite_serves_the_same_home_and_voids_the_former(federation: Enrolment, site: SiteHome) -> None:
    _, old = join(site, federation.invite("st-marys", "site", 7))
    federation.file_request(old)
    identity, request = join(site, federation.invite("st-marys", "site", 7))
    assert federation.requests() == []
    with pytest.raises(UntrustedError) as caught:
        federation.file_request(old)
    assert reason_of(caught) == "invite"
    assert federation.file_request(request).identity == identity.public


def test_a_home_serves_one_membership(federation: Enrolment, site: SiteHome) -> None:
    join(site, federation.invite("st-marys", "site", 7))
    with pytest.raises(ConfigError, match="is st-marys in the federation hospitals"):
        join(site, federation.invite("charite", "site", 7))


def test_an_invite_is_used_once(federation: Enrolment, tmp_path: Path) -> None:
    invite = federation.invite("st-marys", "site", 7)
    federation.file_request(invite.request(Identity.new()))
    with pytest.raises(UntrustedError, match="used already") as caught:
        federation.file_request(invite.request(Identity.new()))
    assert reason_of(caught) == "invite"


def test_an_invite_of_a_member_is_used_and_a_member_is_not_invited(federation: Enrolment, site: SiteHome) -> None:
    invite = federation.invite("st-marys", "site", 7)
    federation.admit(federation.file_request(invite.request(Identity.new())), federation.open_operator(), UNTIL)
    with pytest.raises(UntrustedError) as caught:
        federation.file_request(invite.request(Identity.new()))
    assert reason_of(caught) == "invite"
    with pytest.raises(ConfigError, match="is a member already"):
        federation.invite("st-marys", "site", 7)


def test_a_late_invite_is_refused_at_the_site_and_at_the_operator(
    federation: Enrolment, site: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    invite = federation.invite("st-marys", "site", 7)
    late = (datetime.now(UTC).date() + timedelta(days=8)).isoformat()
    for module in (enrolment_module, joining):
        monkeypatch.setattr(module, "today", lambda: late)
    for refused in (lambda: federation.file_request(invite.request(Identity.new())), lambda: join(site, invite)):
        with pytest.raises(UntrustedError) as caught:
            refused()
        assert reason_of(caught) == "expired"
    assert not site.identity.exists()


def test_requests_that_do_not_fit_the_invite_are_refused(federation: Enrolment) -> None:
    invite, other = federation.invite("st-marys", "site", 7), Identity.new()
    stranger = replace(invite, operator=other.public)
    refused = {
        "for another name": (replace(invite, name="charite"), "invite"),
        "as a coordinator": (replace(invite, role="coordinator"), "invite"),
        "with another secret": (replace(invite, secret=bytes(32)), "invite"),
        "to another operator": (stranger, "operator"),
        "to another federation": (replace(invite, federation="banks"), "federation"),
    }
    found_reasons = {}
    for what, (wrong, _) in refused.items():
        with pytest.raises(UntrustedError) as caught:
            federation.file_request(wrong.request(Identity.new()))
        found_reasons[what] = reason_of(caught)
    assert found_reasons == {what: reason for what, (_, reason) in refused.items()}
    assert federation.requests() == []


def test_a_request_for_keys_that_the_requester_does_not_hold_is_refused(federation: Enrolment) -> None:
    invite, mine, theirs = federation.invite("st-marys", "site", 7), Identity.new(), Identity.new()
    inner = parse(invite.request(mine), 1 << 14)["statement"]["request"]
    inner["statement"]["identity"] = theirs.public.to_json()
    resigned = parse(sign(mine, "flctl/join/1", inner["statement"]), 1 << 14)
    for request, reason in ((inner, "signature"), (resigned, "signer")):
        with pytest.raises(UntrustedError) as caught:
            JoinRequest.read(sign(invite.key, "flctl/invited/1", {"request": request}))
        assert reason_of(caught) == reason


def test_every_changed_byte_of_a_request_is_refused(federation: Enrolment) -> None:
    text = federation.invite("st-marys", "site", 7).request(Identity.new())
    for position in range(0, len(text), 7):
        with pytest.raises(UntrustedError):
            federation.file_request(bytes([*text[:position], text[position] ^ 1, *text[position + 1 :]]))
    assert federation.requests() == []


BAD_LINES = ["", "flctl-invite:", "flctl-invite:!!", "flctl-invite:e30", "https://x", "flctl-invite:" + "A" * 5000]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_line_that_is_no_invite_is_refused(line: str) -> None:
    with pytest.raises(UntrustedError, match="not an invite") as caught:
        Invite.read(line)
    assert reason_of(caught) == "format"


@pytest.mark.parametrize(
    "change",
    [{"name": "A\n"}, {"url": "http://x"}, {"until": "x"}, {"role": "operator"}, {"authority": 0}, {"secret": 1}],
)
def test_an_invite_with_a_wrong_field_is_refused(federation: Enrolment, change: dict[str, object]) -> None:
    import base64

    line = federation.invite("st-marys", "site", 7).text.removeprefix("flctl-invite:")
    value = parse(base64.urlsafe_b64decode(line + "=" * (-len(line) % 4)), 1 << 12)
    encoded = base64.urlsafe_b64encode(canonical({**value, **change})).decode().rstrip("=")
    with pytest.raises(UntrustedError):
        Invite.read("flctl-invite:" + encoded)


def test_the_secret_of_an_invite_is_neither_kept_nor_printed(federation: Enrolment) -> None:
    invite = federation.invite("st-marys", "site", 7)
    kept = b"".join(path.read_bytes() for path in federation.home.path.rglob("*") if path.is_file())
    assert invite.secret.hex().encode() not in kept
    assert "secret" not in repr(invite)


def test_members_are_extended_and_removed_by_a_new_version(federation: Enrolment, site: SiteHome) -> None:
    identity = joined(federation, site)
    operator = federation.open_operator()
    assert federation.extend("st-marys", operator, "2100-01-31").site("st-marys").until == "2100-01-31"
    roster = federation.remove("st-marys", operator)
    assert (roster.version, dict(roster.sites), roster.name_of(identity.public.signing)) == (4, {}, None)
    with pytest.raises(ConfigError, match="is not a member"):
        federation.remove("st-marys", operator)
    assert federation.invites() == []


def test_coordinators_are_admitted_the_same_way(federation: Enrolment, tmp_path: Path) -> None:
    home = CoordinatorHome(tmp_path / "coordinator")
    identity, request = join(home, federation.invite("uni", "coordinator", 7))
    roster = federation.admit(federation.file_request(request), federation.open_operator(), UNTIL)
    assert roster.coordinator("uni").identity == identity.public
    assert dict(roster.sites) == {}


def test_one_identity_is_not_admitted_under_two_names(federation: Enrolment, site: SiteHome) -> None:
    identity = joined(federation, site)
    again = federation.file_request(federation.invite("charite", "site", 7).request(identity))
    with pytest.raises(UntrustedError) as caught:
        federation.admit(again, federation.open_operator(), UNTIL)
    assert reason_of(caught) == "key"
    assert federation.roster().version == 2


@pytest.mark.parametrize("name", ["../x", "", "A", "x/y"])
def test_names_do_not_reach_the_file_system(federation: Enrolment, name: str) -> None:
    for use in (lambda: federation.request(name), lambda: federation.invite(name, "site", 7)):
        with pytest.raises(UntrustedError) as caught:
            use()
        assert reason_of(caught) == "name"


def test_the_hub_moves_by_a_signed_version_and_a_new_certificate(federation: Enrolment) -> None:
    roster = federation.move("https://new.example", federation.open_operator())
    assert roster.url == "https://new.example"
    text = (federation.home.hub / "tls.pem").read_text()
    from cryptography import x509

    found_names = x509.load_pem_x509_certificate(text.encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert found_names.value.get_values_for_type(x509.DNSName) == ["new.example"]


# certificates


def test_a_member_gets_a_certificate_that_the_ca_signed_and_that_renews_late(
    federation: Enrolment, site: SiteHome
) -> None:
    identity = joined(federation, site)
    authority = Authority.open(federation.home.hub)
    text = renewal(site.identity, identity, "hospitals", "st-marys")
    assert text is not None
    keep_certificate(site.identity, issue(authority, federation.roster(), text))
    assert renewal(site.identity, identity, "hospitals", "st-marys") is None
    end = last_moment((site.identity / "tls.pem").read_text())
    assert timedelta(days=29) < end - datetime.now(UTC) < timedelta(days=31)
    assert needs_renewal(site.identity / "tls.pem", now=end - timedelta(days=5))
    assert not needs_renewal(site.identity / "tls.pem", now=end - timedelta(days=20))


def test_a_certificate_does_not_outlast_the_membership(federation: Enrolment) -> None:
    authority = Authority.open(federation.home.hub)
    request = certificate_request(make_tls_key(federation.home.path / "k.pem"), "st-marys")
    tomorrow = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    assert last_moment(authority.member("st-marys", request, until=tomorrow)) < datetime.now(UTC) + timedelta(days=2)
    with pytest.raises(UntrustedError) as caught:
        authority.member("st-marys", request, until="2020-01-01")
    assert reason_of(caught) == "expired"


def test_renewals_that_are_refused(federation: Enrolment, site: SiteHome, tmp_path: Path) -> None:
    identity, other = joined(federation, site), Identity.new()
    authority, roster = Authority.open(federation.home.hub), federation.roster()
    text = renewal(site.identity, identity, "hospitals", "st-marys")
    assert text is not None
    statement = parse(text, 1 << 14)["statement"]
    request = statement["request"]
    wrong_name = certificate_request(make_tls_key(tmp_path / "k"), "charite")
    refused = {
        "stranger": (sign(other, "flctl/renew/1", statement), "unknown"),
        "other name": (sign(identity, "flctl/renew/1", {**statement, "name": "charite"}), "unknown"),
        "other federation": (sign(identity, "flctl/renew/1", {**statement, "federation": "banks"}), "federation"),
        "other purpose": (sign(identity, "flctl/join/1", statement), "purpose"),
        "certificate of another name": (
            sign(identity, "flctl/renew/1", {**statement, "request": wrong_name}),
            "certificate",
        ),
        "no request": (sign(identity, "flctl/renew/1", {**statement, "request": "x"}), "certificate"),
        "two requests": (sign(identity, "flctl/renew/1", {**statement, "request": request * 2}), "certificate"),
        "request as a number": (sign(identity, "flctl/renew/1", {**statement, "request": 1}), "format"),
    }
    found_reasons = {}
    for what, (wrong, _) in refused.items():
        with pytest.raises(UntrustedError) as caught:
            issue(authority, roster, wrong)
        found_reasons[what] = reason_of(caught)
    assert found_reasons == {what: reason for what, (_, reason) in refused.items()}
    removed = federation.remove("st-marys", federation.open_operator())
    with pytest.raises(UntrustedError) as caught:
        issue(authority, removed, text)
    assert reason_of(caught) == "unknown"


def test_certificate_requests_of_other_keys_are_refused(federation: Enrolment) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "st-marys")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(ec.generate_private_key(ec.SECP384R1()), SHA256()).public_bytes(Encoding.PEM).decode()
    with pytest.raises(UntrustedError, match="P-256"):
        Authority.open(federation.home.hub).member("st-marys", request)


def test_a_certificate_for_another_key_is_not_kept(federation: Enrolment, site: SiteHome, tmp_path: Path) -> None:
    identity = joined(federation, site)
    assert renewal(site.identity, identity, "hospitals", "st-marys")
    request = certificate_request(make_tls_key(tmp_path / "k"), "st-marys")
    foreign = Authority.open(federation.home.hub).member("st-marys", request)
    for pem in (foreign, "no certificate"):
        with pytest.raises(UntrustedError) as caught:
            keep_certificate(site.identity, pem)
        assert reason_of(caught) == "certificate"
    assert not (site.identity / "tls.pem").exists()


def test_tls_between_hub_and_member_verifies_both_ways(tmp_path: Path) -> None:
    home = FederationHome(tmp_path / "operator")
    found(home, Founding("hospitals", "https://127.0.0.1:8443"))
    authority = Authority.open(home.hub)
    request = certificate_request(make_tls_key(tmp_path / "member.key"), "st-marys")
    (tmp_path / "member.pem").write_text(authority.member("st-marys", request))
    ca = home.hub / "ca.pem"
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    client = ssl.create_default_context(cafile=str(ca))
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(home.hub / "tls.pem", home.hub / "tls.key")
    client.load_cert_chain(tmp_path / "member.pem", tmp_path / "member.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname="127.0.0.1"),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    subject = dict(pair for parts in ends[1].getpeercert()["subject"] for pair in parts)
    assert subject["commonName"] == "st-marys"


def test_the_identities_of_a_run_are_those_of_the_plans_sites(federation: Enrolment, site: SiteHome) -> None:
    identity = joined(federation, site)
    other, roster = Identity.new(), federation.roster()
    found_ids = run_identities(roster, "ab" * 32, ["st-marys"], site.path, identity)
    assert (found_ids.me, found_ids.keys) == ("st-marys", {"st-marys": identity.public.signing})
    assert found_ids.secret is not None
    assert found_ids.secret(b"a") != found_ids.secret(b"b")
    assert run_identities(roster, "ab" * 32, ["st-marys"], site.path).sign is None
    for names, own in ((["charite"], None), (["st-marys"], other), ([], identity)):
        with pytest.raises(UntrustedError) as caught:
            run_identities(roster, "ab" * 32, names, site.path, own)
        assert reason_of(caught) == "unknown"


def test_two_changes_at_once_are_two_versions_and_no_equivocation(federation: Enrolment) -> None:
    operator = federation.open_operator()
    requests = [
        federation.file_request(federation.invite(name, "site", 7).request(Identity.new())) for name in ("a", "b", "c")
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda request: Enrolment(federation.home).admit(request, operator, UNTIL), requests))
    assert (federation.roster().version, sorted(federation.roster().sites)) == (4, ["a", "b", "c"])
    assert not list(federation.home.roster.glob("equivocation-*"))


def test_a_site_whose_last_day_is_over_does_not_end_the_sums_of_others(federation: Enrolment, site: SiteHome) -> None:
    identity = joined(federation, site)
    federation.extend("st-marys", federation.open_operator(), "2020-01-01")
    found_ids = run_identities(federation.roster(), "ab" * 32, ["st-marys"], site.path)
    assert found_ids.keys == {"st-marys": identity.public.signing}
