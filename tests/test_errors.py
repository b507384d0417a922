"""Words of messages: numbers agree with their nouns, and commands can be copied into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from flctl.errors import command_line, counted


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 clients"), (1, "1 client"), (1.0, "1 client"), (1234, "1,234 clients"), (7.5, "7.5 clients")],
)
def test_a_number_agrees_with_its_noun(count: float, words: str) -> None:
    assert counted(count, "client") == words


def test_an_irregular_plural_is_given() -> None:
    assert [counted(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]


def test_a_command_reads_back_as_its_words() -> None:
    words = ("flctl", "runs", "replay", Path("my runs") / "it's", "--round", 3, "--client", "ward 7")
    line = command_line(*words)
    assert shlex.split(line) == ["flctl", "runs", "replay", "my runs/it's", "--round", "3", "--client", "ward 7"]
    assert command_line("flctl", "eval", Path("runs/digits")) == "flctl eval runs/digits"
