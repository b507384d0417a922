"""User code by its SHA-256: it arrives in quarantine, a person reads and approves it, and the worker gets those bytes.

Nothing is ever imported from the quarantine. A file is read once: the bytes that were hashed are the bytes that are
handed to the worker, so that a change on disk in between has no effect.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flctl.atomic import write_file
from flctl.errors import ConfigError
from flctl.federation.reasons import Reason, Refused

__all__ = ["MOST_CODE", "CodeFacts", "CodeStore", "code_facts", "difference"]

MOST_CODE = 1 << 20
"""Largest file of user code."""
SUSPECTS = frozenset(
    """
    open exec eval compile __import__ import_module socket urlopen request system popen Popen run call check_output
    spawn fork getattr setattr globals load loads read_text write_text read_bytes write_bytes unlink rmtree environ
    """.split()  # noqa: SIM905
)
"""Names that a reader should look at. A hint for a person, not a proof: code can reach any of them in other ways."""


@dataclass(frozen=True)
class CodeFacts:
    """Facts of a source file for its reader: lines, imported modules, and (line, name) of calls in `SUSPECTS`."""

    lines: int
    imports: tuple[str, ...]
    calls: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class CodeStore:
    """Folders of a site: `quarantine` for code that arrived, `approved` for code that a person approved; one file
    SHA256.py each."""

    quarantine: Path
    approved: Path

    def receive(self, data: bytes) -> str:
        """Keeps code that arrived, and returns its SHA-256. Raises Refused (`blob-size`) above 1 MiB."""
        if len(data) > MOST_CODE:
            raise Refused(Reason.BLOB_SIZE)
        digest = hashlib.sha256(data).hexdigest()
        write_file(self._file(self.quarantine, digest), data)
        return digest

    def waiting(self, digest: str) -> bytes | None:
        """Returns code that arrived, None if it is not there. Raises Refused (`code-changed`) for other bytes."""
        return _read(self._file(self.quarantine, digest), digest)

    def approve(self, digest: str) -> bytes:
        """Copies code from the quarantine to the approved code, and returns it. Raises ConfigError if it has not
        arrived, Refused (`code-changed`) if it was changed."""
        data = self.waiting(digest) or _read(self._file(self.approved, digest), digest)
        if data is None:
            raise ConfigError(
                f"the code {digest[:12]}... has not arrived", hint="Add it: flctl site review RUN --code FILE"
            )
        write_file(self._file(self.approved, digest), data)
        return data

    def load(self, digest: str) -> bytes:
        """Returns approved code for a worker: read once, then hashed.

        Raises Refused (`code-not-approved`, `code-changed`).
        """
        data = _read(self._file(self.approved, digest), digest)
        if data is None:
            raise Refused(Reason.CODE_NOT_APPROVED)
        return data

    def intact(self) -> frozenset[str]:
        """Returns the digests of approved files whose bytes are still those that were approved."""
        names = [path.stem for path in self.approved.glob("*.py")] if self.approved.is_dir() else []
        return frozenset(name for name in names if self._is_intact(name))

    def _is_intact(self, digest: str) -> bool:
        try:
            return _read(self._file(self.approved, digest), digest) is not None
        except Refused:
            return False

    def _file(self, folder: Path, digest: str) -> Path:
        return folder / f"{digest}.py"


def code_facts(data: bytes) -> CodeFacts:
    """Returns the imports and the calls of a source file that its reader should look at. Raises ConfigError if it is
    not Python."""
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError) as error:
        raise ConfigError("the code is not Python", hint="Ask the coordinator for the file that was hashed.") from error
    imports = sorted({name for node in ast.walk(tree) for name in _imports(node)})
    calls = sorted({(node.lineno, _called(node)) for node in ast.walk(tree) if isinstance(node, ast.Call)})
    return CodeFacts(data.count(b"\n") + 1, tuple(imports), tuple(call for call in calls if call[1] in SUSPECTS))


def difference(before: bytes, after: bytes) -> list[str]:
    """Returns the lines that differ, as a unified diff."""
    old, new = (text.decode(errors="replace").splitlines() for text in (before, after))
    return list(difflib.unified_diff(old, new, "approved before", "now", lineterm="", n=2))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield "." * node.level + (node.module or "")


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _read(path: Path, digest: str) -> bytes | None:
    """Returns the bytes of a file, hashed after the one read. Raises Refused (`code-changed`) for others."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_CODE + 1)
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise Refused(Reason.CODE_CHANGED)
    return data
