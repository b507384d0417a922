"""Components from one file: `--strategy ./file.py:Name`, and the same in YAML."""

import json
import re

import numpy as np
import pytest
from support import checkpoint_digests

from flctl.cli import run as cli
from flctl.config import json_schema
from flctl.config.load import load
from flctl.errors import ConfigError, PluginError
from flctl.kinds import file_of, short_name
from flctl.plugins.registry import Registry

MINE = '''
import dataclasses
import numpy as np
import flctl
from flctl import FlctlError, Strategy

class Half(Strategy):
    """Takes half of each step."""
    name = "half"
    class Config(Strategy.Config):
        share: float = 0.5
    def report(self, local, work, memory):
        arrays, weight, memory = super().report(local, work, memory)
        return {"delta": arrays["delta"] * np.float32(self.config.share)}, weight, memory

class Round(flctl.Transform):
    """Rounds to three digits, after adding noise of the round's own generator."""
    name = "round"
    class Config(flctl.Transform.Config):
        digits: int = 3
    def on_client(self, update, ctx):
        noise = ctx.rng.normal(0, 1e-4, update.arrays["delta"].size).astype(np.float32)
        rounded = np.round(update.arrays["delta"] + noise, self.config.digits)
        return dataclasses.replace(update, arrays={**update.arrays, "delta": rounded})

class Nameless(flctl.Strategy):
    """Has no name."""

def make(data):
    return None

NUMBER = 3
'''
SUM = '''
from flctl.algorithms.aggregators.plain import PlainAggregator

class Summed(PlainAggregator):
    """The plain sum under another name."""
    name = "summed"
'''
ENGINE = '''
from flctl.engines.inprocess import InProcessEngine

class Here(InProcessEngine):
    """In this process, under another name."""
    name = "here"
'''
QUICK = ["--model", "logreg", "--rounds", "2", "--clients-per-round", "4"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("mine.py", MINE), ("summed.py", SUM), ("here.py", ENGINE)):
        (tmp_path / name).write_text(text)
    return tmp_path


