"""Directories of trial runs."""

from __future__ import annotations

import tempfile

__all__ = ["temporary_directory"]


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """A new directory that goes when its block ends; what is still mapped into memory on Windows stays behind."""
    return tempfile.TemporaryDirectory(prefix="flctl-testing-", ignore_cleanup_errors=True)
