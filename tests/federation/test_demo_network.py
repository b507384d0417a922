"""`flctl demo --network` runs whole, and the tutorial shows its commands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from flctl.cli import demo_network, run
from flctl.cli.demo_network import POLICY, NetworkDemo
from flctl.errors import FlctlError

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


def test_the_demo_ends_when_a_process_that_it_started_has_died(tmp_path, monkeypatch):
    """The error shows the end of its log; before, the demo waited for five minutes."""
    demo = NetworkDemo(tmp_path)
    monkeypatch.setattr(demo_network, "WAIT_SECONDS", 0.0)
    process = SimpleNamespace(poll=lambda: 2, returncode=2)
    demo._processes["train"] = process
    (tmp_path / "train.log").write_text("\n".join(f"line {number}" for number in range(20)))
    with pytest.raises(FlctlError, match="'train' ended with exit code 2") as ended:
        demo._await("the plan to reach trinity", lambda: False)
    assert ended.value.message.endswith("line 18\nline 19")
    assert "line 11\n" not in ended.value.message


def test_the_demo_shows_an_invite_in_one_line(tmp_path, capsys):
    demo = NetworkDemo(tmp_path)
    demo._command(["site", "join", "flctl-invite:" + "x" * 900, "--home", "demo/st-marys"])
    shown = capsys.readouterr().out.strip()
    assert shown == "$ flctl site join flctl-invite:xxxxxxx... --home demo/st-marys"
    assert len(demo.commands[0]) > 900


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
