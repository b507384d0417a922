"""Arguments that are read before the subcommands read theirs: plugins to leave out, and options without a path."""

from __future__ import annotations

from collections.abc import Sequence

from flctl.errors import ConfigError

__all__ = ["DISABLE", "refuse_empty_paths", "take_disabled"]

DISABLE = "--disable-plugin"
PATHS = ("--out", "--csv", "--plot", "--resume")
"""Options that take a path in every command that has them."""


def take_disabled(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Returns the names after each `--disable-plugin` before `--`, and the other arguments. Raises ConfigError if a
    name is missing."""
    names: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return tuple(names), [*rest, word, *words]
        flag, sign, name = word.partition("=")
        if flag != DISABLE:
            rest.append(word)
            continue
        name = name if sign else next(words, "")
        if not name or name.startswith("-"):
            raise ConfigError(f"{DISABLE} needs a name", hint="`flctl plugins list` shows the names.")
        names.append(name)
    return tuple(names), rest


def refuse_empty_paths(arguments: Sequence[str]) -> None:
    """Raises ConfigError for `--out ''` and its like: an empty path would be the current folder."""
    named = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for position, word in enumerate(named):
        flag, sign, value = word.partition("=")
        if flag in PATHS and not (value if sign else named[position + 1] if position + 1 < len(named) else flag):
            raise ConfigError(f"{flag} is empty; expected a path", hint=f"Write {flag} PATH, or leave {flag} out.")
