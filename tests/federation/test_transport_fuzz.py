"""Texts from the network, whatever they are, are read or refused with a reason; no other exception comes out."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.hub_member import FEDERATION, federation

from flctl.errors import ProtocolError
from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.statements import sign
from flctl.federation.reasons import Refused
from flctl.federation.transport.envelope import ENVELOPE_PURPOSE, BlobRef, open_envelope, read_envelope
from flctl.federation.transport.request_signing import SignedRequest, authorization, read_authorization

UNI = federation().identities["uni"]
BLOB = BlobRef("01" * 32, 10, "02" * 32, "03" * 48)
ORDER = federation().envelope("task", "uni", "st-marys", task="cd" * 32, blobs=(BLOB,), reply_bytes=9)
REQUEST = SignedRequest(FEDERATION, "uni", "GET", "/1/hello", "00" * 32, 1, "ab" * 16, "ef" * 16)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def opened(text: bytes) -> None:
    """Reads an envelope, or has it refused."""
    try:
        assert open_envelope(text)[0].v == 1
        read_envelope(text, federation().roster, "st-marys")
    except Refused:
        pass


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_bytes_are_no_envelope(text: bytes) -> None:
    opened(text)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(ORDER.to_json())), VALUES)
def test_signed_statements_with_any_value_in_a_field_are_read_or_refused(name: str, value: Any) -> None:
    try:
        text = sign(UNI, ENVELOPE_PURPOSE, ORDER.to_json() | {name: value})
    except ProtocolError:
        return  # a value that no statement can have, for example a lone surrogate
    opened(text)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["sha256", "bytes", "plaintext", "key"]), VALUES)
def test_blobs_with_any_value_in_a_field_are_read_or_refused(name: str, value: Any) -> None:
    statement = ORDER.to_json()
    statement["blobs"][0][name] = value
    try:
        text = sign(UNI, ENVELOPE_PURPOSE, statement)
    except ProtocolError:
        return
    opened(text)


def read_or_reason(header: str) -> Any:
    """The signed request in a header, or the reason for refusing it."""
    try:
        return read_authorization(header)[0]
    except Refused as refused:
        return refused.reason


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: "Flctl " + base64.b64encode(raw).decode()))
def test_headers_are_no_signature(value: str) -> None:
    assert read_or_reason(value) == "door-signature"


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(REQUEST.__dataclass_fields__)), VALUES)
def test_signed_requests_with_any_value_in_a_field_are_read_or_refused(name: str, value: Any) -> None:
    text = authorization(UNI, REQUEST).removeprefix("Flctl ")
    statement = json.loads(base64.urlsafe_b64decode(text))["statement"] | {name: value}
    try:
        changed = base64.urlsafe_b64encode(sign(UNI, "flctl/request/1", statement)).decode()
    except ProtocolError:
        return
    found = read_or_reason("Flctl " + changed)
    if found != "door-signature":
        assert canonical(getattr(found, name)) == canonical(value)
