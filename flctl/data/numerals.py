"""Numbers as people write them: decimal comma, thousands separators, currency and per cent signs."""

from __future__ import annotations

import re
from typing import Any, Literal

from flctl.data.extras import optional

__all__ = ["Decimal", "advice_for", "plain_numbers"]

Decimal = Literal[".", ","]
_SIGNS = r"[\s\x{00a0}\x{202f}\x{2009}'’€$£¥₹%]"
_WRITTEN = {",": r"^[-+]?[\d.]*\d(,\d*)?([eE][-+]?\d+)?$|^[-+]?,\d+$", ".": r"^[-+]?[\d,]*\d(\.\d*)?([eE][-+]?\d+)?$"}
_COMMA = re.compile(r"[-+]?\d[\d.]*,\d+|[-+]?\d{1,3}(\.\d{3}){2,}")
_EITHER = re.compile(r"[-+]?\d{1,3}(,\d{3})+")
_SIGNED = re.compile(r"[-+]?[€$£¥₹]?\s*[-+]?\d[\d, ]*(\.\d+)?\s*[€$£¥₹%]?")


def plain_numbers(array: Any, decimal: Decimal) -> Any:
    """Text with its numbers rewritten as Python reads them, `1.234,5 €` as `1234.5`; other cells stay as they are."""
    pa, pc = optional("pyarrow", "pyarrow", "tables"), optional("pyarrow.compute", "pyarrow", "tables")
    bare = pc.replace_substring_regex(pc.cast(array, pa.string()), _SIGNS, "")
    is_number = pc.match_substring_regex(bare, _WRITTEN[decimal])
    grouped = pc.replace_substring(bare, "." if decimal == "," else ",", "")
    return pc.if_else(is_number, pc.replace_substring(grouped, decimal, "."), array)


def advice_for(cell: str) -> str | None:
    """The option that reads a cell as a number; None if none does."""
    if _EITHER.fullmatch(cell):
        plain = cell.replace(",", "")
        return f"--decimal . if it is {plain}, --decimal , if its comma is a decimal one"
    if _COMMA.fullmatch(cell):
        return "--decimal , if it is a number with a decimal comma"
    return "--decimal . if it is a number with separators or signs" if _SIGNED.fullmatch(cell) else None
