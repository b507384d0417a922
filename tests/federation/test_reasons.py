"""Codes of refusals: their form and their sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flctl.errors import FlctlError
from flctl.federation.reasons import Reason, Refused


@pytest.mark.parametrize("reason", Reason)
def test_each_code_is_one_word_with_one_plain_sentence(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.value)
    assert re.fullmatch(r"[A-Z0-9][^\n]*[.]", reason.sentence)


def test_no_two_reasons_share_a_sentence() -> None:
    assert len({reason.sentence for reason in Reason}) == len(Reason)


def test_a_refusal_names_its_reason_and_sends_its_sentence() -> None:
    refused = Refused(Reason.PLAN_REVOKED)
    assert isinstance(refused, FlctlError)
    assert (refused.reason, refused.sentence, refused.exit_code) == (
        "plan-revoked",
        "The approval of this plan was revoked here.",
        3,
    )
    assert "plan-revoked" in str(refused.hint)
    assert Refused(Reason.POLICY_ROUNDS, "300 rounds; at most 200.").sentence == "300 rounds; at most 200."


def test_each_code_has_an_anchor_and_its_sentence_in_the_data_owners_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "federation-data-owner.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r'^\| <a id="([a-z-]+)"></a>`\1` \| (.+?) \| .+ \|$', page, re.MULTILINE))
    assert rows == {reason.value: reason.sentence for reason in Reason}
