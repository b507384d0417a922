"""Plans of three sites as tests use them, and every single change that one can undergo."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flctl.config.load import load
from flctl.federation.plan.building import planned
from flctl.federation.plan.plan import DataFacts, Derived, InstalledFiles, Plan, Versions
from flctl.federation.plan.studies import Study
from flctl.plugins.registry import Registry

SHA = "0123456789abcdef" * 4
REGISTRY = Registry()
SETTINGS = (
    "rounds=5", "model=mlp", "cohort.sampling=all", "local.batch_size=32", "engine.alone=true", "aggregator=secagg",
    "aggregator.minimum=3", "aggregator.mode=active", "transforms.clip.norm=1",
)  # fmt: skip
CONFIG = planned(load(REGISTRY, overrides=SETTINGS).config)


def make_plan(**changes: Any) -> Plan:
    """A plan of five rounds of FedAvg under secure aggregation over three sites."""
    plan = Plan(
        federation="hospitals",
        run="stroke-1",
        coordinator="alice",
        purpose="stroke risk, ethics vote 12/26",
        roster="a" * 64,
        sites=("north", "south", "west"),
        rounds=5,
        until="2027-01-31",
        config=CONFIG,
        derived=Derived(
            executor="sequential",
            alone=True,
            memory=1 << 30,
            cohort={"sampling": "fixed", "eligible": 3, "expected": 3.0},
            steps=(4, 3, 2),
            max_weight=1.0,
            aggregator={"neighbours": 2, "threshold": 2, "minimum": 3},
            preprocess={"kind": "none"},
            model_name="mlp",
            model="b" * 64,
            parameters=10,
            layout={"delta": 10},
            memory_layout={},
            broadcast={"params": 10},
            types={"params": "<f4"},
        ),
        versions=Versions("0.1.0", "2.13.0", "2.3.0", {"secagg": InstalledFiles("flctl-secagg", "0.1.0", "c" * 64)}),
        files={"net.py": SHA},
        data=DataFacts("d" * 64, "e" * 64, "binary", (9,), ("no", "yes"), ((100, 20), (80, 20), (60, 10))),
        study=Study("rates", {"local.lr": (0.001, 0.5)}),
    )
    return replace(plan, **changes)


def with_config(*keys: str, **values: Any) -> Plan:
    """The plan with one value of its configuration replaced: `with_config("local", "epochs", value=9)`."""
    tree = copy.deepcopy(CONFIG)
    inner = tree
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = values["value"]
    return make_plan(config=tree)


def single_changes(tree: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the path of each leaf of a plan, and the plan with that leaf alone changed."""
    for path in _leaves(tree, ()):
        changed = copy.deepcopy(dict(tree))
        inner: Any = changed
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = _other(inner[path[-1]])
        yield ".".join(map(str, path)), changed


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value[:-1] + ("0" if value[-1:] != "0" else "1")
    return {"more": 1} if isinstance(value, Mapping) else ["more"] if isinstance(value, (list, tuple)) else "text"
