"""The site's policy: each rule allows or denies a plan, with the reason and the two values that were compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from pydantic import ValidationError

from flctl.component import Catalogue
from flctl.config.config import AUTO, DEFAULT_MODELS, DevicesConfig
from flctl.federation.plan.marks import approved_digest, unapproved
from flctl.federation.plan.plan import Plan
from flctl.federation.plan.sizes import bytes_a_round
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.policy_file import PolicyRules, read_rules

__all__ = ["Here", "Policy", "Verdict", "code_of", "epsilon_of"]

OWN_PLUGINS = frozenset({"flctl", "dp", "secagg", "vertical"})
"""flctl's own plugins: their components are allowed by name."""
MODES = ("hbc", "active")
"""Modes of secure aggregation, the weaker first."""
GB = 10**9


class Home(Protocol):
    """A folder with a policy file."""

    @property
    def policy(self) -> Path:
        """The site's policy file."""


@dataclass(frozen=True)
class Here:
    """A site as its policy sees it.

    `approved` are the digests of approved code, `earlier` the plans approved before, `spent` the epsilon charged to
    this site's budget so far by other plans.
    """

    name: str
    catalogue: Catalogue
    approved: frozenset[str] = frozenset()
    earlier: tuple[Plan, ...] = ()
    spent: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """One rule applied to a plan. `reason` is None if the rule allows it."""

    rule: str
    reason: Reason | None
    found: str
    allowed: str

    @property
    def allows(self) -> bool:
        """True if the rule allows the plan."""
        return self.reason is None


Rule = Callable[["Policy", Plan, Here], Iterator[Verdict]]


@dataclass(frozen=True)
class Policy:
    """The rules of a site.

    >>> Policy().rules.approve
    'each'
    """

    rules: PolicyRules = field(default_factory=PolicyRules)

    @classmethod
    def open(cls, home: Home) -> Self:
        """Reads a site's policy. Raises ConfigError with every problem and its place."""
        return cls(read_rules(home.policy))

    def check(self, plan: Plan, here: Here) -> list[Verdict]:
        """Returns the verdict of every rule about a plan."""
        return [verdict for rule in RULES for verdict in rule(self, plan, here)]

    def require(self, plan: Plan, here: Here) -> None:
        """Raises Refused with the reason of the first rule that denies the plan."""
        for verdict in self.check(plan, here):
            if verdict.reason is not None:
                raise Refused(verdict.reason)


def epsilon_of(plan: Plan) -> float | None:
    """Returns the epsilon that a plan may spend at most: that of its transforms together; None without such a
    transform, infinity if one has no target."""
    budgets = [
        options.get("target_epsilon")
        for options in _transforms(plan).values()
        if isinstance(options, Mapping) and "target_epsilon" in options
    ]
    if not budgets:
        return None
    return math.fsum(budget if isinstance(budget, (int, float)) else math.inf for budget in budgets)


def code_of(plan: Plan) -> set[str]:
    """Returns the SHA-256 of all user code of a plan: its attached files, and those that its components name."""
    names = [*(_name(plan, kind) for kind in ("model", "strategy", "aggregator")), *_transforms(plan)]
    return {*plan.files.values(), *(digest for digest in map(approved_digest, names) if digest)}


def _verdict(rule: str, reason: Reason, found: object, allowed: object, *, holds: bool) -> Verdict:
    return Verdict(rule, None if holds else reason, str(found), str(allowed))


def _listed(rule: str, reason: Reason, found: str, allowed: tuple[str, ...]) -> Verdict:
    return _verdict(rule, reason, found, ", ".join(allowed) or "none", holds=found in allowed)


def _at_most(rule: str, reason: Reason, found: float, limit: float | None) -> Verdict:
    allowed = "not set: nothing" if limit is None else f"at most {limit:g}"
    return _verdict(rule, reason, f"{found:g}", allowed, holds=limit is not None and found <= limit)


def _at_least(rule: str, reason: Reason, found: float, limit: float | None) -> Verdict:
    allowed = "not set: nothing" if limit is None else f"at least {limit:g}"
    return _verdict(rule, reason, f"{found:g}", allowed, holds=limit is not None and found >= limit)


