"""Plugins: found, named in clashes, guarded when broken."""

import importlib.metadata

import pytest

from flctl import Strategy, hookimpl
from flctl.errors import PluginError
from flctl.kinds import KINDS
from flctl.plugins import registry as registry_module
from flctl.plugins.registry import Registry


class Own(Strategy):
    """A strategy of a third party."""

    name = "own"


class FedAvgAgain(Strategy):
    """Has a name that is taken."""

    name = "fedavg"


class Good:
    @hookimpl
    def flctl_strategies(self):
        return [Own]


class Clashing:
    @hookimpl
    def flctl_strategies(self):
        return [FedAvgAgain]


class Failing:
    @hookimpl
    def flctl_strategies(self):
        raise RuntimeError("no licence")


class Misspelt:
    @hookimpl
    def flctl_strategys(self):
        return []


class Distribution:
    name, version = "acme-fl", "2.0"


class Entry:
    module = "no_such_module_of_acme"

    def __init__(self, name, target):
        self.name, self.target, self.dist = name, target, Distribution

    def load(self):
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


@pytest.fixture
def installed(monkeypatch):
    def install(*entries):
        registry_module._installed.cache_clear()
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(entries))

    yield install
    registry_module._installed.cache_clear()


def test_built_in_kinds_are_all_there():
    registry = Registry()
    assert {kind: bool(registry.offers(kind)) for kind in KINDS} == dict.fromkeys(KINDS, True)


def test_a_plugin_is_found_with_its_distribution(installed):
    installed(Entry("acme", Good()))
    registry = Registry()
    assert registry.get("strategy", "own") is Own
    assert registry.offers("strategy")["own"].plugin.origin == "acme-fl 2.0"


def test_a_package_that_is_installed_while_the_process_runs_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = [plugin.name for plugin in Registry().plugins]
    (tmp_path / "acme_new.py").write_text("")
    info = tmp_path / "acme_new-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-new\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flctl]\nnew = acme_new\n")
    assert sorted(plugin.name for plugin in Registry().plugins) == sorted([*before, "new"])


def test_a_clash_names_both_distributions(installed):
    installed(Entry("acme", Clashing()))
    with pytest.raises(PluginError, match=r"strategy named 'fedavg': flctl .* and acme-fl 2.0") as caught:
        Registry().get("strategy", "fedprox")
    assert "--disable-plugin acme" in caught.value.hint


def test_a_clash_is_settled_by_disabling_one(installed):
    installed(Entry("acme", Clashing()))
    assert Registry(disable=["acme"]).get("strategy", "fedavg").__module__ == "flctl.algorithms.strategies.fedavg"


@pytest.mark.parametrize("target", [ImportError("no module named acme"), Failing(), Misspelt()])
def test_a_broken_plugin_harms_nobody_until_it_is_needed(installed, target):
    installed(Entry("acme", target))
    registry = Registry()
    assert registry.get("strategy", "fedavg")
    assert [broken.origin for broken in registry.broken] == ["acme-fl 2.0"]
    with pytest.raises(PluginError, match=r"unknown strategy 'own'.*plugin 'acme' \(acme-fl 2.0\) did not load"):
        registry.get("strategy", "own")


def test_two_plugins_of_one_name_are_named(installed):
    installed(Entry("acme", Good()), Entry("acme", Clashing()))
    registry = Registry()
    assert registry.get("strategy", "own") is Own
    assert "the name 'acme' is taken by acme-fl 2.0" in registry.broken[0].reason


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(PluginError) as caught:
        Registry().get("strategy", "fedagv")
    assert caught.value.hint == "Did you mean 'fedavg'?"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module", "ModuleNotFoundError"),
        ("x = ", "SyntaxError"),
        ("import flctl\n@flctl.hookimpl\ndef flctl_strategie():\n    return []", "unknown hook 'flctl_strategie'"),
    ],
)
def test_a_local_file_that_fails_is_an_error_at_once(tmp_path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=says):
        Registry(files=[file])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(PluginError, match="does not exist"):
        Registry(files=[tmp_path / "nothing.py"])
