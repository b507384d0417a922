"""Dates and UTC times of plans and approvals."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

__all__ = ["moment", "now_text", "passed"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")


def moment(text: str) -> datetime:
    """Returns the moment after which something is no longer valid: a UTC time, or the end of a date in UTC.

    Raises ValueError for any other text.

    >>> moment("2027-01-31").isoformat(), moment("2027-01-31T12:00:00Z").isoformat()
    ('2027-02-01T00:00:00+00:00', '2027-01-31T12:00:00+00:00')
    """
    if _TIME.fullmatch(text):
        return datetime.fromisoformat(text)
    if not _DATE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a date (2027-01-31) or a UTC time (2027-01-31T12:00:00Z)")
    if text == "9999-12-31":
        return datetime.max.replace(tzinfo=UTC)
    return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=1)


def passed(until: str, now: datetime) -> bool:
    """Returns whether `until` has passed at the moment `now`."""
    return now >= moment(until)


def now_text(now: datetime) -> str:
    """Returns a UTC time as plans and records write it, in whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
