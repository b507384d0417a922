"""`flctl plugins list | show | doctor`: versions, health, options with their types, and what is broken."""

import importlib
import io
import json
import sys

import pytest
from support import prefork

from flctl.cli import run as cli
from flctl.cli.plugins import doctor
from flctl.plugins.registry import Registry

HEAD = 'FLCTL_API = "1.0"\nimport flctl\nimport numpy as np\nfrom pydantic import Field\n'
GOOD = '''
class Rooted(flctl.Partitioner):
    """Row i is client i mod K's, from a first client on."""
    name = "rooted"
    class Config(flctl.Options):
        first: int = Field(ge=0, examples=[1], description="Whose the first row is.")
        step: int = Field(1, ge=1)
        names: tuple[str, ...] = ()
    def assign(self, rows, clients, rng):
        if clients > rows.count:
            raise flctl.DataError(f"{clients} clients and {rows.count} rows")
        return flctl.Assignment((self.config.first + self.config.step * np.arange(rows.count)) % clients, clients)
'''
OFFER = "@flctl.hookimpl\ndef flctl_partitioners():\n    return [Rooted]\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs plugins as pip lays them out: name -> the text of its module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(**texts):
        for name, text in texts.items():
            (tmp_path / f"acme_{name}.py").write_text(text)
            info = tmp_path / f"acme_{name}-2.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 2.0\n")
            (info / "entry_points.txt").write_text(f"[flctl]\n{name} = acme_{name}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if name.startswith(("acme_", "flctl_file_")):
            del sys.modules[name]


def data(capsys, *arguments, code=0):
    """The data of a command's envelope."""
    assert cli(["plugins", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)["data"]


def findings(capsys, *arguments, code=0):
    """(Subject, status) -> details of what the doctor found."""
    found = {}
    for one in data(capsys, "doctor", *arguments, code=code)["findings"]:
        found.setdefault((one["subject"], one["status"]), []).append(one["detail"])
    return found


def test_plugins_are_listed_with_version_api_and_health(installed, capsys):
    installed(good=HEAD + GOOD + OFFER, bad="import no_such_module\n", late='FLCTL_API = "9.0"\n')
    listed = data(capsys, "list", "--kind", "partitioner")
    rows = {row["plugin"]: row for row in listed["plugins"]}
    assert (rows["builtin"]["version"], rows["builtin"]["api"]) == ("0.1.0", "1.0")
    good = {"distribution": "acme-good", "version": "2.0", "api": "1.0", "health": "ok", "origin": "acme-good 2.0"}
    assert rows["good"] == {"plugin": "good", **good}
    assert rows["bad"]["health"] == "broken: ModuleNotFoundError: No module named 'no_such_module'"
    assert rows["late"]["health"].startswith("broken: it needs version 9.0 of the plugin API")
    (rooted,) = [row for row in listed["components"] if row["name"] == "rooted"]
    assert (rooted["plugin"], rooted["distribution"], rooted["version"]) == ("good", "acme-good", "2.0")
    assert rooted["class"] == "acme_good.Rooted"
    assert {broken["plugin"] for broken in listed["broken"]} == {"bad", "late"}
    assert cli(["plugins", "list", "--kind", "partitioner"]) == 0
    shown = capsys.readouterr().out
    assert "acme-good" in shown
    assert "broken" in shown


def test_the_list_has_one_whole_line_a_component_and_details_on_request(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    components = data(capsys, "list", "--kind", "strategy")["components"]
    assert cli(["plugins", "list", "--kind", "strategy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[: len(components)]] == [["strategy", c["name"]] for c in components]
    assert all(line.endswith(c["summary"]) for line, c in zip(lines, components, strict=False))
    assert cli(["plugins", "list", "--kind", "strategy", "--details"]) == 0
    detailed = capsys.readouterr().out
    assert all(f"{c['name']} ({c['origin']}, {c['class']})" in detailed for c in components)


def test_a_terminal_shows_a_line_a_component_as_far_as_it_fits():
    from rich.console import Console

    from flctl.cli.plugins import command

    console = Console(width=20, force_terminal=True, color_system=None, record=True, file=io.StringIO())
    command._print_lines(console, [("model", "mlp", "A perceptron of several layers.")])
    assert console.export_text() == "model  mlp  A perce\u2026\n"


def test_options_are_shown_with_types_bounds_and_defaults(installed, capsys):
    installed(good=HEAD + GOOD + OFFER)
    (shown,) = data(capsys, "show", "rooted")["components"]
    options = {option.pop("name"): option for option in shown["options"]}
    assert options["first"] == {
        "type": "int",
        "allowed": "a whole number of at least 0",
        "default": None,
        "required": True,
        "description": "Whose the first row is.",
    }
    assert (options["step"]["allowed"], options["step"]["default"]) == ("a whole number of at least 1", 1)
    assert (options["names"]["allowed"], options["names"]["required"]) == ("a list", False)
    assert cli(["plugins", "show", "rooted"]) == 0
    assert "a whole number of at least 0" in " ".join(capsys.readouterr().out.split())


def test_a_plugin_is_shown_with_what_it_offers(installed, capsys):
    installed(good=HEAD + GOOD + OFFER)
    (plugin,) = data(capsys, "show", "good")["plugins"]
    assert plugin["components"] == [{"kind": "partitioner", "name": "rooted"}]
    assert cli(["plugins", "show", "good"]) == 0
    assert "plugin good (acme-good 2.0), API 1.0\npartitioner rooted\nok\n" in capsys.readouterr().out
    assert cli(["plugins", "show", "goood"]) == 2


def test_the_doctor_finds_a_sound_installation_well(installed, capsys):
    installed(good=HEAD + GOOD + OFFER)
    found = findings(capsys)
    assert found["plugin good", "ok"] == ["acme-good 2.0, API 1.0: flctl_partitioners"]
    assert found["partitioner rooted", "ok"] == ["of acme-good 2.0: Row i is client i mod K's, from a first client on."]
    assert {status for _, status in found} == {"ok"}
    assert cli(["plugins", "doctor"]) == 0
    assert "all plugins work" in capsys.readouterr().out


def test_the_doctor_names_everything_that_is_broken(installed, capsys):
    installed(
        good=HEAD + GOOD + OFFER,
        twin=HEAD + GOOD + OFFER,
        bad="import no_such_module\n",
        late='FLCTL_API = "9.0"\nfrom flctl import NotYet\n',
        wrong=HEAD + "@flctl.hookimpl\ndef flctl_strategie():\n    return []\n",
        fails=HEAD + "@flctl.hookimpl\ndef flctl_models():\n    return 1 / 0\n",
        ends="import sys\nsys.exit(3)\n",
    )
    found = findings(capsys, code=1)
    assert found["plugin bad", "fail"] == ["acme-bad 2.0: ModuleNotFoundError: No module named 'no_such_module'"]
    assert "it needs version 9.0 of the plugin API" in found["plugin late", "fail"][0]
    assert "unknown hook 'flctl_strategie'" in found["plugin wrong", "fail"][0]
    assert found["plugin fails", "fail"] == ["flctl_models() raised ZeroDivisionError: division by zero"]
    assert "SystemExit: 3" in found["plugin ends", "fail"][0]
    (clash,) = found["partitioner rooted", "fail"]
    assert clash.startswith(
        "two plugins offer it, acme-good 2.0 and acme-twin 2.0: leave one out with --disable-plugin"
    )
    assert cli(["plugins", "doctor"]) == 1
    assert "6 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "subject", "status", "detail"),
    [
        ("import flctl\n" + HEAD.partition("\n")[2] + GOOD + OFFER, "plugin one", "warn", "states no FLCTL_API"),
        (HEAD, "plugin one", "warn", "implements no hook, so it has no effect"),
        (HEAD + GOOD.replace('"rooted"', '"Rooted Tree"') + OFFER, "partitioner Rooted Tree", "fail", "'Rooted Tree'"),
        (
            HEAD + GOOD.replace('    """Row i', '    note = """Row i') + OFFER,
            "partitioner rooted",
            "fail",
            "no docstring",
        ),
        (HEAD + GOOD + OFFER.replace("[Rooted]", "[Rooted, 3]"), "partitioner 3", "fail", "3 is not a class"),
    ],
)
def test_the_doctor_tells_of_one_plugin(installed, capsys, text, subject, status, detail):
    installed(one=text)
    found = findings(capsys, "one", code=1 if status == "fail" else 0)
    assert detail in found[subject, status][0]


def test_the_doctor_may_be_sent_to_some_plugins_and_to_files(installed, capsys, tmp_path):
    installed(good=HEAD + GOOD + OFFER, bad="import no_such_module\n")
    (tmp_path / "mine.py").write_text(HEAD + GOOD.replace('"rooted"', '"mine"') + OFFER)
    (tmp_path / "lost.py").write_text("1 / 0")
    assert set(findings(capsys, "good")) == {("plugin good", "ok"), ("partitioner rooted", "ok")}
    assert set(findings(capsys, "./mine.py")) == {("plugin mine.py", "ok"), ("partitioner mine", "ok")}
    assert "ZeroDivisionError" in findings(capsys, "lost.py", code=1)["file lost.py", "fail"][0]
    assert "does not exist" in findings(capsys, "none.py", code=1)["file none.py", "fail"][0]
    assert cli(["plugins", "doctor", "goood"]) == 2
    assert "Did you mean 'good'?" in capsys.readouterr().err


def test_check_runs_the_kit_with_the_examples_of_options(installed, capsys):
    installed(good=HEAD + GOOD + OFFER)
    found = findings(capsys, "good", "--check")
    assert "passes 12 checks of its contract" in found["partitioner rooted", "ok"]


def test_check_tells_what_a_component_breaks_and_ends_with_1(installed, capsys):
    installed(bad=HEAD + GOOD.replace("% clients, clients)", "% (clients + 1), clients)") + OFFER)
    found = findings(capsys, "bad", "--check", code=1)
    (text,) = found["partitioner rooted", "fail"]
    assert "fails 2 of 9 checks" in text
    assert "[assign]" in text
    assert cli(["plugins", "doctor", "bad", "--check"]) == 1
    shown = capsys.readouterr().out
    assert "why:" in shown
    assert "1 of 3 checks failed" in shown


def test_check_says_what_it_could_not_check(installed, capsys):
    reader = (
        'class Own(flctl.DatasetReader):\n    """Reads .own."""\n    name = "own"\n    extensions = (".own",)\n'
        "@flctl.hookimpl\ndef flctl_datasets():\n    return [Own]\n"
    )
    installed(good=HEAD + GOOD.replace("examples=[1], ", "") + OFFER + reader)
    found = findings(capsys, "good", "--check")
    assert found["partitioner rooted", "warn"] == ["not checked: first has no default, and no Field(examples=)"]
    assert found["dataset own", "warn"] == [
        "not checked: check_dataset needs a sample file; the plugin's tests have one"
    ]


def test_the_engine_of_a_federation_is_not_checked_without_one():
    """Its clients are at sites, which the trial runs of the kit do not have."""
    registry = Registry()
    engine = registry.get("engine", "network")
    (check,) = doctor._conformance(doctor.Found("engine", registry.offers("engine")["network"].plugin, engine))
    assert (check.subject, check.status) == ("engine network", "warn")
    assert check.detail == "not checked: its clients are at the sites of a federation; try flctl demo --network"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_built_in_components_are_checked_only_when_asked_for(installed, capsys):
    installed(good=HEAD + GOOD + OFFER)
    assert not any(subject.startswith("model") for subject, _ in findings(capsys, "--check"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_that_flctl_brings_along_is_well(capsys):
    prefork.start_server()  # a process that appears in the middle of a check would count as left behind
    found = findings(capsys, "builtin", "--check")
    assert {subject for subject, status in found if status == "ok"} > {"strategy fedavg", "engine pool", "dataset iris"}
