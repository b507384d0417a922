"""Arguments that must be known before the subcommands are: which plugins to leave out."""

from __future__ import annotations

from collections.abc import Sequence

from flctl.errors import ConfigError

__all__ = ["DISABLE", "take_disabled"]

DISABLE = "--disable-plugin"


def take_disabled(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """(The names after `--disable-plugin`, wherever before `--` it stands; the other arguments).

    Raises ConfigError when the name is missing.
    """
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
