"""Studies: many plans that differ inside ranges, which a site approves once, with totals that they are charged to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from flctl.federation.identity.canonical import digest
from flctl.federation.identity.names import require_name
from flctl.federation.reasons import Reason, Refused

__all__ = ["OPEN", "Range", "Study", "frame"]

Number = int | float
Range = tuple[Number, Number] | Literal["any"]
OPEN = ("run", "rounds", "until", "derived")
"""Parts of a plan in which the plans of a study may differ: they are charged, checked by date, or computed again."""


@dataclass(frozen=True)
class Study:
    """The ranges of configuration keys over which a study varies, by dotted key: (lowest, highest), or "any".

    >>> Study("rates", {"local.lr": (0.001, 0.1)}).holds({"local": {"lr": 0.01}})
    True
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
    name: str
    ranges: Mapping[str, Range]

    def check(self) -> None:
        """Raises Refused with the reason `plan-form` for a bad name, no ranges, or a range of nothing."""
        require_name(self.name, "study")
        for key, allowed in self.ranges.items():
            if not all(key.split(".")) or (allowed != "any" and allowed[0] > allowed[1]):
                raise Refused(Reason.PLAN_FORM)
        if not self.ranges:
            raise Refused(Reason.PLAN_FORM)

    def outside(self, config: Mapping[str, Any]) -> list[str]:
        """Returns the keys whose values are outside their ranges."""
        return [key for key, allowed in self.ranges.items() if not _inside(_value(config, key), allowed)]

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Returns whether a configuration is inside all ranges."""
        return not self.outside(config)


def frame(tree: Mapping[str, Any]) -> str:
    """Returns the digest of what all plans of a study have in common: everything but their ranges' keys and `OPEN`.

    `tree` is a plan as plain values. Raises Refused with the reason `study-range` if it belongs to no study.
    """
    study = tree.get("study")
    if not study:
        raise Refused(Reason.STUDY_RANGE, "The plan belongs to no study.")
    kept = {key: copy.deepcopy(value) for key, value in tree.items() if key not in OPEN}
    kept["config"].pop("rounds", None)
    for key in study["ranges"]:
        _remove(kept["config"], key)
    return digest(kept)


def _value(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _remove(tree: dict[str, Any], key: str) -> None:
    *outer, last = key.split(".")
    inner: Any = tree
    for part in outer:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner.pop(last, None)


def _inside(value: Any, allowed: Range) -> bool:
    if allowed == "any":
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return allowed[0] <= value <= allowed[1]
