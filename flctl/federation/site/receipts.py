"""The hub's receipts in a site's audit log: each countersigns the head that the log had when an envelope was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flctl.errors import FlctlError, IntegrityError
from flctl.federation.identity.statements import verify
from flctl.federation.site.audit import AuditLog
from flctl.federation.transport.envelope import open_envelope

__all__ = ["RECEIPT_PURPOSE", "AuditReceipts"]

RECEIPT_PURPOSE = "flctl/receipt/1"
"""Purpose of the hub's signature on a receipt."""


class AuditReceipts:
    """Receipts of the hub over heads of `log`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def head(self) -> dict[str, Any]:
        """Returns the head of the log, which an envelope carries in its body as "audit"."""
        self._log.lines()
        return {"digest": self._log.head.digest, "lines": self._log.head.lines}

    def keep(self, head: Mapping[str, Any], envelope: bytes, receipt: bytes) -> None:
        """Records the hub's receipt of an envelope that carried `head`."""
        self._log.receipt({**head, "envelope": envelope.decode(), "receipt": receipt.decode()})

    def is_from(self, hub: bytes, head: Mapping[str, Any], envelope: bytes, receipt: bytes) -> bool:
        """True if the hub's key signed the receipt, of an envelope that carried `head`."""
        try:
            sent, signed = open_envelope(envelope)
            statement = verify(receipt, RECEIPT_PURPOSE, hub).statement
        except FlctlError:
            return False
        return statement.get("digest") == signed.digest and sent.body.get("audit") == dict(head)

    def verify(self, hub: bytes) -> int:
        """Returns the number of receipts that the hub signed with its key. Raises IntegrityError for one that is not
        the hub's, or not over the head that it stands for."""
        found = [line for line in self._log.lines() if line.kind == "receipt"]
        for line in found:
            try:
                envelope, signed = open_envelope(str(line.facts["envelope"]).encode())
                statement = verify(str(line.facts["receipt"]).encode(), RECEIPT_PURPOSE, hub).statement
            except (FlctlError, KeyError) as error:
                raise _foreign(line.number) from error
            head = {"digest": line.facts["digest"], "lines": line.facts["lines"]}
            if statement.get("digest") != signed.digest or envelope.body.get("audit") != head:
                raise _foreign(line.number)
        return len(found)


def _foreign(number: int) -> IntegrityError:
    return IntegrityError(f"line {number} of the audit log is not a receipt of the hub for an earlier head of the log")
