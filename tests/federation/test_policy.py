"""The site's policy: nothing is allowed unless a rule says so, and each rule denies with its own reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.plans import REGISTRY, SHA, make_plan, with_config

from flctl.errors import ConfigError
from flctl.federation.plan.plan import InstalledFiles, Plan
from flctl.federation.plan.sizes import bytes_a_round
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.policy import Here, Policy, epsilon_of
from flctl.federation.site.policy_file import NOTHING, PolicyRules, read_rules

HERE = Here("north", REGISTRY, frozenset({SHA}))
RULES: dict[str, Any] = {
    "ask_for": ["train", "evaluate"],
    "coordinators": ["alice"],
    "allow": {
        "strategies": ["fedavg"],
        "models": ["mlp", "approved"],
        "transforms": ["clip", "dp-local"],
        "aggregators": ["secagg"],
    },
    "require": {"aggregator": {"name": "secagg", "mode": "active", "minimum": 3}},
    "limits": {
        "rounds": 5,
        "local_epochs": 1,
        "minutes_a_round": 30,
        "rounds_an_hour": 10,
        "gb_a_day": 1,
        "min_rows": 50,
        "min_sites": 3,
        "runs_at_once": 1,
    },
}
PLAN = make_plan()


def policy(**changes: Any) -> Policy:
    return Policy(PolicyRules.model_validate({**RULES, **changes}))


def rules(section: str, **changes: Any) -> Policy:
    return policy(**{section: {**RULES.get(section, {}), **changes}})


def reasons(plan: Plan, policy: Policy, here: Here = HERE) -> set[Reason]:
    return {verdict.reason for verdict in policy.check(plan, here) if verdict.reason}


def dp(**options: Any) -> Plan:
    return with_config("transforms", "dp-local", value={"target_epsilon": 2.0, "target_delta": 1e-6, **options})


def test_a_plan_inside_all_rules_is_allowed() -> None:
    assert reasons(PLAN, policy()) == set()
    policy().require(PLAN, HERE)


def test_an_empty_policy_denies_by_every_rule_that_names_or_limits(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(NOTHING)
    nothing = Policy(read_rules(tmp_path / "policy.yaml"))
    assert nothing.rules == PolicyRules()
    assert reasons(PLAN, nothing) == {
        Reason.POLICY_COORDINATOR,
        Reason.POLICY_ASK,
        Reason.POLICY_STRATEGY,
        Reason.POLICY_MODEL,
        Reason.POLICY_TRANSFORM,
        Reason.POLICY_AGGREGATOR,
        Reason.POLICY_ROUNDS,
        Reason.POLICY_EPOCHS,
        Reason.POLICY_MINUTES,
        Reason.RUNS_AT_ONCE,
        Reason.RATE_BYTES,
        Reason.POLICY_ROWS,
        Reason.POLICY_SITES,
    }


def small(rows: int) -> Plan:
    return make_plan(data=replace(PLAN.data, rows=((rows, 9), *PLAN.data.rows[1:])))


PLUGINS = {**PLAN.versions.plugins, "others": InstalledFiles("others", "1", "f" * 64)}
DENIED: dict[str, tuple[Plan, Policy, Reason]] = {
    "another coordinator": (make_plan(coordinator="mallory"), policy(), Reason.POLICY_COORDINATOR),
    "statistics": (make_plan(ask=("train", "statistics")), policy(), Reason.POLICY_ASK),
    "evaluation where only training": (PLAN, policy(ask_for=["train"]), Reason.POLICY_ASK),
    "another strategy": (with_config("strategy", value={"name": "scaffold"}), policy(), Reason.POLICY_STRATEGY),
    "another model": (with_config("model", value={"name": "logreg"}), policy(), Reason.POLICY_MODEL),
    "another transform": (with_config("transforms", "topk", value={}), policy(), Reason.POLICY_TRANSFORM),
    "another aggregator": (PLAN, rules("allow", aggregators=["plain"]), Reason.POLICY_AGGREGATOR),
    "secagg left out": (with_config("aggregator", value={"name": "plain"}), policy(), Reason.POLICY_REQUIRED),
    "hbc for active": (with_config("aggregator", "mode", value="hbc"), policy(), Reason.POLICY_REQUIRED),
    "a lower minimum": (
        PLAN,
        rules("require", aggregator={"name": "secagg", "minimum": 4}),
        Reason.POLICY_REQUIRED,
    ),
    "dp left out": (PLAN, rules("require", transforms={"dp-local": {}}), Reason.POLICY_REQUIRED),
    "epsilon too large": (
        dp(),
        rules("require", transforms={"dp-local": {"max_epsilon": 1.0}}),
        Reason.POLICY_REQUIRED,
    ),
    "no target epsilon": (
        dp(target_epsilon=None),
        rules("require", transforms={"dp-local": {"max_epsilon": 1.0}}),
        Reason.POLICY_REQUIRED,
    ),
    "delta too large": (dp(), rules("require", transforms={"dp-local": {"delta": 1e-9}}), Reason.POLICY_REQUIRED),
    "another plugin": (
        make_plan(versions=replace(PLAN.versions, plugins=PLUGINS)),
        policy(),
        Reason.POLICY_PLUGIN,
    ),
    "a function by name": (with_config("model", value={"name": "os:system"}), policy(), Reason.POLICY_PLACE),
    "a file of keys": (with_config("aggregator", "keys", value="keys"), policy(), Reason.POLICY_PLACE),
    "code not approved": (make_plan(files={"net.py": "9" * 64}), policy(), Reason.CODE_NOT_APPROVED),
    "a model not approved": (
        with_config("model", value={"name": f"approved:{'9' * 64}:net"}),
        policy(),
        Reason.CODE_NOT_APPROVED,
    ),
    "approved code not allowed": (
        with_config("model", value={"name": f"approved:{SHA}:net"}),
        rules("allow", models=["mlp"]),
        Reason.POLICY_MODEL,
    ),
    "a seed of the noise": (dp(insecure_seed=7), policy(), Reason.POLICY_SIMULATION),
    "an attack": (with_config("attack", "name", value="sign-flip"), policy(), Reason.POLICY_SIMULATION),
    "devices": (with_config("devices", "speed", value=3.0), policy(), Reason.POLICY_SIMULATION),
    "a trace": (with_config("cohort", "sampling", value="trace"), policy(), Reason.POLICY_SIMULATION),
    "clients together": (with_config("engine", "alone", value=False), policy(), Reason.POLICY_SIMULATION),
    "rounds": (PLAN, rules("limits", rounds=4), Reason.POLICY_ROUNDS),
    "epochs": (make_plan(derived=replace(PLAN.derived, steps=(5, 3, 2))), policy(), Reason.POLICY_EPOCHS),
    "minutes": (with_config("engine", "deadline", value=1801.0), policy(), Reason.POLICY_MINUTES),
    "bytes": (PLAN, rules("limits", gb_a_day=1e-6), Reason.RATE_BYTES),
    "few rows": (small(49), policy(), Reason.POLICY_ROWS),
    "few sites": (PLAN, rules("limits", min_sites=4), Reason.POLICY_SITES),
    "small cohorts": (
        make_plan(derived=replace(PLAN.derived, cohort={"expected": 2.0})),
        policy(),
        Reason.POLICY_SITES,
    ),
    "sums of few": (with_config("aggregator", "minimum", value=2), policy(require={}), Reason.POLICY_SITES),
    "figures of a site": (with_config("eval", "per_client", value=True), policy(), Reason.POLICY_METRICS),
    "budget": (dp(), rules("limits", epsilon=1.5), Reason.POLICY_EPSILON),
    "budget without dp": (PLAN, rules("limits", epsilon=100.0), Reason.POLICY_EPSILON),
}


@pytest.mark.parametrize("case", DENIED)
def test_each_rule_denies_with_its_own_reason(case: str) -> None:
    plan, policy, reason = DENIED[case]
    assert reason in reasons(plan, policy)
    with pytest.raises(Refused):
        policy.require(plan, HERE)


def test_the_budget_is_one_over_plans_and_coordinators() -> None:
    tight = rules("limits", epsilon=3.0)
    assert epsilon_of(dp()) == 2.0
    assert reasons(dp(), tight) == set()
    assert reasons(dp(), tight, replace(HERE, spent=1.5)) == {Reason.POLICY_EPSILON}


def test_a_plan_over_all_sites_but_one_of_an_earlier_one_is_denied() -> None:
    earlier = make_plan(run="stroke-0", sites=("east", "north", "south", "west"))
    assert reasons(PLAN, policy(), replace(HERE, earlier=(earlier,))) == {Reason.POLICY_DIFFERING}
    assert reasons(PLAN, policy(differing="allow"), replace(HERE, earlier=(earlier,))) == set()
    assert reasons(PLAN, policy(), replace(HERE, earlier=(PLAN,))) == set()
    unrefusing = with_config("aggregator", "differing", value="warn")
    assert reasons(unrefusing, policy(), HERE) == {Reason.POLICY_DIFFERING}
    assert reasons(unrefusing, policy(differing="allow"), HERE) == set()
    another = replace(earlier, derived=replace(earlier.derived, model="9" * 64))
    assert reasons(PLAN, policy(), replace(HERE, earlier=(another,))) == set()


def test_the_bytes_of_a_round_are_those_of_model_and_update() -> None:
    assert bytes_a_round(PLAN) == 4 * 10 + 8 * 10 + 2 * 65536


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("aprove: each\n", ":1:1", "approve"),
        ("approve: every\n", ":1:10", "each"),
        ("limits: {rounds: many}\n", ":1:18", "whole number"),
        ("limits:\n  rounds: 0\n", ":2:11", "at least 1"),
        ("allow: {strategies: fedavg}\n", ":1:21", "list"),
        ("ask_for: [delete]\n", ":1:11", "train"),
        ("share: {metrics: [rows]}\n", ":1:19", "count"),
        ("approve: each\napprove: matching\n", ":2:1", "duplicate"),
        ("require: {aggregator: {mode: active}}\n", ":1:11", "name"),
        ("limits: {rounds: yes}\n", ":1:18", "whole number"),
    ],
)
def test_a_mistake_in_the_policy_is_shown_at_its_place(text: str, place: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_rules(path)
    assert f"policy.yaml{place}" in error.value.message
    assert words in error.value.message


def test_a_missing_policy_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_rules(tmp_path / "policy.yaml")
