"""docs/config.md says what the models say, and its examples are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flctl.config import yaml_writer
from flctl.config.config import Config
from flctl.config.load import load, load_partition_section
from flctl.config.sections.training import SECTIONS
from flctl.config.sources import LAYERED, NAMED
from flctl.config.validation import expectation
from flctl.errors import ConfigError
from flctl.plugins.registry import Registry

DOCS = Path(__file__).resolve().parents[2] / "docs" / "config.md"
TEXT = DOCS.read_text(encoding="utf-8") if DOCS.is_file() else ""
ROW = re.compile(r"^\| `([\w.]+)` \| (.+?) \| `(.+?)` \| (.+?) \|$", re.MULTILINE)
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def described():
    """Each key as a row of the documentation should have it: type, default, meaning."""
    keys = {}
    for prefix, model in [("", Config), *((f"{name}.", section) for name, section in SECTIONS.items())]:
        properties = model.model_json_schema()["properties"]
        for name, field in model.model_fields.items():
            keys[prefix + name] = (expectation(properties[name]), field.default, field.description)
    for name in (*SECTIONS, "engine.options"):
        del keys[name]
    for name in set(NAMED) - set(SECTIONS):
        keys[name] = ("a name, or a mapping with a name and options", keys[name][1].name, keys[name][2])
    keys[LAYERED] = ("a mapping of names to options, or a list of names", {}, keys[LAYERED][2])
    return {name: (kind, yaml_writer.inline(default), meaning) for name, (kind, default, meaning) in keys.items()}


@pytest.mark.parametrize("key", described())
def test_each_key_is_documented_with_its_type_default_and_meaning(key):
    rows = {name: (kind, default, meaning) for name, kind, default, meaning in ROW.findall(TEXT)}
    assert rows.get(key) == described()[key]


def test_no_other_key_is_documented():
    assert {name for name, *_ in ROW.findall(TEXT)} == set(described())


def blocks(language):
    return [text for found, text in BLOCK.findall(TEXT) if found == language]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_example_is_a_valid_configuration(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits.yaml").write_text(text)
    assert load(Registry(), file=Path("digits.yaml")).config.rounds == 30
    assert load_partition_section(Path("digits.yaml"))["alpha"] == 0.3


def test_the_messages_that_are_shown_are_the_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = blocks("yaml")[0]
    wrong = right.replace("{clients: 5}", "{sampling: all, clients: 5}").replace("{epochs:", "{epoch:")
    Path("wrong.yaml").write_text(wrong)
    with pytest.raises(ConfigError) as caught:
        load(Registry(), file=Path("wrong.yaml"))
    assert f"error: {caught.value.message}\n" in blocks("")[0]
