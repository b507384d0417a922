"""Canonical JSON: one text a value, and refusals before and after parsing."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from flctl import ProtocolError
from flctl.federation.identity.canonical import DEPTH, canonical, digest, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab\né", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_a_value_has_one_text_which_parses_to_the_value(value: object) -> None:
    text = canonical(value)
    assert parse(text, most=len(text)) == value
    assert canonical(parse(text, most=len(text))) == text


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})


NOT_CANONICAL = {
    "space": b'{"a": 1}',
    "order": b'{"b":1,"a":2}',
    "repeated key": b'{"a":1,"a":1}',
    "repeated key inside": b'[{"a":1,"b":{"c":1,"c":2}}]',
    "NaN": b'{"a":NaN}',
    "infinity": b"[-Infinity]",
    "overflow": b"[1e999]",
    "exponent": b"[1e2]",
    "minus zero": b"[-0]",
    "trailing line": b"[]\n",
    "escaped letter": b'["\\u0061"]',
    "escaped slash": b'["\\/"]',
    "lone surrogate": b'["\\ud800"]',
    "byte order mark": b"\xef\xbb\xbf[]",
    "not UTF-8": b'["\xff"]',
    "empty": b"",
    "cut": b'{"a":',
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested just too deep": b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2),
    "number of 10,000 digits": b"9" * 10_000,
}


@pytest.mark.parametrize("text", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
def test_any_other_text_of_a_value_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(text, most=1 << 20)


def test_the_deepest_allowed_value_parses() -> None:
    text = b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1)
    assert canonical(parse(text, most=1000)) == text


def test_a_longer_text_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="11 bytes, expected at most 10"):
        parse(b"x" * 11, most=10)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"a": b"x"}, {"a": {3}}, "\ud800", object()])
def test_values_that_json_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        canonical(value)
