"""The README's commands run word by word, and print what the README says that they print."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flctl.cli import run

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELISION = "..."


@dataclass(frozen=True)
class Shown:
    """A command of the README and the lines that stand under it."""

    command: str
    output: tuple[str, ...]


def shown_commands(text: str) -> list[Shown]:
    """Every `$ flctl ...` in the console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            command, *output = part.rstrip("\n").split("\n")
            found.append(Shown(" ".join(command.split()), tuple(output)))
    return found


def normal(line: str) -> str:
    """The line without its numbers, which may differ in their last digits on another machine."""
    return " ".join(re.sub(r"\d+(?:[.,]\d+)*|(?<!\w)·(?!\w)", "#", line).split())


def write_census(path: Path) -> None:
    """A file with the columns that the README's example names."""
    rng = np.random.default_rng(5)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("age", "workclass", "occupation", "sex", "hours", "income"))
        for _ in range(400):
            age, hours = int(rng.integers(17, 80)), int(rng.integers(10, 60))
            job = str(rng.choice(["clerk", "farmer", "?"]))
            income = ">50K" if age + hours + 20 * rng.normal() > 90 else "<=50K"
            row = (age, rng.choice(["private", "state", "self"]), job, rng.choice(["f", "m"]), hours, income)
            writer.writerow(row)


def prepare(folder: Path) -> None:
    """The files that the README's commands expect: the reader's own table, and the plugin that it prints."""
    write_census(folder / "census.csv")
    plugin = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert plugin is not None
    (folder / "trimmed_mean.py").write_text(plugin[1], encoding="utf-8")


def printed_by(command: str) -> list[str]:
    """The lines that a command prints on stdout and stderr; it has to succeed."""
    program, *arguments = shlex.split(command)
    assert program == "flctl"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = run(arguments)
    assert code == 0, f"{command}\n{text.getvalue()}"
    return text.getvalue().splitlines()


def test_the_readme_shows_the_main_commands() -> None:
    words = [shown.command.split()[1] for shown in shown_commands(README)]
    assert words[:3] == ["partition", "train", "eval"]
    assert len(words) >= 7


@pytest.mark.slow
def test_the_commands_print_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    prepare(tmp_path)
    for shown in shown_commands(README):
        printed = [normal(line) for line in printed_by(shown.command)]
        for line in map(normal, shown.output):
            if line != ELISION:
                assert line in printed, f"{line!r} is not printed by `{shown.command}`, or not in this order"
                printed = printed[printed.index(line) + 1 :]


def test_the_demo_runs_the_readme_s_three_commands() -> None:
    from flctl.cli.demo import COMMANDS

    expected = [command.format(parts="parts/digits", run="runs/digits") for command in COMMANDS]
    assert [shown.command for shown in shown_commands(README)[:3]] == expected


def test_the_readme_names_every_strategy_scheme_and_model() -> None:
    from flctl.plugins.registry import Registry

    registry = Registry()
    for kind in ("strategy", "partitioner", "model"):
        missing = [name for name in registry.offers(kind) if f"`{name}`" not in README]
        assert missing == [], f"{kind}: {missing}"


def test_the_plugin_guide_shows_the_same_plugin() -> None:
    plugin = re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert plugin is not None
    assert plugin[1] in (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
