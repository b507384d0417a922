"""`flctl site policy|review|approve|deny|revoke|log`: the data owner's commands on a home with plans that wait."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.plans import REGISTRY, make_plan
from support.sites import POLICY, make_home

from flctl.cli import run as run_command
from flctl.cli.site.log import _words
from flctl.federation.identity.homes import SiteHome
from flctl.federation.plan.plan import Plan
from flctl.federation.reasons import Reason
from flctl.federation.site.desk import Desk

CODE = b"import os\n\ndef net(data):\n    return open('rows').read()\n"
SHA = hashlib.sha256(CODE).hexdigest()
PLAN = make_plan(files={})
WITH_CODE = make_plan(run="stroke-2", files={"net.py": SHA}, study=None)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteHome:
    monkeypatch.setenv("FLCTL_SITE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    return make_home(tmp_path / "home", PLAN)


def flctl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run_command(["site", *words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def data(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = flctl(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)["data"]


def standing(home: SiteHome, plan: Plan) -> Reason | None:
    return Desk.open(home, REGISTRY).approvals.decision(plan).reason


def test_the_review_says_who_asks_for_what_and_what_leaves_in_80_columns(home, capsys) -> None:
    code, out, _ = flctl(capsys, "review")
    assert code == 0
    assert max(map(len, out.splitlines()[:-1])) <= 80
    for words in (
        "purpose       stroke risk, ethics vote 12/26",
        "3: north, south, west",
        "delta of 10 numbers; at most 65.6 kB",
        "masked: the coordinator reads sums of at least 3 sites",
        "100 to train, 20 to test",
        "rates: local.lr 0.001 to 0.5",
        "no rule denies this plan",
        "flctl site approve stroke-1 --until 2027-01-31",
    ):
        assert words in out


def test_an_update_in_the_clear_is_called_so(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FLCTL_SITE_HOME", str(tmp_path))
    plain = make_plan(files={}, config={**PLAN.config, "aggregator": {"name": "plain"}})
    make_home(tmp_path, plain)
    shown = data(capsys, "review")
    assert "in the clear" in shown["sections"]["What leaves this site"]["read by"]
    assert {one["reason"] for one in shown["denied"]} == {"policy-aggregator", "policy-required"}


def test_an_approval_needs_a_reason_and_holds_until_it_is_revoked(home, capsys) -> None:
    assert flctl(capsys, "approve")[0] == 2
    assert standing(home, PLAN) == Reason.PLAN_NOT_APPROVED
    code, out, _ = flctl(capsys, "approve", "stroke-1", "--until", "2027-01-15", "--reason", "ethics vote 12/26")
    assert (code, out.strip()) == (0, f"stroke-1: approved until 2027-01-15 (plan {PLAN.digest[:12]})")
    assert standing(home, PLAN) is None
    assert flctl(capsys, "revoke", "stroke-1", "--reason", "consent was withdrawn")[0] == 0
    assert standing(home, PLAN) == Reason.PLAN_REVOKED


def test_a_denial_is_recorded_with_its_reason(home, capsys) -> None:
    assert data(capsys, "deny", "--reason", "too few sites")["decision"] == "deny"
    assert standing(home, PLAN) == Reason.PLAN_DENIED
    lines = data(capsys, "log")["lines"]
    assert [line["kind"] for line in lines] == ["planned", "decided"]
    assert (lines[1]["facts"]["decision"], lines[1]["facts"]["reason"]) == ("deny", "too few sites")
    assert data(capsys, "review", "--all")["plans"][0]["decision"] == "plan-denied"


def test_a_changed_record_is_an_integrity_error(home, capsys) -> None:
    flctl(capsys, "deny", "--reason", "too few sites")
    assert data(capsys, "log", "--verify")["lines"] == 2
    home.audit.write_bytes(home.audit.read_bytes().replace(b"too few", b"too new"))
    code, _, err = flctl(capsys, "log", "--verify")
    assert code == 6
    assert "the audit log was changed" in err


def test_a_study_is_approved_with_totals(home, capsys) -> None:
    assert flctl(capsys, "approve", "--runs", "20", "--reason", "study 7")[0] == 2
    assert flctl(capsys, "approve", "--runs", "20", "--rounds", "100", "--reason", "study 7")[0] == 0
    assert standing(home, make_plan(files={}, run="rates-2")) is None


def test_the_policy_is_explained_and_applied_rule_by_rule(home, capsys, tmp_path) -> None:
    assert "limits.min_sites" in flctl(capsys, "policy")[1]
    assert flctl(capsys, "policy", "--check", "stroke-1")[0] == 0
    file = tmp_path / "plan.json"
    file.write_bytes(make_plan(files={}, coordinator="mallory").to_json())
    code, out, _ = flctl(capsys, "policy", "--check", str(file))
    assert code == 3
    assert "mallory" in out
    assert sum(line.strip().startswith("deny") for line in out.splitlines()) == 1


def test_a_mistake_in_the_policy_is_shown_at_its_place(home, capsys) -> None:
    home.policy.write_text(POLICY.replace("rounds: 5", "rounds: many"))
    code, _, err = flctl(capsys, "review")
    assert code == 2
    assert "policy.yaml:6:18" in "".join(err.split())


def test_a_run_that_nobody_asked_for_is_an_error_that_names_the_others(home, capsys) -> None:
    code, _, err = flctl(capsys, "review", "stroke-9")
    assert code == 2
    assert "stroke-1" in err


def test_code_is_shown_hashed_and_approved_with_its_plan(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FLCTL_SITE_HOME", str(tmp_path / "home"))
    home = make_home(tmp_path / "home", WITH_CODE)
    (tmp_path / "net.py").write_bytes(CODE)
    (tmp_path / "other.py").write_bytes(CODE + b"\n")
    assert flctl(capsys, "approve", "--reason", "not read")[0] == 2  # the code has not arrived
    assert standing(home, WITH_CODE) == Reason.PLAN_NOT_APPROVED
    assert flctl(capsys, "review", "--code", str(tmp_path / "other.py"))[0] == 2
    shown = data(capsys, "review", "--code", str(tmp_path / "net.py"))["sections"]["Code: net.py"]
    assert (shown["imports"], shown["look at"]) == ("os", "open (line 4)")
    assert shown["text"] == CODE.decode().splitlines()
    assert not home.approved.exists()
    assert flctl(capsys, "approve", "--reason", "read it")[0] == 0
    assert (home.approved / f"{SHA}.py").read_bytes() == CODE
    assert Desk.open(home, REGISTRY).approvals.code() == {SHA}


def test_code_is_shown_as_what_differs_from_the_code_approved_before(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("FLCTL_SITE_HOME", str(tmp_path / "home"))
    newer = CODE.replace(b"'rows'", b"'other'")
    later = make_plan(run="stroke-3", files={"net.py": hashlib.sha256(newer).hexdigest()}, study=None)
    make_home(tmp_path / "home", WITH_CODE, later)
    for name, source in (("net.py", CODE), ("newer.py", newer)):
        (tmp_path / name).write_bytes(source)
    flctl(capsys, "review", "stroke-2", "--code", str(tmp_path / "net.py"))
    flctl(capsys, "approve", "stroke-2", "--reason", "read it")
    shown = data(capsys, "review", "stroke-3", "--code", str(tmp_path / "newer.py"))["sections"]["Code: net.py"]
    assert [line for line in shown["text"] if line[:1] in "+-"][2:] == [
        "-    return open('rows').read()",
        "+    return open('other').read()",
    ]


def test_the_record_shows_digests_and_signed_statements_in_brief():
    facts = {"task": "ab" * 32, "receipt": '{"by":"08bb","purpose":"x"}', "reason": "ethics vote 12/26"}
    assert _words(facts) == "task abababababab, receipt kept, reason ethics vote 12/26"
