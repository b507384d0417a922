"""Failures of identity: a statement, key, certificate or roster that is not to be trusted, each with a reason code."""

from __future__ import annotations

from typing import ClassVar

from flctl.errors import IntegrityError

__all__ = ["UntrustedError"]


class UntrustedError(IntegrityError):
    """A statement, key, certificate or roster that is not to be trusted.

    `reason` is one of `REASONS`. It is stable, so that programs can act on it and audit logs can record it.

    >>> UntrustedError("rollback", "the roster is older").reason
    'rollback'
    """

    REASONS: ClassVar[frozenset[str]] = frozenset(
        {
            "format",  # not canonical JSON, or fields that are missing, unknown or of another type
            "purpose",  # a valid statement, made for another purpose
            "signer",  # signed by another key than the expected one
            "signature",  # the signature does not fit the statement
            "key",  # a key of low order, not canonical, or used twice
            "name",  # not a valid name
            "operator",  # a roster of another operator than the pinned one
            "federation",  # made for another federation
            "rollback",  # a roster of a lower version than the newest known one
            "equivocation",  # two rosters of one version, or one that does not continue the known one
            "unknown",  # not on the roster, or removed from it
            "expired",  # after the last day
            "invite",  # an invite that is unknown, used, or for another name
            "certificate",  # a TLS certificate or certificate request that does not fit
        }
    )

    def __init__(self, reason: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        if reason not in self.REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        self.reason = reason
