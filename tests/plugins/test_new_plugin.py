"""`flctl plugins new`: names that are taken, the files, and packages that install, pass their tests, work and go."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from support import prefork, slow_but, sysconfig_paths

import flctl
from flctl import testing
from flctl.cli import run as cli
from flctl.errors import ConfigError, PluginError
from flctl.kinds import KINDS
from flctl.partition.store import Partition
from flctl.plugins import new_plugin
from flctl.plugins.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
SVMLIGHT = "".join(f"{n % 3} 1:{n % 7} 2:{n % 5} 4:{n / 10}\n" for n in range(90))


def said(capsys):
    """The envelope that a command printed."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("trimmed-mean", ("trimmed_mean", "trimmed-mean", "TrimmedMean")),
        ("flctl-top-k", ("flctl_top_k", "top-k", "TopK")),
        ("a.b_c", ("a_b_c", "a-b-c", "ABC")),
        ("x2", ("x2", "x2", "X2")),
    ],
)
def test_what_follows_from_a_name(word, names):
    found = new_plugin.names_of(word)
    assert (found.distribution, found.module, found.component, found.class_name) == (word, *names)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "cannot be named ''"),
        ("-x", "cannot be named '-x'"),
        ("x-", "cannot be named 'x-'"),
        ("Trimmed Mean", "cannot be named 'Trimmed Mean'"),
        ("müsli", "lower-case letters, digits"),
        ("a/b", "lower-case letters, digits"),
        ("..", "lower-case letters, digits"),
        ("x" * 65, "up to 64"),
        ("x\n", "lower-case letters, digits"),
        ("2nn", "'2nn' cannot be a Python module"),
        ("flctl-2nn", "'2nn' cannot be a Python class"),
        ("class", "'class' cannot be a Python module"),
        ("match", "'match' cannot be a Python module"),
        ("flctl-none", "'None' cannot be a Python class"),
        ("json", "the module 'json' belongs to another package"),
        ("tests", "the module 'tests' belongs to another package"),
        ("flctl", "the module 'flctl' belongs to another package"),
        ("flctl-path", "the class 'Path' belongs to another package"),
        ("con", "Windows reserves that name for a device"),
        ("nul.plugin", "Windows reserves that name for a device"),
        ("lpt1", "Windows reserves that name for a device"),
    ],
)
def test_names_that_cannot_be_are_refused(here, capsys, word, says):
    assert cli(["plugins", "new", "--kind", "strategy", "--json", "--", word]) == 2
    assert cli(["plugins", "new", "--kind=strategy", "--", word]) == 2
    assert says in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_name_that_is_nearly_right_is_mended_in_the_hint():
    with pytest.raises(ConfigError) as caught:
        new_plugin.names_of("Trimmed Mean!")
    assert caught.value.hint == "Did you mean 'trimmed-mean'?"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fedavg", "--kind", "strategy"], "a strategy named 'fedavg' already exists, in flctl"),
        (["flctl-clip", "--kind", "transform"], "a transform named 'clip' already exists, in flctl"),
        (["auto", "--kind", "engine"], "'auto' is the value for"),
        (["builtin", "--kind", "model"], "a plugin named 'builtin' is already installed"),
        (["safetensors", "--kind", "model"], "a distribution of that name is installed: safetensors"),
        (["sklearn", "--kind", "model"], "a module named 'sklearn' can already be imported"),
        (["mine", "--kind", "strateggy"], "unknown kind 'strateggy'"),
        (["mine", "--kind", "model", "--out", "there"], "there exists already"),
    ],
)
def test_what_is_taken_is_refused_and_nothing_written(here, capsys, arguments, says):
    (here / "there").mkdir()
    assert cli(["plugins", "new", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["there"]
    assert list((here / "there").iterdir()) == []


def test_the_kind_must_be_said(here, capsys):
    assert cli(["plugins", "new", "mine"]) == 2
    assert "--kind" in capsys.readouterr().err


def test_an_installed_plugin_of_the_name_is_a_clash(monkeypatch):
    registry = Registry()
    registry.add(type("Nothing", (), {})(), "mine")
    with pytest.raises(PluginError, match="a plugin named 'mine' is already installed, from this process"):
        new_plugin.refuse_clash(new_plugin.names_of("mine"), "model", registry)


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_what_it_should_be(here, capsys, kind):
    assert cli(["plugins", "new", "flctl-my-own", "--kind", kind, "--out", "a/b", "--json"]) == 0
    data = said(capsys)["data"]
    files = {path.relative_to(here / "a/b").as_posix() for path in (here / "a/b").rglob("*") if path.is_file()}
    assert files == set(data["files"])
    assert files == {
        ".gitignore", "README.md", "pyproject.toml", "src/flctl_my_own/__init__.py", f"src/flctl_my_own/{kind}.py",
        "tests/test_flctl_my_own.py",
    }  # fmt: skip
    for name in files:
        data_of = (here / "a/b" / name).read_bytes()
        assert b"\r" not in data_of
        assert b"$" not in data_of
        if name.endswith(".py"):
            ast.parse(data_of)
    project = tomllib.loads((here / "a/b/pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"flctl": {"my-own": "flctl_my_own"}}
    assert project["name"] == "flctl-my-own"
    assert "license" not in project
    assert (data["component"], data["class"], data["module"]) == ("my-own", "MyOwn", "flctl_my_own")
    hooks = (here / "a/b/src/flctl_my_own/__init__.py").read_text()
    assert f'FLCTL_API = "{flctl.API_VERSION}"' in hooks
    assert f"def {KINDS[kind].hook}() -> list[type[flctl." in hooks


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_in_our_own_style(here, kind):
    """As strict as flctl's own code."""
    pytest.importorskip("ruff", reason="ruff is in the extra `dev`")
    new_plugin.write(here / "x", new_plugin.render(new_plugin.names_of("my-own"), kind))
    isolated = ["--isolated", "--config", "lint.isort.known-first-party=['my_own']", "--config", "line-length=120", "x"]
    for command in (["check", "--select", "E,F,I,W,UP,B,RUF"], ["format", "--check"]):
        call = [sys.executable, "-m", "ruff", *command, *isolated]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def generated(here, monkeypatch):
    """Writes a package; its sources can be imported, and what was imported is forgotten afterwards."""
    known = set(sys.modules)

    def write(kind):
        new_plugin.write(here / "pkg", new_plugin.render(new_plugin.names_of("my-own"), kind))
        monkeypatch.syspath_prepend(here / "pkg/src")
        return (here / "pkg/src/my_own/__init__.py").relative_to(here).as_posix()

    yield write
    for name in set(sys.modules) - known:
        if name.startswith(("my_own", "flctl_file_", "test_my_own")):
            del sys.modules[name]


TRAINED = {
    "strategy": ["--strategy", "my-own", "-o", "strategy.power=0.3"],
    "transform": ["--transform", "my-own", "-o", "transforms.my-own.keep=0.9"],
    "aggregator": ["--aggregator", "my-own"],
    "engine": ["--engine", "my-own", "-o", "engine.retries=2"],
    "model": ["--model", "my-own", "-o", "model.hidden=8"],
}
CHECKED = {"strategy": {"processes": False}, "transform": {"processes": False}, "aggregator": {"processes": False}}


@pytest.mark.parametrize("kind", slow_but(KINDS, "strategy", "partitioner"))
def test_what_is_written_keeps_its_contract_and_works_from_its_file(here, generated, toy, capsys, kind):
    file = generated(kind)
    assert cli(["plugins", "doctor", file, "--json"]) == 0
    findings = said(capsys)["data"]["findings"]
    assert [(one["subject"], one["status"]) for one in findings] == [
        (f"plugin {Path(file)}", "ok"),
        (f"{kind} my-own", "ok"),
    ]
    component = Registry(files=[Path(file)]).get(kind, "my-own")
    (here / "a.svmlight").write_text(SVMLIGHT)
    arguments = [here / "a.svmlight"] if kind == "dataset" else []
    assert getattr(testing, f"check_{kind}")(component, *arguments, **CHECKED.get(kind, {})).checks
    if kind in TRAINED:
        quick = ["--rounds", "2", "--clients-per-round", "4", "-o", f"plugins=[{file}]", "--out", "run"]
        model = [] if kind == "model" else ["--model", "logreg"]
        assert cli(["train", str(toy.path), *quick, *model, *TRAINED[kind], "--json"]) == 0
        assert said(capsys)["data"]["rounds"] == 2
    else:
        chosen = "source: a.svmlight" if kind == "dataset" else "source: iris, scheme: {name: my-own, ratio: 0.5}"
        (here / "x.yaml").write_text(f"plugins: [{file}]\npartition: {{{chosen}, clients: 4, out: parts/x}}\n")
        assert cli(["partition", "--config", "x.yaml", "--json"]) == 0
        assert Partition.open(here / "parts/x").clients == 4


def own_of_each_kind(folder):
    """Writes a package of each kind, with a name of its own; kind -> its folder."""
    for kind in KINDS:
        new_plugin.write(folder / f"own-{kind}", new_plugin.render(new_plugin.names_of(f"own-{kind}"), kind))
    return {kind: folder / f"own-{kind}" for kind in KINDS}


@pytest.mark.slow
def test_the_tests_that_are_written_would_fail_without_the_component(here):
    """All but the call of the kit, which is made above, are plain functions here. Those of all kinds run together."""
    packages = own_of_each_kind(here)
    for kind, folder in packages.items():
        text = (folder / f"tests/test_own_{kind}.py").read_text()
        names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        assert sum(name.startswith("test_") for name in names) >= 2
        assert f"check_{kind}(Own{kind.title()}" in text
        assert any(name.startswith("test_it_keeps_the_contract") for name in names)
    options = ["-q", "-rA", "-p", "no:cacheprovider", "-k", "not test_it_keeps_the_contract"]
    command = [sys.executable, "-m", "pytest", *options, *packages.values()]
    sources = [str(folder / "src") for folder in packages.values()]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*sources, str(ROOT)])}
    sound = prefork.run(command, env=env)
    assert sound.returncode == 0, sound.stdout
    for kind in KINDS:
        assert f"/test_own_{kind}.py::" in sound.stdout
        (packages[kind] / f"src/own_{kind}/{kind}.py").write_text(f"class Own{kind.title()}:\n    pass\n")
    broken = prefork.run(command, env=env)
    assert broken.returncode == 1, broken.stdout
    assert [kind for kind in KINDS if not re.search(rf"FAILED .*/test_own_{kind}\.py::", broken.stdout)] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_packages_of_every_kind_install_pass_their_tests_are_listed_work_and_go(here, toy):
    packages = own_of_each_kind(here)
    environment = Environment(here / "venv")
    environment.pip("install", "--no-deps", "--no-build-isolation", *packages.values())
    tests = environment.python("-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *packages.values())
    listed, *looked_at = environment.flctl(
        ("plugins", "list"),
        *(("plugins", verb, f"own-{kind}") for kind in KINDS for verb in ("show", "doctor")),
        *environment.commands(toy),
    )
    for place, kind in enumerate(KINDS):
        assert re.search(rf"PASSED .*/test_own_{kind}\.py::test_it_keeps_the_contract", tests)
        (row,) = [row for row in listed["components"] if row["name"] == f"own-{kind}"]
        assert (row["kind"], row["origin"]) == (kind, f"own-{kind} 0.1.0")
        assert (row["distribution"], row["version"]) == (f"own-{kind}", "0.1.0")
        assert looked_at[2 * place]["plugins"][0]["health"] == "ok"
    partitioned, dealt, trained = looked_at[-3:]
    assert (partitioned["dataset"]["name"], dealt["scheme"]["name"], trained["rounds"]) == ("a", "own-partitioner", 2)
    environment.pip("uninstall", "--yes", *(f"own-{kind}" for kind in KINDS))
    (listed,) = environment.flctl(("plugins", "list"))
    assert listed["components"]
    assert [row for row in listed["components"] if row["name"].startswith("own-")] == []


SEVERAL = """
import json, sys
from flctl.cli import run
for words in json.loads(sys.argv[1]):
    code = run([*words, "--json"])
    if code:
        sys.exit(f"{words} ended with code {code}")
"""


class Environment:
    """A new virtual environment that sees this one's packages, and flctl, but has entry points of its own."""

    def __init__(self, path):
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(path)
        self.path = path
        self.interpreter = path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        own = Path(subprocess.check_output(
            [self.interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
        ).strip())  # fmt: skip
        seen = [str(ROOT), *sysconfig_paths.site_packages()]
        (own / "outer.pth").write_text("\n".join(seen) + "\n", encoding="utf-8")

    def python(self, *arguments):
        """What a Python of the environment printed. Fails the test with all it said where it fails."""
        done = subprocess.run(
            [self.interpreter, *arguments],
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            check=False,
            env=self.env,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    @property
    def env(self):
        return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def pip(self, *arguments):
        """pip of the outer environment, which this one sees."""
        return self.python("-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)

    def flctl(self, *commands):
        """The data in the envelopes of commands that one process runs."""
        out = self.python("-c", SEVERAL, json.dumps(commands))
        return [json.loads(line)["data"] for line in out.splitlines()]

    def commands(self, toy):
        """Commands that partition with the components, and that train with all others of them, in worker processes."""
        (self.path.parent / "a.svmlight").write_text(SVMLIGHT)
        chosen = [word.replace("my-own", f"own-{kind}") for kind, words in TRAINED.items() for word in words]
        quick = ["--rounds", "2", "--clients-per-round", "4", "--workers", "2", "-o", "engine.inner=pool"]
        return (
            ["partition", "a.svmlight", "--clients", "4", "--out", "read"],
            ["partition", "iris", "--scheme", "own-partitioner", "-o", "ratio=0.5", "--clients", "4", "--out", "dealt"],
            ["train", str(toy.path), *quick, *chosen, "--out", "run"],
        )


def test_the_templates_are_in_a_built_wheel(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is in the extra `dev`")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("flctl/plugins/template/")}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flctl/plugins/template").rglob("*.tmpl")}
    assert packed == here
    assert len(here) == 25
