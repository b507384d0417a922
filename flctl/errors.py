"""The error tree: every error a user can meet, with what to do about it and its exit code."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import ClassVar

__all__ = [
    "ConfigError",
    "DataError",
    "DivergenceError",
    "FlctlError",
    "IncompatibleError",
    "IntegrityError",
    "MissingExtraError",
    "PluginError",
    "PrivacyBudgetError",
    "ProtocolError",
    "RoundFailedError",
    "RoundLostError",
    "StorageError",
    "closest",
    "command_line",
    "counted",
    "plain_words",
    "suggest",
]


class FlctlError(Exception):
    """A failure that is explained to the user: what was found, what was expected, and what to do.

    `hint` is one sentence on what to do; `exit_code` is what the process ends with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def kind(self) -> str:
        """The error's name as `--json` reports it, for example `config`."""
        return type(self).__name__.removesuffix("Error").lower()


class StorageError(FlctlError):
    """The file system said no: read-only, full, or no permission."""


class RoundFailedError(FlctlError):
    """More clients failed in a round than `max_failures` allows."""


class DivergenceError(FlctlError):
    """The model or its loss stopped being finite."""


class ConfigError(FlctlError):
    """A flag, key or value that cannot be used."""

    exit_code = 2


class DataError(FlctlError):
    """Input data that cannot be used as asked; nothing was written."""

    exit_code = 2


class PluginError(FlctlError):
    """A component that is unknown, clashes with another, or whose plugin does not load."""

    exit_code = 2


class IncompatibleError(FlctlError):
    """Parts that cannot be used together, or a checkpoint that belongs to something else."""

    exit_code = 3


class ProtocolError(FlctlError):
    """A message that breaks the protocol; the round was refused and nothing was revealed."""

    exit_code = 3


class RoundLostError(ProtocolError):
    """A round that gave no sum and cannot be repeated; the run keeps its model and continues with the next round."""


class PrivacyBudgetError(FlctlError):
    """The next release would exceed the privacy budget."""

    exit_code = 4


class MissingExtraError(FlctlError):
    """An optional package is needed and not installed."""

    exit_code = 5


class IntegrityError(FlctlError):
    """Bytes on disk are not what they claim to be: a wrong digest, a bad header, a truncated file."""

    exit_code = 6


def closest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known word that is spelt most like `word`; None if no word reaches `likeness` (0 to 1)."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=likeness)), None)


def suggest(name: str, known: Iterable[str]) -> str | None:
    """A did-you-mean sentence, or None when nothing is close."""
    close = closest(name, known)
    return f"Did you mean '{close}'?" if close else None


PLAIN_WORDS = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer\b.*", "expected a whole number"),
    (r"Input should be a valid number\b.*", "expected a number"),
    (r"Input should be greater than or equal to (\S+)", r"expected at least \1"),
    (r"Input should be greater than (\S+)", r"expected more than \1"),
    (r"Input should be less than or equal to (\S+)", r"expected at most \1"),
    (r"Input should be less than (\S+)", r"expected less than \1"),
    (r"Input should be (?=')", "expected "),
)
"""Patterns of the validation library's messages, and our words for them."""


def plain_words(message: str) -> str:
    """A message of the validation library in the words of our own."""
    for pattern, words in PLAIN_WORDS:
        message = re.sub(pattern, words, message)
    return message


def command_line(*words: object) -> str:
    """Returns a command line to copy: words are quoted for the shell if they need it, paths have forward slashes."""
    return shlex.join(word.as_posix() if isinstance(word, PurePath) else str(word) for word in words)


def counted(count: float, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun in agreement: "1 client", "1,234 clients", "7.5 clients"."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:,.0f}" if count == int(count) else f"{count:g}"
    return f"{number} {noun if count == 1 else plural or noun + 's'}"
