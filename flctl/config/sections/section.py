"""The base of a configuration's sections: frozen, with an error for keys that would have no effect.

A key "has no effect" if another key switches it off, as `momentum` under Adam. Setting such a key to anything but its
neutral default (0, false, null) is an error, because a sweep over it would compare equal runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from flctl.component import Options

__all__ = ["IDLE_ERROR", "KEY_ERROR", "Reasons", "Section", "about", "without"]

IDLE_ERROR = "no_effect"
KEY_ERROR = "about_key"
Reasons = dict[str, str]


class Section(Options):
    """A section whose keys can be switched off by other keys."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {}
    """Defaults that are allowed even if the key is switched off, beside 0, false and null."""

    def idle(self) -> Reasons:
        """Returns the keys without effect under these values, each with the reason."""
        return {}

    @model_validator(mode="after")
    def _refuse_idle(self) -> Self:
        reasons = {
            name: reason for name, reason in self.idle().items() if name in self.model_fields_set and self._claims(name)
        }
        if reasons:
            sentences = "; ".join(f"{name} has no effect {reason}" for name, reason in reasons.items())
            raise PydanticCustomError(IDLE_ERROR, "{sentences}", {"sentences": sentences, "reasons": reasons})
        return self

    def _claims(self, name: str) -> bool:
        value = getattr(self, name)
        if value != type(self).model_fields[name].default:
            return True
        return bool(value) and value != self.NEUTRAL.get(name)


def without(names: tuple[str, ...], reason: str) -> Reasons:
    """Returns the same reason for each of these keys."""
    return dict.fromkeys(names, reason)


def about(key: str, sentence: str, hint: str) -> PydanticCustomError:
    """Returns an error of a section that is reported at one of its keys; `{at}` in the texts is the section's name."""
    return PydanticCustomError(KEY_ERROR, "{sentence}", {"key": key, "sentence": sentence, "hint": hint})
