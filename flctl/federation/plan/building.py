"""From a run to its plan, and the check of a plan's derived values against a run.

A coordinator has the declared row counts of all sites and no rows; a site has the same declarations and its own rows.
Both compute the derived values alike, from the declarations. A site compares them with the plan's before it trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.component import Catalogue
from flctl.config.config import AUTO, DEFAULT_MODELS, Config, effective
from flctl.errors import ConfigError, IncompatibleError
from flctl.federation.identity.canonical import digest
from flctl.federation.plan.marks import unapproved
from flctl.federation.plan.plan import Ask, DataFacts, Derived, Plan
from flctl.federation.plan.studies import Study
from flctl.federation.plan.vectors import named_vectors
from flctl.federation.plan.versions import CORE, ENTRY_POINTS, installed_versions
from flctl.federation.reasons import Reason, Refused
from flctl.run.cohort import expected_size

if TYPE_CHECKING:
    from flctl.partition.view import PartitionView
    from flctl.run.run import Run
    from flctl.types import Arrays, Layout

__all__ = ["FederationFacts", "build_plan", "check_derived", "derive", "planned"]

LOCAL_KEYS = ("data", "plugins", "partition", "checkpoint")
"""Keys that concern the coordinator's machine alone."""
LOCAL_ENGINE = ("name", "workers", "options")


@dataclass(frozen=True)
class FederationFacts:
    """Facts of a plan that its run does not have: names, purpose, roster digest, last day, and user code by digest.

    `schema` is the digest of the agreed schema; empty: that of the data set's task, shape, classes and features.
    """

    federation: str
    run: str
    coordinator: str
    purpose: str
    roster: str
    until: str
    schema: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    ask: tuple[Ask, ...] = ("train", "evaluate")
    study: Study | None = None


def planned(config: Config) -> dict[str, Any]:
    """Returns the part of a configuration that a plan holds: its effective values, without the coordinator's own."""
    tree = {key: value for key, value in effective(config).items() if key not in LOCAL_KEYS}
    tree["engine"] = {key: value for key, value in tree["engine"].items() if key in type(config.engine).model_fields}
    tree["engine"] = {key: value for key, value in tree["engine"].items() if key not in LOCAL_ENGINE}
    return tree


def build_plan(run: Run, facts: FederationFacts) -> Plan:
    """Returns the plan of a run over a federated data directory.

    Raises ConfigError if the configuration names code or files that a site would refuse, IncompatibleError if the run
    trains several clients together, which sites cannot repeat.
    """
    config = planned(run.config)
    named = unapproved(config, run.registry)
    if named:
        raise ConfigError(
            f"a plan cannot set {', '.join(named)}: they name code or files, which only a site itself may name",
            hint="Put a model, strategy, transform or aggregator of your own into one file, as file.py:Name.",
        )
    if not run.execution.alone:
        raise IncompatibleError("a plan needs engine.alone", hint="-o engine.alone=true")
    plan = Plan(
        federation=facts.federation,
        run=facts.run,
        coordinator=facts.coordinator,
        purpose=facts.purpose,
        roster=facts.roster,
        sites=_ids(run.partition),
        rounds=run.config.rounds,
        until=facts.until,
        config=config,
        derived=derive(run),
        versions=installed_versions(_plugins(run.config, run.registry)),
        files=dict(facts.files),
        data=_data_facts(run.partition, facts.schema),
        ask=facts.ask,
        study=facts.study,
    )
    plan.check()
    return plan


def derive(run: Run) -> Derived:
    """Returns the values that follow from all clients' declared rows and from the seed: at the coordinator and at each
    site the same."""
    model = run.build_model()
    initial = model.read()
    sent = _broadcast(run, initial)
    name = DEFAULT_MODELS[run.partition.task] if run.config.model.name == AUTO else run.config.model.name
    return Derived(
        executor=run.execution.executor,
        alone=run.execution.alone,
        memory=run.execution.memory,
        cohort={
            "sampling": run.cohort.sampling,
            "eligible": run.eligible,
            "expected": float(expected_size(run.config.cohort, run.eligible)),
        },
        steps=tuple(run.execution.amounts(run.partition.counts[:, 0]).steps.tolist()),
        max_weight=float(run.pipeline.weigh(run.partition.counts[:, 0].max(initial=0, keepdims=True))[0]),
        aggregator=dict(run.aggregator.derived(run)),
        preprocess=asdict(run.partition.manifest.preprocess),
        model_name=name,
        model=_arrays_digest(initial),
        parameters=model.layout["params"],
        layout=_layout(run.update_layout),
        memory_layout=_layout(run.memory_layout),
        broadcast={name: int(vector.size) for name, vector in sent.items()},
        types={name: vector.dtype.newbyteorder("<").str for name, vector in sent.items()},
    )


def check_derived(run: Run, plan: Plan) -> None:
    """Raises Refused with the reason `derived-changed` unless a site's run has exactly the plan's derived values and
    data set. Called in the process that trains, before it takes a request."""
    expected = plan.tree()
    found = {"derived": asdict(derive(run)), "data": asdict(_data_facts(run.partition, plan.data.schema))}
    if any(digest(found[part]) != digest(expected[part]) for part in found) or _ids(run.partition) != plan.sites:
        raise Refused(Reason.DERIVED_CHANGED)


def _broadcast(run: Run, initial: Arrays) -> Arrays:
    """Returns the vectors that the first round sends: the model, and those of the strategy and of the transforms."""
    public = run.division.public_of(initial)
    extra = run.strategy.broadcast(run.strategy.init(public))
    layouts = run.pipeline.layouts
    transforms = {name: one.broadcast(one.init(layouts[name])) for name, one in run.transforms.items()}
    return named_vectors(public, extra, transforms)


def _data_facts(partition: PartitionView, schema: str) -> DataFacts:
    info = partition.manifest.dataset
    described = {"task": info.task, "shape": info.shape, "classes": info.classes, "features": info.features}
    return DataFacts(
        digest=partition.digest,
        schema=schema or digest(described),
        task=info.task,
        shape=info.shape,
        classes=info.classes,
        rows=tuple((train, test) for train, test in partition.counts.tolist()),
    )


def _plugins(config: Config, registry: Catalogue) -> set[str]:
    """Names of the installed plugins that offer the run's components."""
    import importlib.metadata

    homes = {
        entry.module.partition(".")[0]: entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)
    }
    chosen = [("strategy", config.strategy.name), ("aggregator", config.aggregator.name), ("model", config.model.name)]
    chosen += [("transform", transform.name) for transform in config.transforms]
    offered = [registry.offers(kind)[name].component for kind, name in chosen if name in registry.offers(kind)]
    tops = {component.__module__.partition(".")[0] for component in offered}
    return {homes[top] for top in tops if top in homes and top != CORE}


def _ids(partition: PartitionView) -> tuple[str, ...]:
    return tuple(partition.client_ids.take(np.arange(partition.clients)).tolist())


def _layout(layout: Layout) -> dict[str, int]:
    return {name: int(length) for name, length in layout.items()}


def _arrays_digest(vectors: Arrays) -> str:
    """SHA-256 over the names, lengths and bytes of vectors, which are little-endian float32."""
    found = hashlib.sha256()
    for name in sorted(vectors):
        vector = np.ascontiguousarray(vectors[name], "<f4")
        found.update(f"{name}:{vector.size}\n".encode())
        found.update(vector.tobytes())
    return found.hexdigest()
