"""A plan as its reader sees it: coordinator and purpose, what leaves, privacy, versions, code, and the policy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flctl.errors import counted
from flctl.federation.plan.plan import Plan
from flctl.federation.plan.sizes import bytes_down, bytes_up
from flctl.federation.plan.versions import installed
from flctl.federation.reasons import Refused
from flctl.federation.site.desk import Desk
from flctl.federation.site.policy import Verdict, code_of, epsilon_of
from flctl.federation.site.user_code import code_facts, difference

__all__ = ["Review", "ReviewSection"]

LABEL = 14
"""Width of the labels' column."""
MOST_DIFF = 400
"""Lines of a difference that are shown."""
UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


@dataclass(frozen=True)
class ReviewSection:
    """A heading with rows of a label and a text; `verbatim` lines are not wrapped."""

    title: str
    rows: tuple[tuple[str, str], ...]
    verbatim: tuple[str, ...] = ()


@dataclass(frozen=True)
class Review:
    """The review of one plan at one site."""

    plan: Plan
    standing: str
    sections: tuple[ReviewSection, ...]
    verdicts: tuple[Verdict, ...]

    @classmethod
    def of(cls, desk: Desk, plan: Plan) -> Review:
        """Reviews a plan with the policy, the decisions and the installed versions of a site."""
        standing = desk.approvals.decision(plan)
        verdicts = tuple(desk.policy.check(plan, desk.here(plan)))
        sections = (
            _asks(desk, plan),
            _training(plan),
            _leaves(desk, plan),
            _privacy(desk, plan),
            _differing_versions(plan),
            *_code(desk, plan),
            _denials(verdicts),
        )
        said = "approved" if standing.reason is None else standing.reason.sentence
        return cls(plan, said, sections, verdicts)

    @property
    def denied(self) -> tuple[Verdict, ...]:
        """The rules that deny the plan."""
        return tuple(verdict for verdict in self.verdicts if not verdict.allows)

    def lines(self, width: int = 80) -> list[str]:
        """Returns the review as lines of at most `width` characters, but for the code itself."""
        found = []
        for section in self.sections:
            found += [section.title, *(line for row in section.rows for line in _wrapped(row, width))]
            found += [*(f"    {line}" for line in section.verbatim), ""]
        return found[:-1]

    def to_json(self) -> dict[str, Any]:
        """Returns the review as plain values."""
        return {
            "run": self.plan.run,
            "plan": self.plan.digest,
            "standing": self.standing,
            "sections": {
                section.title: {**dict(section.rows), **({"text": section.verbatim} if section.verbatim else {})}
                for section in self.sections
            },
            "denied": [
                {"rule": one.rule, "reason": str(one.reason), "found": one.found, "allowed": one.allowed}
                for one in self.denied
            ],
        }


def _wrapped(row: tuple[str, str], width: int) -> Iterator[str]:
    label, text = row
    indent = " " * (LABEL + 2)
    lines = textwrap.wrap(text, width - len(indent), break_on_hyphens=False) or [""]
    yield f"  {label:<{LABEL}}{lines[0]}"
    yield from (indent + line for line in lines[1:])


def _asks(desk: Desk, plan: Plan) -> ReviewSection:
    standing = desk.approvals.decision(plan)
    member = desk.roster.coordinators.get(plan.coordinator) if desk.roster else None
    rows = [
        ("run", plan.run),
        (
            "coordinator",
            f"{plan.coordinator} ({member.identity.words})" if member else f"{plan.coordinator}, not listed",
        ),
        ("federation", plan.federation),
        ("purpose", plan.purpose),
        ("sites", f"{len(plan.sites)}: {', '.join(plan.sites)}"),
        ("until", plan.until),
        ("plan", plan.digest),
        ("decision", "approved" if standing.reason is None else standing.reason.sentence),
    ]
    if plan.study is not None:
        ranges = [f"{key} {_range(allowed)}" for key, allowed in plan.study.ranges.items()]
        rows.append(("study", f"{plan.study.name}: {'; '.join(ranges)}"))
    return ReviewSection("Request", tuple(rows))


def _range(allowed: Any) -> str:
    return "any" if allowed == "any" else f"{allowed[0]:g} to {allowed[1]:g}"


def _training(plan: Plan) -> ReviewSection:
    local, config = plan.config.get("local", {}), plan.config
    amount = (
        counted(int(local["steps"]), "step") if local.get("steps") else counted(int(local.get("epochs", 1)), "epoch")
    )
    rows = (
        ("asked for", ", ".join(plan.ask)),
        ("task", f"{plan.data.task}: {', '.join(plan.data.classes[:8]) or 'a number'}"),
        ("model", f"{plan.derived.model_name}, {counted(plan.derived.parameters, 'parameter')}"),
        ("strategy", str(config.get("strategy", {}).get("name"))),
        ("rounds", f"{plan.rounds}, each {amount} in batches of {local.get('batch_size')}"),
    )
    return ReviewSection("Training", rows)


