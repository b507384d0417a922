"""`flctl plugins new`: names that are taken, the files, and packages that install, pass their tests, work and go."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from support import slow_but, sysconfig_paths

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_that_are_written_would_fail_without_the_component(here, generated, kind):
    """All but the call of the kit, which is made above, are plain functions here."""
    generated(kind)
    text = (here / "pkg/tests/test_my_own.py").read_text()
    names = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert sum(name.startswith("test_") for name in names) >= 2
    assert f"check_{kind}(MyOwn" in text
    deselect = next(name for name in names if name.startswith("test_it_keeps_the_contract"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"not {deselect}", "pkg"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here / "pkg/src"), str(ROOT)])}
    sound = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert sound.returncode == 0, sound.stdout
    (here / f"pkg/src/my_own/{kind}.py").write_text("class MyOwn:\n    pass\n")
    broken = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert broken.returncode == 1, broken.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_package_installs_passes_its_tests_is_listed_works_and_goes(here, toy, kind):
    environment = Environment(here / "venv")
    environment.flctl("plugins", "new", "my-own", "--kind", kind)
    environment.pip("install", "--no-deps", "--no-build-isolation", "./my-own")
    tests = environment.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "my-own")
    assert "passed" in tests
    rows = environment.flctl("plugins", "list", "--kind", kind, "--json")["components"]
    (row,) = [row for row in rows if row["name"] == "my-own"]
    assert (row["origin"], row["distribution"], row["version"]) == ("my-own 0.1.0", "my-own", "0.1.0")
    shown = environment.flctl("plugins", "show", "my-own", "--json")
    assert shown["plugins"][0]["health"] == "ok"
    environment.flctl("plugins", "doctor", "my-own", "--json")
    environment.works(kind, toy)
    environment.pip("uninstall", "--yes", "my-own")
    rows = environment.flctl("plugins", "list", "--kind", kind, "--json")["components"]
    assert rows
    assert "my-own" not in [row["name"] for row in rows]


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

    def flctl(self, *arguments):
        """The data of a command's envelope, where it prints one."""
        out = self.python("-c", "from flctl.cli import main; main()", *arguments)
        return json.loads(out.splitlines()[-1])["data"] if "--json" in arguments else out

    def works(self, kind, toy):
        """Trains with the component, or partitions."""
        (self.path.parent / "a.svmlight").write_text(SVMLIGHT)
        if kind == "dataset":
            made = self.flctl("partition", "a.svmlight", "--clients", "4", "--out", "parts", "--json")
            assert made["dataset"]["name"] == "a"
        elif kind == "partitioner":
            scheme = ("--scheme", "my-own", "-o", "ratio=0.5")
            made = self.flctl("partition", "iris", *scheme, "--clients", "4", "--out", "parts", "--json")
            assert made["scheme"]["name"] == "my-own"
        else:
            quick = ("--rounds", "2", "--clients-per-round", "4", "--workers", "2", "--out", "run", "--json")
            chosen = TRAINED[kind] if kind != "engine" else [*TRAINED[kind], "-o", "engine.inner=pool"]
            made = self.flctl(
                "train", str(toy.path), *quick, *([] if kind == "model" else ["--model", "logreg"]), *chosen
            )
            assert made["rounds"] == 2


def test_the_templates_are_in_a_built_wheel(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is in the extra `dev`")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("flctl/plugins/template/")}
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flctl/plugins/template").rglob("*.tmpl")}
    assert packed == here
    assert len(here) == 25
