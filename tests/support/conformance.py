"""For tests of the kit: one check at a time, and what a component that breaks it is told."""

from __future__ import annotations

import pytest

from flctl.testing.component import component_checks
from flctl.testing.conformance import Checks, ConformanceError, conform

COMMON = component_checks("strategy").ids


def only(checks, *ids):
    """Those checks, in their order."""
    return Checks([check for check in checks.checks if check.id in ids])


def caught(checks, subject, which, words):
    """Asserts that check `which` finds `words` (all of them) in a subject, and explains; returns the whole text."""
    with pytest.raises(ConformanceError) as error:
        conform(only(checks, which), subject, "the subject")
    (failed,) = error.value.failures
    assert failed.check.id == which
    told = "\n".join(failed.found)
    for word in [words] if isinstance(words, str) else words:
        assert word in told, told
    text = str(error.value)
    assert failed.check.claim in text
    assert f"[{which}]" in text
    return text


def unmutated(checks, mutants):
    """The checks of a kind for which no component is known that breaks them."""
    return [which for which in checks.ids if which not in COMMON and which not in mutants]
