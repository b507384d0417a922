"""Numbers as people write them: decimal comma, thousands separators, currency and per cent signs."""

from __future__ import annotations

import re
from typing import Any, Literal

from flctl.data.extras import optional

__all__ = ["Decimal", "advice_for", "marks_of", "plain_numbers"]

Decimal = Literal[".", ","]
_SIGNS = r"[\s\x{00a0}\x{202f}\x{2009}'’€$£¥₹%]"
_WRITTEN = {",": r"^[-+]?[\d.]*\d(,\d*)?([eE][-+]?\d+)?$|^[-+]?,\d+$", ".": r"^[-+]?[\d,]*\d(\.\d*)?([eE][-+]?\d+)?$"}
_COMMA = re.compile(r"[-+]?\d[\d.]*,\d+|[-+]?\d{1,3}(\.\d{3}){2,}")
_EITHER = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")
_GROUPED = r"[-+]?([1-9]\d{{0,2}}({group}\d{{3}})+|\d*)({mark}\d+)?([eE][-+]?\d+)?"
_STRICT: dict[Decimal, re.Pattern[str]] = {
    ",": re.compile(_GROUPED.format(group=r"\.", mark=",")),
    ".": re.compile(_GROUPED.format(group=",", mark=r"\.")),
}
_IGNORED = re.compile(_SIGNS.replace("x{", "u").replace("}", ""))
_SIGNED = re.compile(r"[-+]?[€$£¥₹]?\s*[-+]?\d[\d, ]*(\.\d+)?\s*[€$£¥₹%]?")


def plain_numbers(array: Any, decimal: Decimal) -> Any:
    """Text with its numbers rewritten as Python reads them, `1.234,5 €` as `1234.5`; other cells stay as they are."""
    pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
    bare = pc.replace_substring_regex(pc.cast(array, pa.string()), _SIGNS, "")
    is_number = pc.match_substring_regex(bare, _WRITTEN[decimal])
    grouped = pc.replace_substring(bare, "." if decimal == "," else ",", "")
    return pc.if_else(is_number, pc.replace_substring(grouped, decimal, "."), array)


def marks_of(cell: str) -> frozenset[Decimal]:
    """The decimal marks with which a cell is a number, its thousands in groups of three; none if it is no number.

    >>> [sorted(marks_of(cell)) for cell in ("1.234,5 €", "0,25", "1,234", "12", "n/a")]
    [[','], [','], [',', '.'], [',', '.'], []]
    """
    bare = _IGNORED.sub("", cell)
    if not any(letter.isdigit() for letter in bare):
        return frozenset()
    return frozenset(mark for mark, pattern in _STRICT.items() if pattern.fullmatch(bare))


def advice_for(cell: str) -> str | None:
    """The option that reads a cell as a number; None if none does."""
    if _EITHER.fullmatch(cell):
        plain = cell.replace(",", "")
        return f"--decimal . if it is {plain}, --decimal , if its comma is a decimal one"
    if _COMMA.fullmatch(cell):
        return "--decimal , if it is a number with a decimal comma"
    return "--decimal . if it is a number with separators or signs" if _SIGNED.fullmatch(cell) else None
