"""From a run to its plan: a coordinator without rows and a site with its own rows derive the same values."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from support import make_run, played

from flctl.config.config import Config, effective
from flctl.errors import ConfigError, IncompatibleError
from flctl.federation.plan.building import FederationFacts, build_plan, check_derived, derive, planned
from flctl.federation.plan.plan import Plan
from flctl.federation.plan.versions import check_versions, files_digest
from flctl.federation.reasons import Reason, Refused
from flctl.federation.site.checks import check_content
from flctl.partition.federated import FederatedData, SiteData
from flctl.run.run import Run

FACTS = FederationFacts(
    federation="hospitals",
    run="stroke-1",
    coordinator="alice",
    purpose="a test",
    roster="a" * 64,
    until="2027-01-31",
)
ALONE = ("engine.alone=true", "rounds=3", "cohort.sampling=all", "local.batch_size=8")
SETTINGS = {
    "fedavg": (),
    "stacked mlp": ("model=mlp", "local.momentum=0.5"),
    "scaffold": ("strategy=scaffold",),
    "personal layers": ("strategy=fedper", "model=mlp"),
    "codes": ("transforms.quantise.bits=4", "local.steps=3"),
    "dp": ("transforms.dp.clipping_norm=1", "transforms.dp.noise_multiplier=1", "transforms.dp.insecure_seed=1"),
    "secagg": ("aggregator=secagg", "aggregator.mode=active"),
    "secagg weighted": ("aggregator=secagg", "aggregator.minimum=5"),
}


def at_sites(toy, tmp_path, *settings):
    """The run of a coordinator without rows, and that of a site with its own."""
    here, _ = make_run(toy, tmp_path / "here", *ALONE, *settings)
    federation = FederatedData.of(toy)
    site = SiteData(federation, toy, toy.client_ids[3])
    return tuple(
        Run.build(here.config, here.registry, data, tmp_path / name / "clients")
        for name, data in (("coordinator", federation), ("site", site))
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_a_site_with_its_own_rows_derives_the_values_of_a_coordinator_without_rows(settings, toy, tmp_path):
    coordinator, site = at_sites(toy, tmp_path, *settings)
    assert derive(site) == derive(coordinator)


BROADCASTS = {
    "scaffold": ("strategy=scaffold",),
    "feddyn": ("strategy=feddyn",),
    "mime-lite": ("strategy=mime-lite",),
    "personal layers": ("strategy=fedper", "model=mlp"),
    "powersgd": ("transforms.powersgd.rank=1", "model=mlp"),
    "quantise": ("transforms.quantise.bits=4",),
    "dp-adaptive": ("transforms.dp-adaptive.noise_multiplier=0.5", "transforms.dp-adaptive.insecure_seed=1"),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", BROADCASTS.values(), ids=list(BROADCASTS))
def test_every_round_sends_the_layout_types_and_training_of_the_plan(settings, toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", *ALONE, *settings)
    plan = build_plan(run, FACTS)
    rounds, state, _ = played(run, 2)
    work = rounds.plan(state).work
    check_content(plan, work, 3)


def test_a_site_that_counted_its_own_rows_alone_would_derive_others(toy, tmp_path):
    coordinator, _ = at_sites(toy, tmp_path, *SETTINGS["secagg weighted"])
    counts = toy.counts.copy()
    counts[5:] = 0
    federation = FederatedData.of(toy)
    own = FederatedData(toy.path, federation.manifest, toy.digest, toy.client_ids.take(range(toy.clients)), counts)
    fewer = Run.build(coordinator.config, coordinator.registry, own, tmp_path / "own" / "clients")
    assert derive(fewer) != derive(coordinator)


@pytest.fixture(scope="module")
def planned_run(toy, tmp_path_factory):
    coordinator, site = at_sites(toy, tmp_path_factory.mktemp("planned"), *SETTINGS["secagg"])
    return build_plan(coordinator, FACTS), site


def test_a_plan_of_a_run_reads_back_and_holds_what_decides_what_runs(planned_run, toy):
    plan, site = planned_run
    assert Plan.from_json(plan.to_json()).digest == plan.digest
    assert plan.sites == tuple(toy.client_ids.take(range(toy.clients)).tolist())
    assert list(plan.versions.plugins) == ["flctl", "secagg"]
    assert plan.derived.steps[0] == -(-int(toy.counts[0, 0]) // 8)
    assert plan.derived.aggregator["cohort"] == toy.clients
    assert plan.config["aggregator"]["mode"] == "active"
    assert planned(Config.model_validate(plan.config)) == plan.config
    check_derived(site, plan)
    check_versions(plan.versions)


@pytest.mark.parametrize("value", ["steps", "max_weight", "layout", "model", "executor", "broadcast", "aggregator"])
def test_a_plan_with_another_derived_value_is_refused_at_the_site(planned_run, value):
    plan, site = planned_run
    others = {"steps": (1,) * len(plan.sites), "max_weight": 2.0, "model": "0" * 64, "executor": "sequential-2"}
    derived = replace(plan.derived, **{value: others.get(value, {"delta": 1})})
    with pytest.raises(Refused) as refused:
        check_derived(site, replace(plan, derived=derived))
    assert refused.value.reason == Reason.DERIVED_CHANGED


def test_a_plan_with_other_declared_rows_is_refused_at_the_site(planned_run):
    plan, site = planned_run
    rows = ((plan.data.rows[0][0] + 1, plan.data.rows[0][1]), *plan.data.rows[1:])
    with pytest.raises(Refused) as refused:
        check_derived(site, replace(plan, data=replace(plan.data, rows=rows)))
    assert refused.value.reason == Reason.DERIVED_CHANGED


def test_settings_of_the_coordinators_machine_are_left_out_of_a_plan():
    config = Config.model_validate({"data": "parts/x", "engine": {"name": "pool", "workers": 3, "alone": True}})
    assert not {"data", "plugins", "partition", "checkpoint"} & planned(config).keys()
    assert not {"name", "workers", "options"} & planned(config)["engine"].keys()
    assert planned(config)["engine"]["alone"] is True
    assert effective(Config.model_validate(planned(config)))["local"] == effective(config)["local"]


def test_a_plan_of_clients_that_train_together_is_refused(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run")
    with pytest.raises(IncompatibleError, match=r"engine\.alone"):
        build_plan(run, FACTS)


def test_a_plan_that_names_a_ledger_is_refused(toy, tmp_path):
    run, _ = make_run(
        toy, tmp_path / "run", *ALONE, *SETTINGS["dp"][:2], f"transforms.dp.ledger={tmp_path / 'ledger.jsonl'}"
    )
    with pytest.raises(ConfigError, match=r"transforms\.dp\.ledger"):
        build_plan(run, FACTS)


def test_the_digest_of_installed_files_changes_with_any_file_and_any_name():
    digests = {
        files_digest(files)
        for files in (
            {"a.py": b"1", "b.py": b"2"},
            {"a.py": b"1", "b.py": b"3"},
            {"a.py": b"1", "c.py": b"2"},
            {"a.py": b"1"},
            {"a.py": b"1", "b.py": b"2", "c.py": b""},
        )
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"torch": "2.0.0"}, Reason.VERSION_TORCH),
        ({"numpy": "1.0.0"}, Reason.VERSION_NUMPY),
        ({"flctl": "9.0"}, Reason.VERSION_FLCTL),
        ({"plugins": {"flctl": {"record": "0" * 64}}}, Reason.VERSION_FLCTL),
        ({"plugins": {"secagg": {"record": "0" * 64}}}, Reason.PLUGIN_CHANGED),
        ({"plugins": {"secagg": {"version": "9"}}}, Reason.PLUGIN_CHANGED),
        ({"plugins": {"secagg": {"distribution": "another"}}}, Reason.PLUGIN_CHANGED),
    ],
)
def test_other_versions_or_files_than_those_installed_are_refused(versions, change, reason):
    plugins = {name: replace(versions.plugins[name], **facts) for name, facts in change.get("plugins", {}).items()}
    changed = replace(versions, **{**change, "plugins": {**versions.plugins, **plugins}})
    with pytest.raises(Refused) as refused:
        check_versions(changed)
    assert refused.value.reason == reason


def test_a_plugin_that_is_not_installed_is_refused(versions):
    unknown = replace(versions, plugins={**versions.plugins, "unheard-of": versions.plugins["secagg"]})
    with pytest.raises(Refused) as refused:
        check_versions(unknown)
    assert refused.value.reason == Reason.PLUGIN_MISSING


def test_a_build_for_another_processor_is_the_same_version(versions):
    check_versions(replace(versions, torch=versions.torch.partition("+")[0] + "+cu130"))


def test_one_changed_file_of_an_installed_plugin_is_found(tmp_path, monkeypatch):
    (tmp_path / "toy_plugin").mkdir()
    (tmp_path / "toy_plugin" / "__init__.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from flctl.federation.plan import versions

    file = tmp_path / "toy_plugin" / "__init__.py"
    digests = [versions._module_digest("toy_plugin")]
    times = file.stat()
    file.write_text("x = 2\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size, and made to look old
    digests.append(versions._module_digest("toy_plugin"))
    (tmp_path / "toy_plugin" / "more.py").write_text("")
    digests.append(versions._module_digest("toy_plugin"))
    assert len(set(digests)) == 3


@pytest.fixture(scope="module")
def versions():
    from flctl.federation.plan.versions import installed_versions

    return installed_versions(["secagg"])
