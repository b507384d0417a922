"""The plan: one canonical text, one digest, and a strict reader."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.plans import make_plan, single_changes

from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.plan.plan import MOST_BYTES, Plan
from flctl.federation.reasons import Reason, Refused

PLAN = make_plan()
TREE = parse(PLAN.to_json(), MOST_BYTES)
CHANGES = dict(single_changes(TREE))


def read(tree: Any) -> Plan:
    return Plan.from_json(canonical(tree))


def test_a_plan_reads_back_with_the_same_digest() -> None:
    again = Plan.from_json(PLAN.to_json())
    assert (again.digest, again.to_json()) == (PLAN.digest, PLAN.to_json())
    assert again == PLAN


def outcome(tree: Any) -> str:
    """The digest of a plan, or the code of the reason for which it is refused."""
    try:
        return read(tree).digest
    except Refused as error:
        return error.reason


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_of_any_single_value_gives_another_digest_or_no_plan(path: str) -> None:
    assert outcome(CHANGES[path]) != PLAN.digest


def test_most_changes_are_plans_themselves() -> None:
    assert sum(len(outcome(tree)) == 64 for tree in CHANGES.values()) > len(CHANGES) / 2


def test_the_changes_reach_every_field_of_a_plan() -> None:
    assert {path.split(".")[0] for path in CHANGES} == set(TREE)
    assert {path.split(".")[1] for path in CHANGES if path.startswith("derived.")} == set(TREE["derived"])


@pytest.mark.parametrize("field", TREE)
def test_a_plan_without_one_of_its_fields_is_refused(field: str) -> None:
    rest = {key: value for key, value in TREE.items() if key != field}
    with pytest.raises(Refused) as refused:
        read(rest)
    assert refused.value.reason == Reason.PLAN_FORM


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"format": "flctl-plan/2"},
        {"sites": []},
        {"sites": ["north", "north", "west"]},
        {"sites": ["north", "South", "west"]},
        {"sites": ["north", "so\u202euth", "west"]},
        {"sites": ["north", "south"]},
        {"federation": "x" * 65},
        {"run": "../run"},
        {"purpose": ""},
        {"purpose": "stroke\nrisk"},
        {"rounds": 0},
        {"rounds": 6},
        {"rounds": 5.0},
        {"rounds": True},
        {"until": "tomorrow"},
        {"until": "2027-13-01"},
        {"roster": "a" * 63},
        {"files": {"net.py": "A" * 64}},
        {"ask": ["train", "train"]},
        {"ask": ["delete"]},
        {"data": {**TREE["data"], "rows": [[100, 20], [80, 20], [-1, 10]]}},
        {"derived": {**TREE["derived"], "max_weight": 1}},
        {"derived": {**TREE["derived"], "alone": False}},
        {"study": {"name": "rates", "ranges": {}}},
        {"study": {"name": "rates", "ranges": {"local.lr": [0.5, 0.001]}}},
    ],
    ids=lambda change: json.dumps(change)[:50],
)
def test_a_malformed_plan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        read({**TREE, **change})
    assert refused.value.reason == Reason.PLAN_FORM


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        json.dumps(TREE).encode(),  # with spaces
        PLAN.to_json().replace(b'{"ask":', b'{"ask":["train"],"ask":', 1),
        PLAN.to_json() + b"\n",
        b"[" * 100_000,
    ],
    ids=["empty", "object", "spaces", "repeated key", "line end", "nested"],
)
def test_a_text_that_is_not_the_canonical_one_of_a_plan_is_refused(text: bytes) -> None:
    with pytest.raises(Refused) as refused:
        Plan.from_json(text)
    assert refused.value.reason == Reason.PLAN_FORM


def test_a_site_that_the_plan_does_not_list_is_refused() -> None:
    assert PLAN.site_index("south") == 1
    with pytest.raises(Refused) as refused:
        PLAN.site_index("east")
    assert refused.value.reason == Reason.PLAN_SITES
