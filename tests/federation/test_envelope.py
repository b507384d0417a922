"""Envelopes: every field is signed, and each defect is refused with its reason."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from support.hub_member import federation

from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.statements import sign
from flctl.federation.reasons import Refused
from flctl.federation.transport.envelope import (
    ENVELOPE_PURPOSE,
    MOST_ENVELOPE,
    BlobRef,
    Envelope,
    key_context,
    read_envelope,
    write_envelope,
)
from flctl.federation.transport.tasks import task_id

TASK, BLOB = "cd" * 32, BlobRef("01" * 32, 10, "02" * 32, "03" * 48)


def order(**changes: Any) -> Envelope:
    values = {"task": TASK, "round": 3, "phase": "train", "blobs": (BLOB,), "reply_bytes": 99, "body": {"lr": 0.5}}
    return federation().envelope("task", "uni", "st-marys", **values | changes)


def read(text: bytes, recipient: str = "st-marys", now: datetime | None = None) -> Envelope:
    return read_envelope(text, federation().roster, recipient, now)


def refused(text: bytes, recipient: str = "st-marys") -> str:
    with pytest.raises(Refused) as found:
        read(text, recipient)
    return found.value.reason.value


def test_an_envelope_is_read_as_it_was_written() -> None:
    assert read(write_envelope(federation().identities["uni"], order())) == order()
    assert {field.name for field in fields(Envelope)} <= {*order().to_json(), "sender", "recipient"}


@pytest.mark.parametrize("name", sorted(order().to_json()))
def test_a_change_to_any_field_breaks_the_signature(name: str) -> None:
    value = json.loads(write_envelope(federation().identities["uni"], order()))
    before = value["statement"][name]
    value["statement"][name] = {str: "x", int: 7, list: [], dict: {"lr": 1}}[type(before)]
    assert refused(canonical(value)) == "envelope-signature"


DEFECTS: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{", "envelope-form"),
    "not canonical": (b" " + write_envelope(federation().identities["uni"], order()), "envelope-form"),
    "repeated key": (b'{"by":1,"by":2}', "envelope-form"),
    "nested 10^5 deep": (b"[" * 20_000 + b"]" * 20_000, "envelope-form"),
    "too large": (b"x" * (MOST_ENVELOPE + 1), "envelope-size"),
    "other purpose": (sign(federation().identities["uni"], "other/1", order().to_json()), "envelope-form"),
    "signed by the hub": (write_envelope(federation().identities["hub"], order()), "envelope-signature"),
    "signed by a site": (write_envelope(federation().identities["elm-street"], order()), "envelope-signature"),
}
SENDERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a stranger": ({"sender": "stranger"}, "stranger", "envelope-sender"),
    "a site that sends a task": ({"sender": "elm-street"}, "elm-street", "envelope-sender"),
    "another recipient": ({"recipient": "elm-street"}, "uni", "envelope-recipient"),
    "another federation": ({"federation": "banks"}, "uni", "envelope-federation"),
    "expired": ({"until": "2020-01-01T00:00:00+00:00"}, "uni", "envelope-expired"),
    "a time without zone": ({"until": "2099-01-01T00:00:00"}, "uni", "envelope-form"),
    "another version": ({"v": 2}, "uni", "envelope-form"),
    "unknown kind": ({"kind": "order"}, "uni", "envelope-form"),
    "a task without id": ({"task": ""}, "uni", "envelope-form"),
    "a task id that is no digest": ({"task": "../x"}, "uni", "envelope-form"),
    "a negative round": ({"round": -1}, "uni", "envelope-form"),
    "a round that is true": ({"round": True}, "uni", "envelope-form"),
    "a blob name that is no digest": ({"blobs": (BlobRef("..%2f", 1, "02" * 32, ""),)}, "uni", "envelope-form"),
    "a blob of 2^60 bytes": ({"blobs": (BlobRef("01" * 32, 1 << 60, "02" * 32, ""),)}, "uni", "envelope-form"),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_a_text_that_is_no_envelope_of_its_sender_is_refused(case: str) -> None:
    assert refused(DEFECTS[case][0]) == DEFECTS[case][1]


@pytest.mark.parametrize("case", SENDERS)
def test_a_valid_signature_does_not_let_through(case: str) -> None:
    changes, signer, reason = SENDERS[case]
    value = order()
    for name, one in changes.items():
        object.__setattr__(value, name, one)
    assert refused(write_envelope(federation().identities[signer], value)) == reason


def test_unknown_fields_are_refused() -> None:
    statement = order().to_json() | {"extra": 1}
    assert refused(sign(federation().identities["uni"], ENVELOPE_PURPOSE, statement)) == "envelope-form"


def test_an_envelope_that_would_be_too_large_is_not_written() -> None:
    with pytest.raises(Refused, match="larger"):
        write_envelope(federation().identities["uni"], order(body={"text": "x" * MOST_ENVELOPE}))


def test_an_envelope_is_valid_until_its_end() -> None:
    text = write_envelope(federation().identities["uni"], order(until="2030-01-01T00:00:00+00:00"))
    assert read(text, now=datetime(2029, 12, 31, tzinfo=UTC)).round == 3


def test_task_ids_differ_in_every_part_and_repeat_for_equal_parts() -> None:
    parts = ("ab" * 32, 1, "train", 0, "st-marys", "cd" * 32)
    changed = ("ac" * 32, 2, "unmask", 1, "elm-street", "ce" * 32)
    ids = {task_id(*parts)} | {task_id(*parts[:i], changed[i], *parts[i + 1 :]) for i in range(6)}
    assert len(ids) == 7
    assert task_id(*parts) == task_id(*parts)


def test_a_sealed_blob_key_opens_for_its_recipient_run_and_blob_alone() -> None:
    site = federation().identities["st-marys"]
    sealed = site.public.seal(b"k" * 32, key_context("r1", BLOB.sha256))
    assert site.unseal(sealed, key_context("r1", BLOB.sha256)) == b"k" * 32
    with pytest.raises(Exception, match="not for this identity"):
        site.unseal(sealed, key_context("r2", BLOB.sha256))
