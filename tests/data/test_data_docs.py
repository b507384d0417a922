"""docs/data.md: its examples run one after another as they stand, and it names every option of every reader."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from flctl.cli import run
from flctl.data import READERS
from flctl.partition.store import Partition

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TITLES = {
    "csv": "CSV and TSV", "arff": "ARFF", "parquet": "Parquet and Arrow", "arrow": "Parquet and Arrow", "json": "JSON",
    "npz": "npz", "npy": "npy", "idx": "IDX: MNIST and its family", "cifar": "CIFAR",
    "image-folder": "Folders of pictures", "text": "Text with speakers", "leaf": "LEAF", "synthetic": "synthetic",
}  # fmt: skip


def commands(text: str) -> list[str]:
    """The commands of the page's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_option_is_in_its_readers_section(reader: type) -> None:
    section = SECTIONS.get(TITLES.get(reader.name, "Built-in data sets"), "")
    assert reader.name in PAGE
    missing = [name for name in reader.Config.model_fields if f"`--{name.replace('_', '-')}`" not in section]
    # Further sources have no flag: they are arguments.
    assert set(missing) <= {"more"}


def prepare(title: str, folder: Path) -> None:
    """Makes the files that a section shows: text as it stands, the rest by running its Python."""
    for name, content in re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL):
        (folder / name).write_text(content, encoding="utf-8")
    for code in re.findall(r"^```python\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL):
        exec(compile(code, "docs/data.md", "exec"), {})


@pytest.mark.parametrize(("title", "command"), [(title, c) for title, text in SECTIONS.items() for c in commands(text)])
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], title: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(title, tmp_path)
    words = shlex.split(command)
    if "data/" in command:
        root = os.environ.get("FLCTL_TEST_DATA")
        if not root:
            pytest.skip("FLCTL_TEST_DATA does not name the folder of real data sets")
        (tmp_path / "data").symlink_to(Path(root).resolve())
    assert words[0] == "flctl"
    assert run([*words[1:], "--no-report"]) == 0, capsys.readouterr().err
    assert sum(Partition.open(tmp_path / words[words.index("--out") + 1]).counts.sum(axis=0)) > 0


def test_there_are_examples_for_every_section() -> None:
    without = [title for title, text in SECTIONS.items() if not commands(text)]
    assert without == ["What is read", "Untrusted files"]
