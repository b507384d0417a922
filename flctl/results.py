"""The stream that results are written to: standard output, which code of users and plugins must not print to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from typing import TextIO

__all__ = ["reserved_stdout", "results"]

_stream: ContextVar[TextIO | None] = ContextVar("results", default=None)


def results() -> TextIO:
    """The stream for results and JSON envelopes."""
    return _stream.get() or sys.stdout


@contextmanager
def reserved_stdout(stream: TextIO | None = None) -> Iterator[None]:
    """Reserves standard output, or `stream`, for `results`; `print` writes to standard error inside.

    Model files, plugins and libraries print as they like, and one such line would spoil a JSON envelope.
    """
    token = _stream.set(stream or results())
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stream.reset(token)