def _people(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    rules = policy.rules
    yield _listed("coordinators", Reason.POLICY_COORDINATOR, plan.coordinator, rules.coordinators)
    for ask in plan.ask:
        yield _listed("ask_for", Reason.POLICY_ASK, ask, rules.ask_for)


def _places(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    found = unapproved(plan.config, here.catalogue)
    yield _verdict("names of code and files", Reason.POLICY_PLACE, ", ".join(found) or "none", "none", holds=not found)


def _components(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    allow = policy.rules.allow
    yield _component("allow.strategies", Reason.POLICY_STRATEGY, _name(plan, "strategy"), allow.strategies)
    yield _component("allow.models", Reason.POLICY_MODEL, _model(plan), allow.models)
    for name in _transforms(plan):
        yield _component("allow.transforms", Reason.POLICY_TRANSFORM, name, allow.transforms)
    yield _component("allow.aggregators", Reason.POLICY_AGGREGATOR, _name(plan, "aggregator"), allow.aggregators)
    for plugin in sorted(plan.versions.plugins.keys() - OWN_PLUGINS):
        yield _listed("allow.plugins", Reason.POLICY_PLUGIN, plugin, allow.plugins)
    unknown = sorted(code_of(plan) - here.approved)
    shown = ", ".join(digest[:12] for digest in unknown) or "none"
    yield _verdict("code not approved here", Reason.CODE_NOT_APPROVED, shown, "none", holds=not unknown)


def _component(rule: str, reason: Reason, name: str, allowed: tuple[str, ...]) -> Verdict:
    """Approved code is allowed as `approved`, whatever it is called."""
    shown = "approved" if approved_digest(name) else name
    return _listed(rule, reason, shown, allowed)


def _protections(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    required, options = policy.rules.require, _options(plan, "aggregator")
    aggregator = required.aggregator
    if aggregator is not None:
        yield _listed("require.aggregator", Reason.POLICY_REQUIRED, _name(plan, "aggregator"), (aggregator.name,))
        if aggregator.mode is not None:
            modes = MODES[MODES.index(aggregator.mode) :]
            yield _listed("require.aggregator.mode", Reason.POLICY_REQUIRED, str(options.get("mode")), modes)
        if aggregator.minimum is not None:
            found = _number(options.get("minimum"))
            yield _at_least("require.aggregator.minimum", Reason.POLICY_REQUIRED, found, aggregator.minimum)
    for name, privacy in required.transforms.items():
        chosen = _transforms(plan).get(name)
        shown = name if chosen is not None else "left out"
        yield _listed(f"require.transforms.{name}", Reason.POLICY_REQUIRED, shown, (name,))
        for key, limit in (("target_epsilon", privacy.max_epsilon), ("target_delta", privacy.delta)):
            if limit is not None:
                value = _number((chosen or {}).get(key), math.inf)
                yield _at_most(f"require.transforms.{name}.{key}", Reason.POLICY_REQUIRED, value, limit)


def _simulation(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    found = sorted(_simulated(plan.config))
    yield _verdict("simulation", Reason.POLICY_SIMULATION, ", ".join(found) or "none", "none", holds=not found)


def _limits(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    limits, index = policy.rules.limits, plan.site_index(here.name)
    rows, steps = plan.data.rows[index][0], plan.derived.steps[index]
    yield _at_most("limits.rounds", Reason.POLICY_ROUNDS, plan.rounds, limits.rounds)
    yield _at_most("limits.local_epochs", Reason.POLICY_EPOCHS, _epochs(plan, rows, steps), limits.local_epochs)
    # A plan without a deadline takes as long as the site allows: the worker is stopped then.
    deadline = _number(plan.config.get("engine", {}).get("deadline"), 0.0)
    yield _at_most("limits.minutes_a_round", Reason.POLICY_MINUTES, deadline / 60, limits.minutes_a_round)
    yield _at_least("limits.runs_at_once", Reason.RUNS_AT_ONCE, limits.runs_at_once or 0, limits.runs_at_once)
    yield _at_most("limits.gb_a_day, one round", Reason.RATE_BYTES, bytes_a_round(plan) / GB, limits.gb_a_day)
    yield _at_least("limits.min_rows", Reason.POLICY_ROWS, rows, limits.min_rows)
    yield _at_least("limits.min_sites", Reason.POLICY_SITES, _fewest_sites(plan), limits.min_sites)


def _figures(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    asked = plan.config.get("eval", {}).get("per_client", False)
    holds = not asked or "clients" in policy.rules.share.metrics
    yield _verdict("share.metrics", Reason.POLICY_METRICS, "clients" if asked else "sums", "clients", holds=holds)


def _budget(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    limit, asked = policy.rules.limits.epsilon, epsilon_of(plan)
    if limit is not None:
        # Plans are added up by basic composition: sound whatever the plans, coordinators and their order.
        total = here.spent + (math.inf if asked is None else asked)
        yield _at_most("limits.epsilon, all plans", Reason.POLICY_EPSILON, total, limit)


def _differing(policy: Policy, plan: Plan, here: Here) -> Iterator[Verdict]:
    fewest = max(policy.rules.limits.min_sites or 2, 2)
    near = [other for other in here.earlier if _subtracts(plan, other, fewest)]
    holds = policy.rules.differing == "allow" or not near
    found = f"{near[0].run}, over all but a few of its sites" if near else "none"
    yield _verdict("differing, an earlier plan of this model", Reason.POLICY_DIFFERING, found, "none", holds=holds)
    # Null is the mode's own choice: clients refuse in active mode.
    chosen = _options(plan, "aggregator").get("differing") or "refuse"
    holds = policy.rules.differing == "allow" or chosen == "refuse"
    yield _verdict("differing, sums of several rounds", Reason.POLICY_DIFFERING, chosen, "refuse", holds=holds)


RULES: tuple[Rule, ...] = (
    _people,
    _places,
    _simulation,
    _components,
    _protections,
    _limits,
    _figures,
    _budget,
    _differing,
)


def _subtracts(plan: Plan, other: Plan, fewest: int) -> bool:
    """True if the two plans start from one model and their sites differ by fewer than `fewest`: the difference of the
    sums of a round is then almost one site's update."""
    apart = len(set(plan.sites) ^ set(other.sites))
    return plan.derived.model == other.derived.model and 0 < apart < fewest


def _simulated(config: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yields the keys that only a simulation may set."""
    for key, value in config.items():
        path = f"{at}{key}"
        if key == "insecure_seed" and value is not None:
            yield path
        elif isinstance(value, Mapping):
            yield from _simulated(value, f"{path}.")
    if not at:
        if config.get("attack", {}).get("name", "none") != "none":
            yield "attack"
        if not _without_devices(config.get("devices", {})):
            yield "devices"
        if config.get("cohort", {}).get("sampling") == "trace":
            yield "cohort.sampling"
        if config.get("engine", {}).get("alone") is not True:
            yield "engine.alone"


def _without_devices(section: Any) -> bool:
    try:
        return not DevicesConfig.model_validate(section).simulated
    except ValidationError:
        return False


def _epochs(plan: Plan, rows: int, steps: int) -> float:
    """Passes over the site's rows that its steps in a round make."""
    size = int(_number(plan.config.get("local", {}).get("batch_size")))
    a_pass = max(math.ceil(rows / size), 1) if size else 1
    return math.ceil(steps / a_pass)


def _fewest_sites(plan: Plan) -> float:
    """Sites of a round: those of the plan, or fewer if a cohort is drawn or a sum of fewer is revealed."""
    counts = [float(len(plan.sites)), _number(plan.derived.cohort.get("expected"))]
    minimum = _options(plan, "aggregator").get("minimum")
    return min([*counts, _number(minimum)] if minimum is not None else counts)


def _name(plan: Plan, kind: str) -> str:
    chosen = plan.config.get(kind)
    return str(chosen.get("name")) if isinstance(chosen, Mapping) else "left out"


def _model(plan: Plan) -> str:
    name = _name(plan, "model")
    return DEFAULT_MODELS.get(plan.data.task, AUTO) if name == AUTO else name  # type: ignore[call-overload]


def _options(plan: Plan, kind: str) -> Mapping[str, Any]:
    chosen = plan.config.get(kind)
    return chosen if isinstance(chosen, Mapping) else {}


def _transforms(plan: Plan) -> Mapping[str, Any]:
    chosen = plan.config.get("transforms")
    return chosen if isinstance(chosen, Mapping) else {}


def _number(value: Any, otherwise: float = 0.0) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise
