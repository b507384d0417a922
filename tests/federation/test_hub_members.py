"""Joining, certificates and rosters at the hub, with mutual TLS of the federation's own authority."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from support.hub_server import HubServer, Raw, raw
from support.tcp_proxy import TcpProxy

from flctl.federation.hub.enrolling import FederationFolder
from flctl.federation.hub.limits import HubLimits
from flctl.federation.hub.serve import TlsFiles
from flctl.federation.identity.certificates import Authority, certificate_request, make_tls_key, read_tls_key
from flctl.federation.identity.enrolment import Enrolment, Founding, found
from flctl.federation.identity.homes import FederationHome
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.renewals import keep_certificate, renewal
from flctl.federation.identity.statements import sign
from flctl.federation.reasons import Refused
from flctl.federation.transport.connection import HubAddress, fetch_authority
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.joining_calls import file_request, publish_roster, request_certificate
from flctl.federation.transport.retries import HubAwayError, Pace

ONCE = Pace(least=0.01, most=0.02, give_up=0.1)


class Federation:
    """A federation in a folder whose hub serves on the loopback with mutual TLS, and identities by name."""

    def __init__(self, folder: Path, **limits: float) -> None:
        self.folder = folder
        self.home = FederationHome(folder / "federation")
        found(self.home, Founding("hospitals", "https://127.0.0.1:8443"))
        self.enrolment = Enrolment(self.home)
        self.operator = self.enrolment.open_operator()
        self.identities = {"hub": Identity.open(self.home.hub)}
        self.roster = self.enrolment.roster()
        hub = self.home.hub
        tls = TlsFiles(hub / "tls.pem", hub / "tls.key", hub / "ca.pem")
        members = FederationFolder(self.home)
        self.server = HubServer(hub, limits=HubLimits(**limits), tls=tls, members=self, box_members=members)

    def address(self, name: str = "", folder: str | None = None) -> HubAddress:
        place = self.folder / (folder or name)
        files = (place / "tls.pem", place / "tls.key") if name else (None, None)
        return HubAddress(self.server.url, "hospitals", self.home.hub / "ca.pem", *files)

    def admitted(self, name: str, role: str = "site", until: str = "2099-12-31") -> Identity:
        """A member with keys and a certificate, by the way that members take."""
        identity = self.identities[name] = Identity.create(self.folder / name)
        file_request(self.address(), self.enrolment.invite(name, role, 7).request(identity), ONCE)
        roster = self.enrolment.admit(self.enrolment.request(name), self.operator, until)
        publish_roster(self.address(), roster.signed, ONCE)
        text = renewal(self.folder / name, identity, "hospitals", name)
        assert text is not None
        keep_certificate(self.folder / name, request_certificate(self.address(), text, ONCE))
        return identity

    def context(self, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.home.hub / "ca.pem"))
        if name:
            context.load_cert_chain(self.folder / name / "tls.pem", self.folder / name / "tls.key")
        return context

    def sites(self, certificate: str | None, name: str, signer: str | None = None) -> Raw:
        """A request that needs a certificate, with one of `certificate`, signed by `signer` as `name`."""
        return raw(self.server, "GET", "/1/sites", name=name, signer=signer, context=self.context(certificate))


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("members"), joins_a_minute=100)
    with made.server:
        made.admitted("uni", "coordinator")
        made.admitted("lab", "coordinator")
        yield made


def test_a_new_member_joins_without_a_certificate_and_gets_one(members: Federation) -> None:
    identity = members.admitted("st-marys")
    with HubClient(members.address("st-marys"), identity, "st-marys", pace=ONCE) as site:
        assert site.hello().roster == members.enrolment.roster().signed
        assert site.tasks(wait=0) == []
        assert site.roster_version == members.enrolment.roster().version


def test_a_certificate_is_that_of_the_member_who_signs(members: Federation) -> None:
    assert members.sites("uni", "uni").status == 200
    cases = {
        "no certificate": members.sites(None, "uni"),
        "another member's certificate": members.sites("lab", "uni"),
    }
    assert {name: (one.status, one.reason) for name, one in cases.items()} == dict.fromkeys(
        cases, (403, "door-certificate")
    )
    other_signature = members.sites("uni", "uni", signer="lab")
    assert (other_signature.status, other_signature.reason) == (401, "door-signature")


@pytest.mark.parametrize("case", ["another authority", "expired"])
def test_a_certificate_that_tls_refuses_ends_the_connection(members: Federation, case: str, tmp_path: Path) -> None:
    place = members.folder / case
    place.mkdir()
    key = make_tls_key(place / "tls.key")
    if case == "expired":
        authority = Authority.open(members.home.hub)
        leaf = authority._leaf("uni", key.public_key(), (), timedelta(hours=-1), None)
    else:
        leaf = Authority.create(tmp_path, "hospitals").member("uni", certificate_request(key, "uni"))
    (place / "tls.pem").write_text(leaf)
    with pytest.raises((ssl.SSLError, OSError)):
        raw(members.server, "GET", "/1/sites", name="uni", context=members.context(case))
    assert members.sites("uni", "uni").status == 200


def test_an_invite_is_used_once_by_one_identity_under_its_name(members: Federation) -> None:
    invite = members.enrolment.invite("elm-street", "site", 7)
    first = invite.request(Identity.new())
    for _ in range(2):
        file_request(members.address(), first, ONCE)
    refused: dict[str, bytes] = {
        "used": invite.request(Identity.new()),
        "another name": replace(invite, name="oak-hill").request(Identity.new()),
        "another role": replace(invite, role="coordinator").request(Identity.new()),
        "made up": replace(invite, secret=bytes(32)).request(Identity.new()),
    }
    for text in refused.values():
        with pytest.raises(Refused) as error:
            file_request(members.address(), text, ONCE)
        assert error.value.reason == "invite"
    assert members.enrolment.request("elm-street").text == first


def test_a_late_invite_is_refused(members: Federation) -> None:
    invite = members.enrolment.invite("late", "site", -1)
    with pytest.raises(Refused, match="ended on") as error:
        file_request(members.address(), invite.request(Identity.new()), ONCE)
    assert error.value.reason == "invite"


def test_a_request_of_another_form_is_refused(members: Federation) -> None:
    for text in (b"{}", b"[" * 1000, members.enrolment.roster().signed):
        with pytest.raises(Refused) as error:
            file_request(members.address(), text, ONCE)
        assert error.value.reason == "request-form"


def test_certificates_are_issued_to_members_alone(members: Federation) -> None:
    stranger = Identity.create(members.folder / "stranger")
    text = renewal(members.folder / "stranger", stranger, "hospitals", "uni")
    assert text is not None
    with pytest.raises(Refused) as error:
        request_certificate(members.address(), text, ONCE)
    assert error.value.reason == "roster-member"


def test_rosters_are_accepted_in_order_from_the_operator_alone(members: Federation) -> None:
    newest = members.enrolment.roster()
    changed = replace(newest, version=newest.version + 1, previous=newest.digest, signed=b"", digest="")
    by_site = sign(members.identities["uni"], "flctl-roster/2", changed.to_json())
    equivocal = replace(newest, graph_seed=bytes(32), signed=b"", digest="").signed_by(members.operator).signed
    first = (members.home.roster / f"{1:016d}.roster.json").read_bytes()
    for text, reason in ((by_site, "roster-operator"), (equivocal, "roster-equivocation"), (first, "roster-rollback")):
        with pytest.raises(Refused) as error:
            publish_roster(members.address(), text, ONCE)
        assert error.value.reason == reason
    assert publish_roster(members.address(), newest.signed, ONCE) == newest.version


def test_the_authority_is_fetched_by_its_fingerprint_alone(members: Federation) -> None:
    address, fingerprint = HubAddress(members.server.url, "hospitals"), members.roster.ca_fingerprint
    assert fetch_authority(address, fingerprint).decode() == members.roster.ca
    with pytest.raises(Exception, match="not the one that the operator signed"):
        fetch_authority(address, "00" * 32)


def test_another_authority_than_the_hubs_is_named(members: Federation, tmp_path: Path) -> None:
    Authority.create(tmp_path, "proxy")
    address = HubAddress(members.server.url, "hospitals", tmp_path / "ca.pem")
    with (
        HubClient(address, members.identities["uni"], "uni", pace=ONCE) as client,
        pytest.raises(HubAwayError, match=r"issued by 'CN=flctl hospitals CA'.*a proxy may open TLS"),
    ):
        client.hello()


def test_joins_have_a_rate(tmp_path: Path) -> None:
    made = Federation(tmp_path, joins_a_minute=3)
    with made.server:
        send = partial(raw, made.server, "POST", "/1/joins", name="hub", body=b"{}", context=made.context(None))
        answers = [send() for _ in range(6)]
    assert [one.status for one in answers] == [400] * 3 + [429] * 3


def test_the_metrics_name_no_site_and_the_state_is_for_the_hubs_own_key(members: Federation) -> None:
    metrics = raw(members.server, "GET", "/metrics", name="uni", context=members.context(None))
    assert b"flctl_hub_open_tasks 0\n" in metrics.body
    assert b"uni" not in metrics.body
    assert members_state(members, "hub").status == 200
    assert (members_state(members, "uni").status, members_state(members, "uni").reason) == (401, "door-signature")


def members_state(members: Federation, signer: str) -> Raw:
    return raw(members.server, "GET", "/1/status", name="hub", signer=signer, context=members.context(None))


def test_a_member_whose_certificate_has_expired_gets_another(members: Federation) -> None:
    identity = members.admitted("asleep")
    place = members.folder / "asleep"
    authority, key = Authority.open(members.home.hub), read_tls_key(place / "tls.key")
    (place / "tls.pem").write_text(authority._leaf("asleep", key.public_key(), (), timedelta(hours=-1), None))
    text = renewal(place, identity, "hospitals", "asleep")
    assert text is not None
    keep_certificate(place, request_certificate(members.address("asleep"), text, ONCE))
    with HubClient(members.address("asleep"), identity, "asleep", pace=ONCE) as site:
        assert site.tasks(wait=0) == []


def test_mutual_tls_passes_a_connect_proxy_with_a_password(members: Federation) -> None:
    with TcpProxy(connect=True, password="ward:secret") as proxy:
        address = replace(members.address("uni"), proxy=f"http://ward:secret@127.0.0.1:{proxy.port}")
        with HubClient(address, members.identities["uni"], "uni", pace=ONCE) as uni:
            assert set(uni.sites()) == set(members.enrolment.roster().sites)
        assert proxy.targets == [f"127.0.0.1:{members.server.port}"]


def test_another_host_than_the_urls_has_to_show_the_certificate_of_the_url(members: Federation) -> None:
    at = members.server.url.removeprefix("https://")
    address = replace(members.address("uni"), url="https://127.0.0.1:1", at=at)
    with HubClient(address, members.identities["uni"], "uni", pace=ONCE) as uni:
        assert uni.hello().roster
    other = replace(address, url="https://fl.example:8443")
    with (
        HubClient(other, members.identities["uni"], "uni", pace=ONCE) as uni,
        pytest.raises(HubAwayError, match=r"not valid for 'fl\.example'"),
    ):
        uni.hello()


def test_a_socket_that_sends_no_request_after_its_handshake_is_closed(tmp_path: Path) -> None:
    made = Federation(tmp_path, first_request=0.2)
    with made.server, socket.create_connection(("127.0.0.1", made.server.port), timeout=10) as plain:
        time.sleep(1.1)  # the sweep meets the socket before its handshake
        with made.context(None).wrap_socket(plain, server_hostname="127.0.0.1") as line:
            assert line.recv(1) == b""


def test_a_removed_member_is_refused_at_once(members: Federation) -> None:
    members.admitted("gone", "coordinator")
    assert members.sites("gone", "gone").status == 200
    publish_roster(members.address(), members.enrolment.remove("gone", members.operator).signed, ONCE)
    found = members.sites("gone", "gone")
    assert (found.status, found.reason) == (403, "roster-member")
