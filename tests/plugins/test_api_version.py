"""The version of the plugin API: what a plugin states, and what is refused."""

import importlib
import sys

import pytest

import flctl
from flctl import version
from flctl.errors import PluginError
from flctl.plugins import api_version
from flctl.plugins.registry import Registry

PLUGIN = """
{statement}
import flctl
from flctl import version
{more}

class Own(flctl.Strategy):
    "A strategy of a third party."
    name = "own"

@flctl.hookimpl
def flctl_strategies():
    return [Own]
"""


@pytest.fixture
def at(monkeypatch):
    """Sets the version that this flctl has."""
    return lambda stated: monkeypatch.setattr(version, "API_VERSION", stated)


@pytest.mark.parametrize(
    ("here", "stated", "taken"),
    [
        ("1.0", "1.0", True),
        ("1.4", "1.0", True),
        ("1.4", "1.4", True),
        ("1.4", "1.5", False),
        ("1.9", "1.10", False),
        ("1.10", "1.9", True),
        ("2.0", "1.0", False),
        ("2.3", "1.9", False),
        ("1.9", "2.0", False),
        ("1.0", "0.9", False),
    ],
)
def test_the_same_major_and_no_newer_minor_is_taken(at, here, stated, taken):
    """Semantic versioning: a minor version only adds, a major one may take away."""
    at(here)
    if taken:
        api_version.check_statement(stated)
    else:
        with pytest.raises(PluginError, match=f"needs version {stated} of the plugin API, and flctl .* has {here}"):
            api_version.check_statement(stated)


@pytest.mark.parametrize(
    ("stated", "hint"), [("2.0", "Install a newer flctl."), ("0.3", "Install a version of the plugin for API 1.")]
)
def test_the_hint_says_which_side_is_too_old(at, stated, hint):
    at("1.0")
    with pytest.raises(PluginError) as caught:
        api_version.check_statement(stated)
    assert caught.value.hint == hint


@pytest.mark.parametrize("stated", [1, 1.0, "", "1", "1.0.0", "v1.0", " 1.0", "1.0\n", "01.0", "1.٣", None, "9" * 40])
def test_what_is_no_version_is_refused(stated):
    with pytest.raises(PluginError, match=r"expected MAJOR\.MINOR as text") as caught:
        api_version.check_statement(stated)
    assert f'"{flctl.API_VERSION}"' in caught.value.hint


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ('FLCTL_API = "1.0"', "1.0"),
        ('"""Doc."""\nimport flctl\nFLCTL_API: str = "1.2"', "1.2"),
        ("FLCTL_API = 3", 3),
        ('x = """\nFLCTL_API = "9.9"\n"""', None),
        ('def f():\n    FLCTL_API = "9.9"', None),
        ("FLCTL_API = version()", None),
        ("FLCTL_API: str", None),
        ("x = ", None),
        ("\0", None),
        ("", None),
    ],
)
def test_the_statement_is_read_without_running_the_file(tmp_path, text, stated):
    (tmp_path / "a.py").write_text(text)
    assert api_version.stated_in(tmp_path / "a.py") == stated


def test_a_file_that_is_not_there_states_nothing(tmp_path):
    assert api_version.stated_in(tmp_path / "none.py") is None


@pytest.mark.parametrize("statement", ['FLCTL_API = "1.0"', ""])
def test_a_file_that_states_this_version_or_none_is_loaded(tmp_path, statement):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.format(statement=statement, more=""))
    registry = Registry(files=[file])
    assert registry.get("strategy", "own").name == "own"
    assert registry.plugins[-1].api == ("1.0" if statement else None)


@pytest.mark.parametrize("statement", ['FLCTL_API = "7.0"', 'FLCTL_API = "7." + "0"'])
@pytest.mark.parametrize("way", ["plugins", "component"])
def test_a_file_for_another_version_is_refused_in_a_sentence(tmp_path, monkeypatch, statement, way):
    """Also one that computes its statement, which is known only once it ran."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGIN.format(statement=statement, more=""))
    with pytest.raises(PluginError, match=r"mine\.py cannot be used: it needs version 7\.0 of the plugin API"):
        Registry(files=[tmp_path / "mine.py"]) if way == "plugins" else Registry().get("strategy", "mine.py:Own")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a plugin's module with its metadata, as pip lays it out."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(text):
        (tmp_path / "acme_fl.py").write_text(text)
        info = tmp_path / "acme_fl-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-fl\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text("[flctl]\nacme = acme_fl\n")
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("acme_fl", None)


def test_an_installed_plugin_for_this_version_is_taken(installed):
    installed(PLUGIN.format(statement='FLCTL_API = "1.0"', more=""))
    registry = Registry()
    assert registry.get("strategy", "own").__module__ == "acme_fl"
    plugin = next(plugin for plugin in registry.plugins if plugin.name == "acme")
    assert (plugin.distribution, plugin.version, plugin.api) == ("acme-fl", "2.0", "1.0")


def test_an_installed_plugin_for_another_version_does_not_even_run(installed):
    """What it would import does not exist here; the reason that is told is the version, not that."""
    installed(PLUGIN.format(statement='FLCTL_API = "2.0"', more="from flctl import SomethingOfVersionTwo"))
    registry = Registry()
    (broken,) = registry.broken
    assert (broken.name, broken.origin) == ("acme", "acme-fl 2.0")
    assert broken.reason.startswith("it needs version 2.0 of the plugin API, and flctl ")
    assert broken.reason.endswith("has 1.0. Install a newer flctl.")
    assert "acme_fl" not in sys.modules
    assert registry.get("strategy", "fedavg")


def test_an_installed_plugin_that_ends_the_process_harms_nobody(installed):
    installed("import sys\nsys.exit(3)")
    assert [broken.reason for broken in Registry().broken] == ["SystemExit: 3"]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("[Own()]", "flctl_strategies() returned <acme_fl.Own object"),
        ("[int]", "expected a class that extends flctl.Strategy"),
        ("[type('Nameless', (flctl.Strategy,), {})]", "class Nameless, which has no name"),
        ("None", "TypeError"),
    ],
)
def test_a_hook_that_gives_no_components_breaks_its_own_plugin_only(installed, returned, reason):
    installed(PLUGIN.format(statement="", more="").replace("[Own]", returned))
    registry = Registry()
    assert registry.get("strategy", "fedavg")
    assert reason in registry.broken[0].reason
    registry.offers("strategy")
    assert len(registry.broken) == 1


def test_the_documentation_says_how_a_version_is_stated():
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f'{api_version.STATEMENT} = "{flctl.API_VERSION}"' in text
