"""Ids of tasks, which follow from their content."""

from __future__ import annotations

from flctl.federation.identity.canonical import digest

__all__ = ["is_task_id", "task_id"]

_DIGITS = frozenset("0123456789abcdef")


def task_id(plan: str, round_number: int, phase: str, attempt: int, site: str, plaintext_digest: str) -> str:
    """Returns the SHA-256 over everything that identifies a task.

    A coordinator that repeats a round after a crash posts the same tasks, and gets the replies that are
    there.
    """
    return digest(["flctl/task/1", plan, round_number, phase, attempt, site, plaintext_digest])


def is_task_id(text: str) -> bool:
    """True for 64 lower-case hexadecimal digits, as SHA-256 digests of tasks and blobs are written.

    >>> is_task_id("ab" * 32), is_task_id("AB" * 32), is_task_id("..%2f")
    (True, False, False)
    """
    return len(text) == 64 and _DIGITS.issuperset(text)
