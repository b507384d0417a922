"""`flctl demo --network` runs whole, and the tutorial shows its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from flctl.cli import run
from flctl.cli.demo_network import POLICY

TUTORIAL = (Path(__file__).resolve().parents[2] / "docs" / "federation-tutorial.md").read_text(encoding="utf-8")


def shown_commands():
    """The commands of the tutorial, but for the demo's own."""
    found = [shlex.split(line) for line in re.findall(r"^\$ (flctl .*)$", TUTORIAL, re.MULTILINE)]
    return [words for words in found if words[:2] != ["flctl", "demo"]]


def as_shown(command, folder):
    """A command of the demo with the tutorial's names for its folder, port, invite, words and run."""
    words = [word.replace(folder.as_posix(), "demo") for word in shlex.split(command)]
    words = [re.sub(r"^https://127.0.0.1:[0-9]+$", "https://127.0.0.1:8443", word) for word in words]
    words = ["LINE" if word.startswith("flctl-invite:") else word for word in words]
    for at, word in enumerate(words):
        if word == "--words":
            words[at + 1] = "WORDS"
        if word in ("review", "approve"):
            words[at + 1] = "RUN"
    return words


def test_the_tutorial_shows_the_policy_of_the_demo():
    assert POLICY in TUTORIAL


@pytest.mark.slow
def test_the_demo_trains_at_sites_with_the_bits_of_a_simulation_and_the_tutorial_shows_its_commands(tmp_path, capsys):
    folder = tmp_path / "demo"
    assert run(["demo", "--network", "--out", str(folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["model"] == data["twin"]
    ran = [as_shown(command, folder) for command in data["commands"]]
    assert [words for words in shown_commands() if words not in ran] == []
    kinds = {tuple(words[1:3]) for words in ran}
    assert kinds == {tuple(words[1:3]) for words in shown_commands()} | {("train", "demo/twin")}
    rows = (folder / "trinity" / "data" / "x.npy").read_bytes()[128:]
    sealed = [path.read_bytes() for path in (folder / "operator" / "hub").rglob("*") if path.is_file()]
    assert not any(rows[at : at + 64] in text for text in sealed for at in (0, 4096))
