"""`flctl config show | schema | validate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

import flctl.cli
from flctl.cli import config as command
from flctl.config.config import Config, Flag, digest, effective
from flctl.config.load import load
from flctl.plugins.registry import Registry

TEXT = "strategy: fedadam\ntransforms:\n  clip: {norm: 2}\nlocal:\n  lr: 0.5\n"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs `flctl config ...` in an empty directory with x.yaml: (exit code, stdout, stderr)."""
    app = typer.Typer()
    app.callback()(flctl.cli._root)
    command.register(app)
    monkeypatch.setattr(flctl.cli, "build", lambda disabled: app)
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(TEXT)

    def call(*arguments):
        code = flctl.cli.run(["config", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_show_prints_yaml_that_says_where_each_value_came_from(run, monkeypatch):
    monkeypatch.setenv("FLCTL__LOCAL__EPOCHS", "3")
    code, out, err = run("show", "x.yaml", "-o", "rounds=7")
    assert (code, err) == (0, "")
    lines = {line.partition("#")[0].strip(): line.partition("#")[2].strip() for line in out.splitlines()}
    assert lines["rounds: 7"] == "-o rounds"
    assert lines["epochs: 3"] == "FLCTL__LOCAL__EPOCHS"
    assert lines["lr: 0.5"] == "x.yaml:5:3"
    assert lines["norm: 2.0"] == "x.yaml:3:10"
    assert lines["lr: 0.01"] == "strategy fedadam"
    assert lines["seed: 0"] == "default"
    assert "beta_1: 0.9" in lines  # of the server's adam, and not of the clients' sgd
    assert out.count("beta_1") == 1


def test_what_show_prints_is_the_same_configuration(run, monkeypatch):
    monkeypatch.setenv("FLCTL__LOCAL__EPOCHS", "3")
    Path("y.yaml").write_text(run("show", "x.yaml")[1])
    monkeypatch.delenv("FLCTL__LOCAL__EPOCHS")
    shown = load(Registry(), file=Path("y.yaml")).config
    assert shown == load(Registry(), file=Path("x.yaml"), flags={"local.epochs": Flag("--local-epochs", 3)}).config


def test_show_as_json_holds_every_effective_key(run):
    code, out, _ = run("show", "x.yaml", "--json")
    answer = json.loads(out)
    loaded = load(Registry(), file=Path("x.yaml"))
    assert (code, answer["command"], answer["ok"]) == (0, "config show", True)
    assert answer["data"]["digest"] == digest(loaded.config)
    assert set(answer["data"]["values"]) == set(loaded.origins)
    assert answer["data"]["values"]["local.lr"] == {"value": 0.5, "source": "file", "where": "x.yaml:5:3"}
    assert answer["data"]["values"]["transforms.clip.norm"]["value"] == 2.0


def test_show_without_a_file_shows_the_defaults(run):
    assert run("show")[1].startswith("seed: 0 ")


def test_validate_says_valid_and_ignores_the_environment(run, monkeypatch):
    monkeypatch.setenv("FLCTL__BOGUS", "3")
    assert run("validate", "x.yaml") == (0, "x.yaml: valid\n", "")


def test_validate_tells_all_problems_and_exits_with_2(run):
    Path("x.yaml").write_text("rounds: 0\nlocal: {lrr: 1}\n")
    code, out, err = run("validate", "x.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("error: 2 problems\nx.yaml:1:9: rounds must be")
    assert "\nx.yaml:2:9: unknown key 'lrr' in local. Did you mean 'lr'?\n  2 | local: {lrr: 1}\n" in err


def test_validate_as_json_is_an_error_envelope(run):
    Path("x.yaml").write_text("rounds: 0\n")
    code, out, err = run("validate", "x.yaml", "--json")
    error = json.loads(out)["error"]
    assert (code, err, error["kind"], error["exit_code"]) == (2, "", "config", 2)
    assert error["message"].startswith("x.yaml:1:9: rounds must be a whole number")


def test_a_missing_file_is_an_error(run):
    code, _, err = run("validate", "none.yaml")
    assert code == 2
    assert "config file none.yaml does not exist" in err


def test_the_schema_knows_every_key_and_the_options_of_every_component(run):
    code, out, _ = run("schema")
    schema = json.loads(out)
    assert code == 0
    assert set(schema["properties"]) == set(effective(Config()))
    definitions = schema["$defs"]
    assert set(definitions["LocalConfig"]["properties"]) >= {"lr", "epochs", "optimizer"}
    for kind in ("strategy", "model", "aggregator", "engine"):
        named = {
            form["properties"]["name"]["const"]: form
            for form in schema["properties"][kind]["anyOf"]
            if "const" in form.get("properties", {}).get("name", {})
        }
        offers = Registry().offers(kind)
        assert set(named) >= set(offers)
        for name, offer in offers.items():
            assert set(named[name]["properties"]) >= set(offer.component.Config.model_fields)
    assert set(schema["properties"]["transforms"]["anyOf"][0]["properties"]) == set(Registry().offers("transform"))


def test_every_reference_in_the_schema_leads_somewhere(run):
    schema = json.loads(run("schema", "--json")[1])["data"]["schema"]
    references = set(_references(schema))
    assert references
    for reference in references:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _references(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key == "$ref" else _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
