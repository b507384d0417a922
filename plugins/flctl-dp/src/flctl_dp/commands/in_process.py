"""Commands of flctl run within another command, in the same process and without their output."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from flctl import FlctlError

__all__ = ["in_process"]


def in_process(root: Any) -> Callable[[Sequence[str]], None]:
    """Returns a function that runs a command of `root`, the command line of flctl, given as words.

    It raises what the command raises, and FlctlError if the command ends with an exit code other than 0.
    """

    def run(words: Sequence[str]) -> None:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            code = root.main(args=list(words), prog_name="flctl", standalone_mode=False)
        if code:
            last = " ".join(said.getvalue().strip().splitlines()[-3:])[-600:]
            raise FlctlError(f"flctl {words[0]} ended with exit code {code}: {last}")

    return run
