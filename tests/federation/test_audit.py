"""The site's record: any change, cut or insertion is found."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flctl.errors import IntegrityError
from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.keys import Identity
from flctl.federation.identity.statements import sign
from flctl.federation.site.audit import AuditHead, AuditLog
from flctl.federation.site.receipts import RECEIPT_PURPOSE, AuditReceipts
from flctl.federation.transport.envelope import Envelope, open_envelope, write_envelope

IDENTITY = Identity.new()
KEY = IDENTITY.public.signing
AT = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.jsonl", IDENTITY)
    for number in range(4):
        log.append("asked", {"round": number}, AT)
    return log


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_lines_are_read_back_in_order_by_another_process(log: AuditLog) -> None:
    again = AuditLog(log.path)
    assert [(line.number, line.kind, line.facts["round"]) for line in again.lines()] == [
        (n + 1, "asked", n) for n in range(4)
    ]
    assert again.verify(KEY) == log.head == AuditHead(4, log.head.digest)


def test_two_processes_append_to_one_chain(log: AuditLog) -> None:
    other = AuditLog(log.path, IDENTITY)
    other.append("decided", {})
    log.append("sent", {})
    assert [line.kind for line in other.lines()][4:] == ["decided", "sent"]
    assert other.verify(KEY).lines == 6


@pytest.mark.parametrize("position", range(4))
def test_any_changed_line_is_found(log: AuditLog, position: int) -> None:
    lines = lines_of(log)
    lines[position] = lines[position].replace(b'"asked"', b'"sent"')
    log.path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match="the audit log was changed"):
        AuditLog(log.path).verify(KEY)


@pytest.mark.parametrize("position", range(4))
def test_any_line_that_was_cut_is_found(log: AuditLog, position: int) -> None:
    lines = lines_of(log)
    log.path.write_bytes(b"".join(lines[:position] + lines[position + 1 :]))
    with pytest.raises(IntegrityError, match="the audit log was changed"):
        AuditLog(log.path).verify(KEY)


@pytest.mark.parametrize("position", range(5))
def test_any_line_that_was_inserted_is_found(log: AuditLog, position: int) -> None:
    lines = lines_of(log)
    log.path.write_bytes(b"".join([*lines[:position], b'{"kind":"decided"}\n', *lines[position:]]))
    with pytest.raises(IntegrityError, match="the audit log was changed"):
        AuditLog(log.path).verify(KEY)


def test_a_whole_chain_written_anew_does_not_fit_the_signed_head(log: AuditLog, tmp_path: Path) -> None:
    forged = AuditLog(tmp_path / "forged" / "audit.jsonl", Identity.new())
    for number in range(4):
        forged.append("asked", {"round": 10 + number}, AT)
    log.path.write_bytes(forged.path.read_bytes())
    with pytest.raises(IntegrityError, match="another line was signed for"):
        AuditLog(log.path).verify(KEY)
    (log.path.parent / "audit.jsonl.head").write_bytes((tmp_path / "forged" / "audit.jsonl.head").read_bytes())
    with pytest.raises(IntegrityError, match="another key"):
        AuditLog(log.path).verify(KEY)


def test_lines_added_by_somebody_without_the_sites_key_are_found(log: AuditLog) -> None:
    import hashlib

    for _ in range(2):
        lines = lines_of(log)
        previous = hashlib.sha256(lines[-1].rstrip(b"\n")).hexdigest()
        entry = {"at": "", "facts": {}, "kind": "decided", "number": len(lines) + 1, "previous": previous}
        log.path.write_bytes(b"".join(lines) + canonical(entry) + b"\n")
    with pytest.raises(IntegrityError, match="without the site's signature"):
        AuditLog(log.path).verify(KEY)


def test_a_head_that_is_missing_is_found(log: AuditLog) -> None:
    (log.path.parent / "audit.jsonl.head").unlink()
    with pytest.raises(IntegrityError, match="signed head"):
        AuditLog(log.path).verify(KEY)


def test_log_and_head_set_back_together_do_not_fit_the_hubs_receipt(log: AuditLog) -> None:
    head = log.path.parent / "audit.jsonl.head"
    before = log.path.read_bytes(), head.read_bytes()
    log.append("sent", {})
    receipt = {"lines": log.head.lines, "digest": log.head.digest, "receipt": "signed"}
    log.receipt(receipt)
    assert log.verify(KEY).lines == 6
    log.path.write_bytes(before[0])
    head.write_bytes(before[1])
    with pytest.raises(IntegrityError, match="ends before line 5"):
        AuditLog(log.path, IDENTITY).receipt(receipt)


def test_a_running_agent_notices_that_the_log_was_cut(log: AuditLog) -> None:
    log.path.write_bytes(b"".join(lines_of(log)[:2]))
    with pytest.raises(IntegrityError, match="shorter"):
        log.append("sent", {})


def test_half_a_line_of_a_power_cut_is_dropped_and_the_chain_goes_on(log: AuditLog) -> None:
    with log.path.open("ab") as stream:
        stream.write(b'{"at":"2026')
    assert len(AuditLog(log.path).lines()) == 4
    AuditLog(log.path, IDENTITY).append("sent", {})
    assert AuditLog(log.path).verify(KEY).lines == 5


def test_a_line_without_its_head_of_a_power_cut_is_not_called_a_change(log: AuditLog) -> None:
    head = log.path.parent / "audit.jsonl.head"
    before = head.read_bytes()
    log.append("sent", {})
    head.write_bytes(before)
    assert AuditLog(log.path).verify(KEY).lines == 5


def test_every_line_is_one_object_of_json(log: AuditLog) -> None:
    assert [json.loads(line)["number"] for line in lines_of(log)] == [1, 2, 3, 4]


def test_nothing_is_appended_without_the_sites_identity(log: AuditLog) -> None:
    with pytest.raises(IntegrityError, match="reading alone"):
        AuditLog(log.path).append("sent", {})
    assert len(lines_of(log)) == 4


HUB = Identity.new()


def sent(log: AuditLog, hub: Identity = HUB, head: dict[str, object] | None = None, of: str | None = None) -> None:
    """Sends a decision that carries the log's head to the hub, and keeps the hub's receipt."""
    receipts = AuditReceipts(log)
    stated = receipts.head()
    body = {"decision": "approve", "audit": head or stated}
    until = "2027-01-01T00:00:00+00:00"
    names = {"federation": "hospitals", "run": "run", "plan": "1" * 64, "sender": "north", "recipient": "alice"}
    text = write_envelope(IDENTITY, Envelope(**names, kind="decision", until=until, body=body))
    receipt = sign(hub, RECEIPT_PURPOSE, {"digest": of or open_envelope(text)[1].digest, "sender": "north"})
    receipts.keep(stated, text, receipt)


def test_receipts_of_the_hub_countersign_earlier_heads(log: AuditLog) -> None:
    sent(log)
    log.append("sent", {})
    sent(log)
    assert log.verify(KEY).lines == 7
    assert AuditReceipts(log).verify(HUB.public.signing) == 2


@pytest.mark.parametrize(
    "wrong",
    [{"hub": Identity.new()}, {"head": {"digest": "0" * 64, "lines": 4}}, {"of": "0" * 64}],
    ids=["another key", "another head", "another envelope"],
)
def test_a_receipt_that_is_not_the_hubs_for_that_head_is_found(log: AuditLog, wrong: dict[str, object]) -> None:
    sent(log, **wrong)
    with pytest.raises(IntegrityError, match="line 5 of the audit log is not a receipt"):
        AuditReceipts(log).verify(HUB.public.signing)
