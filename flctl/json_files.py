"""JSON files that flctl wrote: read up to a size limit, parsed strictly, and checked for their format version."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flctl.errors import IncompatibleError, IntegrityError

__all__ = ["JsonFormat"]


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A kind of JSON file, whose content is one object.

    `version` is the value of its key "format", such as "flctl-run/1"; None if it has no such key. `hint` says how to
    repair a file that is missing or damaged. `limit` is the largest size that is read, in bytes.

    >>> JsonFormat("flctl-run/1", "Restore it.").parse(b'{"format": "flctl-run/1"}', "run.json")
    {'format': 'flctl-run/1'}
    """

    version: str | None
    hint: str
    limit: int = 64 << 20

    def read(self, path: Path, name: str | None = None) -> dict[str, Any]:
        """Returns the content of a file; `name` stands for its path in errors.

        Raises IntegrityError if the file is missing, too large or damaged, IncompatibleError if its format is that of
        another version of flctl.
        """
        name = name or str(path)
        if not path.is_file():
            raise IntegrityError(f"{name} is missing", hint=self.hint)
        with path.open("rb") as file:
            return self.parse(file.read(self.limit + 1), name)

    def parse(self, data: bytes, name: str) -> dict[str, Any]:
        """Returns the content of `data`, the first bytes of a file; a file is too large if they exceed the limit.

        Raises IntegrityError and IncompatibleError as `read` does.
        """
        if len(data) > self.limit:
            raise IntegrityError(f"{name} is too large: at most {self.limit:,} bytes are read", hint=self.hint)
        try:
            value = json.loads(data, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self.damaged(name, f"not JSON ({error})") from error
        if not isinstance(value, dict):
            raise self.damaged(name, "not a JSON object")
        self._check_version(value.get("format"), name)
        return value

    def damaged(self, name: str, reason: str) -> IntegrityError:
        """Returns the error to raise for content that contradicts itself."""
        return IntegrityError(f"{name} is damaged: {reason[:300]}", hint=self.hint)

    def _check_version(self, found: Any, name: str) -> None:
        if self.version is None or found == self.version:
            return
        family = self.version.rpartition("/")[0]
        if isinstance(found, str) and re.fullmatch(rf"{re.escape(family)}/\d{{1,9}}", found):
            raise IncompatibleError(
                f"{name} has the format '{found}'; this version of flctl reads '{self.version}'",
                hint="Use the version of flctl that wrote it.",
            )
        raise self.damaged(name, f"'format' is not '{self.version}'")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result
