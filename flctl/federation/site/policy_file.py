"""`policy.yaml`: the rules by which a site decides about plans, read strictly, with the place of every problem."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from flctl.component import Options
from flctl.config.problems import Place, Problem, refuse
from flctl.config.sources import Merged, from_source, merge
from flctl.config.validation import Complaint, complaints
from flctl.config.yaml_reader import read_source
from flctl.federation.plan.plan import Ask

__all__ = [
    "NOTHING",
    "Allow",
    "PlanLimits",
    "PolicyRules",
    "Require",
    "RequiredAggregator",
    "RequiredPrivacy",
    "Share",
    "read_rules",
]

NOTHING = """\
# Rules of this site: a plan that breaks one is refused. As written here, nothing is allowed.
# `flctl site policy` explains each rule, `flctl site policy --check PLAN` applies them to a plan.
approve: each            # each: a person approves each plan | matching: the rules suffice, for code that was approved
ask_for: []              # of train, evaluate, statistics
coordinators: []         # names whose plans are considered
reviewers: []            # members of the roster whose signed approvals count as this site's
allow: {strategies: [], models: [], transforms: [], aggregators: [], plugins: []}
require: {}              # for example aggregator: {name: secagg, mode: active, minimum: 5}
limits: {}               # rounds, local_epochs, minutes_a_round, gb_a_day, min_rows, min_sites, runs_at_once:
                         # one that is not set allows nothing; rounds_an_hour, epsilon: only if they are set
share: {metrics: [], rows: rounded, errors: kind}
"""
"""The policy that `flctl site join` writes."""

Names = tuple[str, ...]


class Allow(Options):
    """Components that plans may use, by name."""

    strategies: Names = Field(default=(), description="Strategies.")
    models: Names = Field(default=(), description="Models; `approved` stands for code approved at this site.")
    transforms: Names = Field(default=(), description="Transforms.")
    aggregators: Names = Field(default=(), description="Aggregators.")
    plugins: Names = Field(default=(), description="Plugins of others than flctl's own.")


class RequiredAggregator(Options):
    """The weakest aggregator that is accepted."""

    name: str = Field(min_length=1, description="Name of the aggregator.")
    mode: Literal["hbc", "active"] | None = Field(default=None, description="Weakest mode: hbc or active.")
    minimum: int | None = Field(default=None, ge=3, description="Fewest clients of a sum that is revealed.")


class RequiredPrivacy(Options):
    """The weakest differential privacy of a transform that is accepted."""

    max_epsilon: float | None = Field(default=None, gt=0, description="Largest target_epsilon of a plan.")
    delta: float | None = Field(default=None, gt=0, lt=1, description="Largest target_delta of a plan.")


class Require(Options):
    """Protections that each plan must have; a protection that is left out is not required."""

    aggregator: RequiredAggregator | None = Field(default=None, description="Aggregator.")
    transforms: dict[str, RequiredPrivacy] = Field(default_factory=dict, description="Transforms by name.")


class PlanLimits(Options):
    """Upper and lower limits. A limit of null allows nothing, but for `rounds_an_hour` and `epsilon`."""

    rounds: int | None = Field(default=None, ge=1, description="Most rounds of a plan.")
    local_epochs: int | None = Field(default=None, ge=1, description="Most passes over the rows in a round.")
    minutes_a_round: float | None = Field(default=None, gt=0, description="Longest training of a round.")
    rounds_an_hour: int | None = Field(default=None, ge=1, description="Most rounds in an hour, over all runs.")
    gb_a_day: float | None = Field(default=None, gt=0, description="Most GB down and up in a day, over all runs.")
    min_rows: int | None = Field(default=None, ge=1, description="Fewest training rows of this site; floor of sums.")
    min_sites: int | None = Field(default=None, ge=1, description="Fewest sites of a plan and of a round.")
    runs_at_once: int | None = Field(default=None, ge=1, description="Most runs in progress.")
    epsilon: float | None = Field(default=None, gt=0, description="Privacy budget of this site over all plans.")


class Share(Options):
    """Values that leave the site beside updates."""

    metrics: tuple[Literal["count", "loss", "clients"], ...] = Field(
        default=(), description="Figures of this site: count, loss, clients (evaluation on its own test rows)."
    )
    rows: Literal["exact", "rounded", "hidden"] = Field(default="rounded", description="Declared numbers of rows.")
    errors: Literal["kind", "sentence"] = Field(default="kind", description="Failures: the kind, or flctl's sentence.")


class PolicyRules(Options):
    """The content of `policy.yaml`."""

    approve: Literal["each", "matching"] = Field(default="each", description="Who approves: a person, or these rules.")
    ask_for: tuple[Ask, ...] = Field(default=(), description="What may be asked for.")
    coordinators: Names = Field(default=(), description="Coordinators whose plans are considered.")
    reviewers: Names = Field(default=(), description="Members whose signed approvals count as this site's.")
    differing: Literal["refuse", "allow"] = Field(
        default="refuse", description="Plans of one model over almost the same sites: their sums can be subtracted."
    )
    allow: Allow = Field(default=Allow(), description="Components that plans may use.")
    require: Require = Field(default=Require(), description="Protections that plans must have.")
    limits: PlanLimits = Field(default=PlanLimits(), description="PlanLimits.")
    share: Share = Field(default=Share(), description="Values that leave the site beside updates.")


def read_rules(path: Path) -> PolicyRules:
    """Reads a policy. Raises ConfigError with every problem and its file:line:column."""
    layer = from_source(read_source(path))
    merged = merge([layer])
    problems = list(layer.problems)
    rules = PolicyRules()
    try:
        rules = PolicyRules.model_validate_json(json.dumps(merged.tree()), strict=True)
    except ValidationError as error:
        problems += _problems(complaints(error, PolicyRules), merged)
    if problems:
        raise refuse(problems)
    return rules


def _problems(found: Iterable[Complaint], merged: Merged) -> list[Problem]:
    return [Problem(one.message, _place(one, merged), one.hint) for one in found]


def _place(complaint: Complaint, merged: Merged) -> Place | None:
    path = complaint.path
    place = merged.key(path) if complaint.about_key else merged.place(path) or merged.key(path)
    while place is None and len(path) > 1:
        path = path[:-1]
        place = merged.place(path) or merged.key(path)
    return place