def _leaves(desk: Desk, plan: Plan) -> ReviewSection:
    index, share = plan.site_index(desk.membership.name), desk.policy.rules.share
    vectors = ", ".join(f"{name} of {counted(length, 'number')}" for name, length in plan.derived.layout.items())
    up, down = bytes_up(plan), bytes_down(plan)
    kept = ", ".join(plan.derived.memory_layout) or "nothing"
    rows = (
        ("each round", f"{vectors}; at most {_size(up)}"),
        ("all rounds", f"at most {_size(up * plan.rounds)} up, {_size(down * plan.rounds)} down"),
        ("read by", _readers(desk, plan)),
        ("figures", ", ".join(share.metrics) or "none"),
        ("declared rows", f"{plan.data.rows[index][0]:,} to train, {plan.data.rows[index][1]:,} to test"),
        ("stays here", f"all rows; the memory between rounds: {kept}"),
    )
    return ReviewSection("What leaves this site", rows)


def _readers(desk: Desk, plan: Plan) -> str:
    if not _masked(desk, plan):
        return "the coordinator reads this site's own update in the clear, but for the transforms below"
    values = plan.derived.aggregator
    least = values.get("minimum", "all")
    return f"masked: the coordinator reads sums of at least {least} sites; the hub reads nothing"


def _masked(desk: Desk, plan: Plan) -> bool:
    name = str(plan.config.get("aggregator", {}).get("name"))
    offers = desk.catalogue.offers("aggregator")
    return name in offers and bool(getattr(offers[name].component, "hides", False))


def _privacy(desk: Desk, plan: Plan) -> ReviewSection:
    aggregator = plan.config.get("aggregator", {})
    transforms = plan.config.get("transforms", {})
    epsilon = epsilon_of(plan)
    shown = "no differential privacy" if epsilon is None else "no limit" if math.isinf(epsilon) else f"{epsilon:g}"
    limit = desk.policy.rules.limits.epsilon
    budget = "no budget is kept" if limit is None else f"{desk.approvals.spent(plan):g} of {limit:g} spent by others"
    rows = [("aggregator", f"{aggregator.get('name')}, {_options(aggregator)}".removesuffix(", "))]
    rows += [(f"transform {name}"[:LABEL], _options(options) or "default") for name, options in transforms.items()]
    return ReviewSection("Privacy", (*rows, ("epsilon", shown), ("own budget", budget)))


def _options(options: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in options.items() if key != "name" and value not in (None, (), [], {})}
    return ", ".join(
        f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in shown.items()
    )


def _differing_versions(plan: Plan) -> ReviewSection:
    from importlib.metadata import version

    rows = []
    for name in ("flctl", "torch", "numpy"):
        wanted, found = getattr(plan.versions, name), version(name)
        if wanted.partition("+")[0] != found.partition("+")[0]:
            rows.append((name, f"the plan names {wanted}, here is {found}"))
    for name, wanted in plan.versions.plugins.items():
        try:
            here = installed(name)
        except Refused:
            rows.append((f"plugin {name}"[:LABEL], f"the plan names {wanted.version}, it is not installed here"))
            continue
        if here.record != wanted.record:
            rows.append((f"plugin {name}"[:LABEL], f"{wanted.version}: its files differ from those installed here"))
    return ReviewSection("Versions", tuple(rows) or (("all", "as installed here"),))


def _code(desk: Desk, plan: Plan) -> Iterator[ReviewSection]:
    names = {digest: name for name, digest in plan.files.items()}
    for digest in sorted(code_of(plan)):
        yield _one_code(desk, plan, names.get(digest, "code"), digest)
    if not code_of(plan):
        yield ReviewSection("Code", (("attached", "none"),))


def _one_code(desk: Desk, plan: Plan, name: str, digest: str) -> ReviewSection:
    approved = digest in desk.approvals.code()
    data = desk.code.waiting(digest)
    data = desk.code.load(digest) if data is None and digest in desk.code.intact() else data
    rows = [("sha256", digest), ("approved", "yes" if approved else "no")]
    if data is None:
        return ReviewSection(f"Code: {name}", (*rows, ("file", "has not arrived; add it with --code FILE")))
    facts, before = code_facts(data), _approved_before(desk, plan, name, digest)
    calls = ", ".join(f"{call} (line {line})" for line, call in facts.calls)
    rows += [("lines", str(facts.lines)), ("imports", ", ".join(facts.imports) or "nothing")]
    rows.append(("look at", calls or "no call that stands out; this is a hint, not a proof"))
    text = data.decode(errors="replace").splitlines() if before is None else difference(before, data)
    rows.append(("shown below", "the whole file" if before is None else "what differs from the code approved before"))
    shown = ["".join(c if c.isprintable() else " " for c in line) for line in text[:MOST_DIFF]]
    more = [f"... {len(text) - MOST_DIFF} more lines"] if len(text) > MOST_DIFF else []
    return ReviewSection(f"Code: {name}", tuple(rows), (*shown, *more))


def _approved_before(desk: Desk, plan: Plan, name: str, digest: str) -> bytes | None:
    """Returns the last approved code of this name in an earlier plan, unless it is this one."""
    intact = desk.code.intact()
    earlier = [other.files[name] for other in desk.approvals.approved_before(plan) if name in other.files]
    found = next((other for other in reversed(earlier) if other != digest and other in intact), None)
    return None if found is None else desk.code.load(found)


def _denials(verdicts: tuple[Verdict, ...]) -> ReviewSection:
    denied = [one for one in verdicts if not one.allows]
    rows = [("deny", f"{one.reason}: {one.rule}: {one.found}; allowed: {one.allowed}") for one in denied]
    return ReviewSection("Denied by the policy", tuple(rows) or (("rules", "no rule denies this plan"),))


def _size(count: int) -> str:
    for unit, name in UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