def trained(capsys, toy, *arguments):
    """Trains into `--out` and returns the envelope."""
    code = cli(["train", str(toy.path), *QUICK, *arguments, "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (code, told["ok"]) == (told.get("error", {}).get("exit_code", 0), code == 0)
    return told


@pytest.mark.parametrize(
    ("name", "file", "short"),
    [
        ("./mine.py:Half", "mine.py", "Half"),
        ("a/b.py:Half", "a/b.py", "Half"),
        ("./mine.py", "mine.py", "mine"),
        ("C:/x/mine.py:Half", "C:/x/mine.py", "Half"),
        ("fedavg", None, "fedavg"),
        ("package.module:Half", None, "package.module:Half"),
    ],
)
def test_what_a_name_means(name, file, short):
    found = file_of(name)
    assert (found if found is None else found.as_posix(), short_name(name)) == (file, short)


def test_a_strategy_of_a_file_trains_and_is_recorded_by_flag_and_by_yaml(here, toy, capsys):
    """Half of each step, at twice the server's learning rate, is FedAvg: the file's class did the work."""
    trained(capsys, toy, "--strategy", "./mine.py:Half", "-o", "server.lr=2", "--out", "flag")
    (here / "x.yaml").write_text("strategy: ./mine.py:Half\nserver: {lr: 2}\n")
    trained(capsys, toy, "--config", "x.yaml", "--out", "yaml")
    trained(capsys, toy, "--out", "plain")
    assert checkpoint_digests(here / "flag") == checkpoint_digests(here / "yaml")
    facts = json.loads((here / "flag/run.json").read_text())
    assert list(facts["files"]) == ["mine.py"]
    assert len(facts["files"]["mine.py"]) == 64
    models = [_params(here / run) for run in ("flag", "plain")]
    np.testing.assert_allclose(models[0], models[1], rtol=1e-5, atol=1e-7)


def _params(run):
    from safetensors.numpy import load_file

    tensors = load_file(run / "checkpoints/round-00002/model.safetensors")
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def test_options_of_a_files_class_are_checked_and_recorded(here, toy, capsys):
    trained(capsys, toy, "--strategy", "./mine.py:Half", "-o", "strategy.share=0.25", "--out", "a")
    text = (here / "a/config.yaml").read_text()
    assert "./mine.py:Half" in text
    assert "share: 0.25" in text
    told = trained(capsys, toy, "--strategy", "./mine.py:Half", "-o", "strategy.shore=1", "--out", "b")
    assert "unknown key 'shore'" in told["error"]["message"]
    assert "Did you mean 'share'?" in told["error"]["message"]


@pytest.mark.slow
def test_every_kind_in_files_gives_the_same_bits_in_a_pool_and_after_a_resume(here, toy, capsys):
    files = ["--strategy", "./mine.py:Half", "--transform", "./mine.py:Round", "--aggregator", "summed.py:Summed"]
    trained(capsys, toy, *files, "--engine", "./here.py", "--out", "one")
    trained(capsys, toy, *files, "--workers", "2", "--out", "two")
    assert checkpoint_digests(here / "one") == checkpoint_digests(here / "two")
    assert sorted(json.loads((here / "one/run.json").read_text())["files"]) == ["here.py", "mine.py", "summed.py"]
    trained(capsys, toy, *files, "--rounds", "1", "--out", "cut")
    assert cli(["train", "--resume", "cut", "--rounds", "2", "--json"]) == 0
    final = {n: d for n, d in checkpoint_digests(here / "one").items() if n.startswith("round-00002")}
    assert final.items() <= checkpoint_digests(here / "cut").items()
    assert len(final) == 2


def test_transforms_of_files_take_options_in_yaml_and_keep_their_order(here):
    (here / "x.yaml").write_text("transforms:\n  ./mine.py:Round: {digits: 1}\n  clip: {norm: 2}\n")
    config = load(Registry(), file=here / "x.yaml").config
    assert [(t.name, t.options) for t in config.transforms] == [
        ("./mine.py:Round", {"digits": 1}),
        ("clip", {"norm": 2.0}),
    ]


@pytest.mark.parametrize("kind", ["--strategy", "--transform", "--aggregator", "--engine"])
def test_a_resume_after_an_edit_is_refused(here, toy, capsys, kind):
    name = {"--strategy": "mine.py:Half", "--transform": "mine.py:Round"}.get(kind)
    name = name or {"--aggregator": "summed.py:Summed", "--engine": "here.py:Here"}[kind]
    trained(capsys, toy, kind, name, "--out", "run")
    file = here / name.partition(":")[0]
    text = file.read_text()
    file.write_text(text + "\n# edited\n")
    assert cli(["train", "--resume", "run", "--rounds", "3", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert f"{file.name} changed since the run was made" in told["error"]["message"]
    file.write_text(text)
    assert cli(["train", "--resume", "run", "--rounds", "3", "--json"]) == 0


def test_a_resume_in_another_folder_names_the_missing_file_and_the_folder_to_use(here, toy, capsys, monkeypatch):
    trained(capsys, toy, "--strategy", "./mine.py:Half", "--rounds", "1", "--out", "run")
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    assert cli(["train", "--resume", str(here / "run"), "--rounds", "2"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "plugin file mine.py does not exist" in said
    assert "resume and evaluate a run in the folder where it was started" in said
    monkeypatch.chdir(here)
    assert cli(["train", "--resume", "run", "--rounds", "2"]) == 0


def test_the_run_is_called_after_the_class_where_no_name_was_given(here, toy, capsys):
    told = trained(capsys, toy, "--strategy", "./mine.py:Half")
    assert told["data"]["run"].replace("\\", "/") == f"runs/{toy.path.name}-Half"


@pytest.mark.parametrize(
    ("kind", "name", "message", "hint"),
    [
        ("strategy", "./none.py:Half", "plugin file none.py does not exist", "the folder where it was started"),
        ("strategy", "mine.py:Hlaf", "mine.py has no class 'Hlaf'", "Did you mean 'Half'?"),
        ("strategy", "mine.py:half", "mine.py has no class 'half'", "Use the class instead of its name: 'Half'."),
        ("strategy", "mine.py:Zzz", "mine.py has no class 'Zzz'", "It defines: Half, Nameless."),
        ("strategy", "mine.py:Round", "'Round' in mine.py is a transform, expected a strategy", "--transform"),
        ("aggregator", "mine.py:Half", "'Half' in mine.py is a strategy, expected an aggregator", "--strategy"),
        ("engine", "mine.py:make", "'make' in mine.py is a function, expected an engine", "extends flctl.Engine"),
        ("strategy", "mine.py:NUMBER", "'NUMBER' in mine.py is an int, expected a strategy", "extends flctl.Strategy"),
        ("strategy", "mine.py:FlctlError", "is another class, expected a strategy", "extends flctl.Strategy"),
        ("strategy", "mine.py:Nameless", "class 'Nameless' in mine.py has no name", 'name = "my-own"'),
        ("strategy", "mine.py", "mine.py defines several classes: Half, Nameless", "mine.py:Half."),
        ("engine", "mine.py", "mine.py defines no engine", "extends flctl.Engine"),
        ("strategy", "package.module:Half", "unknown strategy 'package.module:Half'", "file.py:Class"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_was_probably_meant(here, kind, name, message, hint):
    with pytest.raises(PluginError) as caught:
        Registry().get(kind, name)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_only_class_of_its_kind_needs_no_name(here):
    assert Registry().get("transform", "mine.py").name == "round"
    assert Registry().get("engine", "./here.py").name == "here"


def test_a_wrong_file_in_yaml_is_told_with_its_place(here):
    (here / "x.yaml").write_text("rounds: 2\nstrategy: mine.py:Hlaf\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:2:11: mine\.py has no class 'Hlaf'\. Did you mean 'Half'\?"):
        load(Registry(), file=here / "x.yaml")


def test_a_file_runs_once_however_it_is_named(here):
    (here / "once.py").write_text(
        "import flctl\nfrom pathlib import Path\n"
        "with Path('runs.txt').open('a') as file:\n    file.write('x')\n"
        "class One(flctl.Strategy):\n    'One.'\n    name = 'one'\n"
        "@flctl.hookimpl\ndef flctl_strategies():\n    return [One]\n"
    )
    registry = Registry(files=[here / "once.py"])
    assert registry.get("strategy", "one") is registry.get("strategy", "./once.py:One")
    assert (here / "runs.txt").read_text() == "x"


def test_the_schema_for_editors_lets_a_file_stand_where_a_component_is_named():
    schema = json_schema.schema(Registry())
    patterns = [form["pattern"] for form in schema["properties"]["strategy"]["anyOf"][0]["anyOf"] if "pattern" in form]
    (pattern,) = patterns
    mapping = schema["properties"]["transforms"]["anyOf"][0]
    assert list(mapping["patternProperties"]) == patterns
    assert [bool(re.search(pattern, name)) for name in ("./mine.py:Half", "mine.py", "fedavg")] == [True, True, False]


def test_two_files_of_one_name_in_two_folders_are_two_modules(here):
    for folder in ("a", "b"):
        (here / folder).mkdir()
        text = f"import flctl\nclass S(flctl.Strategy):\n    'S.'\n    name = 's-{folder}'\n"
        (here / folder / "same.py").write_text(text)
    registry = Registry()
    found = [registry.get("strategy", f"{folder}/same.py:S") for folder in ("a", "b")]
    assert [c.name for c in found] == ["s-a", "s-b"]
    assert found[0].__module__ != found[1].__module__


@pytest.mark.parametrize(
    ("text", "says"), [("import sys; sys.exit(3)", "SystemExit: 3"), ("1 / 0", "ZeroDivisionError"), ("x = ", "Syntax")]
)
def test_a_file_that_fails_is_told_with_the_reason(here, text, says):
    (here / "bad.py").write_text(text)
    with pytest.raises(PluginError, match=f"plugin file bad.py failed to load: {says}"):
        Registry().get("strategy", "bad.py:X")
