"""Dates and times of day as numbers: parts such as month or weekday, parsed in one format for a whole column."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from flctl.data.extras import optional
from flctl.errors import DataError
from flctl.types import FloatArray

__all__ = [
    "DEFAULT_PARTS",
    "ISO",
    "PARTS",
    "date_numbers",
    "format_of_dates",
    "java_format",
    "looks_like_date",
    "parsed",
]

EPOCH = datetime(1970, 1, 1)
ISO, UNIX = "iso", "unix"
PARTS: dict[str, Callable[[datetime], float]] = {
    "time": lambda date: (date - EPOCH).total_seconds(),
    "year": lambda date: date.year,
    "quarter": lambda date: (date.month + 2) // 3,
    "month": lambda date: date.month,
    "week": lambda date: date.isocalendar().week,
    "day": lambda date: date.day,
    "weekday": lambda date: date.weekday(),
    "yearday": lambda date: date.timetuple().tm_yday,
    "hour": lambda date: date.hour,
    "minute": lambda date: date.minute,
    "second": lambda date: date.second,
}
"""Numbers that a date becomes: `time` is seconds since 1970, UTC if it has an offset; weekday 0 is Monday."""
DEFAULT_PARTS = ("year", "month", "day", "weekday")
_TIMES = ("%H:%M:%S", "%H:%M", "%H.%M.%S", "%I:%M:%S %p", "%I:%M %p")
_DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d"),
    *("%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%m-%y", "%m-%d-%y"),
    *("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y"),
)
_FORMATS = (ISO, UNIX, *_DAYS, *(f"{day} {time}" for day in _DAYS for time in _TIMES), *_TIMES)
_UNIX = re.compile(r"-?\d{9,10}(\.\d+)?|-?\d{12,13}")
_JAVA = {"yyyy": "%Y", "yy": "%y", "MMM": "%b", "MM": "%m", "M": "%m", "dd": "%d", "d": "%d", "HH": "%H", "H": "%H",
         "hh": "%I", "h": "%I", "mm": "%M", "ss": "%S", "s": "%S", "SSS": "%f", "a": "%p", "Z": "%z", "X": "%z",
         "EEE": "%a", "EEEE": "%A", "DDD": "%j"}  # fmt: skip
_MILLISECONDS = 1e11
SAMPLE = 1000
"""Distinct words that are looked at to name a format in an error."""
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b.*|\d{1,2}:\d{2}(:\d{2})?( ?[AaPp][Mm])?"
)


def parsed(text: str, form: str) -> datetime | None:
    """The date, in UTC without an offset; None if the text does not have the format."""
    try:
        if form == ISO:
            date = datetime.fromisoformat(text)
        elif form == UNIX:
            seconds = float(text) if _UNIX.fullmatch(text) else float("nan")
            date = datetime.fromtimestamp(seconds / (1000 if abs(seconds) > _MILLISECONDS else 1), UTC)
        else:
            date = datetime.strptime(text, form)
    except (ValueError, OverflowError, OSError):
        return None
    return date if date.tzinfo is None else date.astimezone(UTC).replace(tzinfo=None)


def date_numbers(array: Any, part: str, form: str) -> tuple[FloatArray, int | None]:
    """(A part of the dates of a pyarrow array of text, NaN if null; the first row that is no such date or None)."""
    encoded = optional("pyarrow.compute", "pyarrow", "tables").dictionary_encode(array)
    words = [str(word).strip() for word in encoded.dictionary.to_pylist()]
    dates = [parsed(word, form) or parsed(word, ISO) for word in words]
    values = np.array([*(PARTS[part](date) if date else np.nan for date in dates), np.nan])
    codes = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    wrong = np.array([*(date is None for date in dates), False])[codes]
    return values[codes], int(np.argmax(wrong)) if wrong.any() else None


def format_of_dates(words: Iterable[str], column: str) -> str:
    """The format of all distinct words of a column. Raises DataError if none fits, or if days and months may be meant
    either way."""
    found = list(words)
    fitting = [form for form in _FORMATS if all(parsed(word, form) for word in found)]
    if not fitting:
        sample = found[:SAMPLE]
        known = max(_FORMATS, key=lambda form: sum(parsed(word, form) is not None for word in sample))
        odd = next((word for word in found if parsed(word, known) is None), found[0])
        raise DataError(
            f"--date {column}: '{odd}' is not a date in a known format, or not in the format of other cells",
            hint=f"--na {shlex.quote(odd)} if it means missing; or name the format: --date-format '%d.%m.%Y %H:%M'.",
        )
    first = fitting[0]
    swapped = [form for form in fitting if form != first and _swapped(form) == first]
    if swapped and any(parsed(word, first) != parsed(word, swapped[0]) for word in found):
        raise DataError(
            f"--date {column}: '{found[0]}' may begin with the day or with the month",
            hint=f"--date-format {first!r} or --date-format {swapped[0]!r}",
        )
    return first


def _swapped(form: str) -> str:
    return form.replace("%d", "%_").replace("%m", "%d").replace("%_", "%m")


def looks_like_date(words: Sequence[str]) -> bool:
    """True if words are written as dates or times of day are."""
    return bool(words) and all(_DATE.fullmatch(word.strip()) for word in words)


def java_format(pattern: str) -> str | None:
    """The format of `strptime` for a pattern of Java's SimpleDateFormat, as ARFF declares dates; None if unknown."""
    if not pattern or pattern.replace("'", "").startswith("yyyy-MM-ddTHH:mm"):
        return ISO
    result = ""
    for letters, quoted, other in _tokens(pattern):
        if letters and letters not in _JAVA:
            return None
        result += _JAVA[letters] if letters else (quoted or other).replace("%", "%%")
    return result


def _tokens(pattern: str) -> list[tuple[str, str, str]]:
    found = re.finditer(r"(?P<letters>([A-Za-z])\2*)|'(?P<quoted>[^']*)'|(?P<other>[^A-Za-z'])", pattern)
    return [(match["letters"] or "", match["quoted"] or "", match["other"] or "") for match in found]
