"""Text with a speaker's name before each speech, as plays are printed: a client per role."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader
from flctl.data.files import existing_file, read_utf8, short_name
from flctl.data.options import Columns
from flctl.data.schema import refuse_other_groups
from flctl.data.windows import Vocabulary, stacked
from flctl.errors import DataError, counted

__all__ = ["TextReader", "texts_by_speaker"]

_SPEAKER = re.compile(r"(\S.{0,78}):")
"""A line of at most 80 characters that ends in a colon."""


class TextReader(DatasetReader):
    """Text with a `NAME:` line before each speech: next-character windows by speaker (McMahan et al. 2017)."""

    name = "text"
    extensions = (".txt",)

    class Config(Options):
        """`window`: characters a row. `min_characters`: leave out speakers who say less than this in all.

        `by` may name the group column `speaker`, which is always there.
        """

        window: int = Field(default=80, ge=1, le=100_000)
        min_characters: int = Field(default=0, ge=0)
        by: Columns = ()

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is a .txt whose first line is a speaker's name and a colon."""
        path = Path(source)
        if not (super().reads(source) and path.is_file()):
            return False
        with path.open("rb") as stream:
            start = stream.read(4096).decode("utf-8-sig", "replace").lstrip()
        return _SPEAKER.fullmatch(start.partition("\n")[0].rstrip()) is not None

    def read(self, source: str, seed: int) -> Dataset:
        """x codes [n, window], y int32 codes [n, window] one character on and -1 where padded, group `speaker`.

        A speaker's speeches follow each other in the order of the text, a line end between them; codes are places
        in the sorted characters of the whole text.
        """
        path = existing_file(source)
        refuse_other_groups(self.config.by, ("speaker",), path.name)
        text = read_utf8(path)
        roles = _roles(text, path.name)
        kept = {name: role for name, role in roles.items() if self._is_kept(role)}
        if not kept:
            raise DataError(
                f"{path.name}: no speaker of {len(roles):,} has enough characters", hint="Lower --min-characters."
            )
        vocabulary = Vocabulary.of(text)
        x, y, counts = stacked([role.text for role in kept.values()], vocabulary, self.config.window)
        speaker = np.repeat(np.array(list(kept)), counts)
        return Dataset(
            short_name(source),
            "next-character",
            x,
            y,
            vocabulary.characters,
            groups={"speaker": speaker},
            time_ordered=True,
            notes=self._notes(roles, kept),
        )

    @property
    def _least(self) -> int:
        # One character has no next one.
        return max(int(self.config.min_characters), 2)

    def _is_kept(self, role: _Role) -> bool:
        return role.characters >= self._least

    def _notes(self, roles: Mapping[str, _Role], kept: Mapping[str, _Role]) -> tuple[str, ...]:
        if len(kept) == len(roles):
            return ()
        left_out = sum(role.characters for name, role in roles.items() if name not in kept)
        return (
            f"{len(roles) - len(kept):,} of {counted(len(roles), 'speaker')} with fewer than {self._least:,} "
            "characters "
            f"({left_out:,} in all) left out",
        )


@dataclass(frozen=True, slots=True)
class _Role:
    """Everything that one speaker says."""

    speeches: tuple[str, ...]

    @property
    def characters(self) -> int:
        return sum(map(len, self.speeches))

    @property
    def text(self) -> str:
        return "\n".join(self.speeches)


def texts_by_speaker(text: str, where: str) -> dict[str, str]:
    """Everything that each speaker says, a line end between speeches. Raises DataError for a block without one."""
    return {name: role.text for name, role in _roles(text, where).items()}


def _roles(text: str, where: str) -> dict[str, _Role]:
    speeches: dict[str, list[str]] = {}
    for speaker, speech in _speeches(text, where):
        speeches.setdefault(speaker, []).append(speech)
    if not speeches:
        raise DataError(f"{where} is empty")
    return {speaker: _Role(tuple(said)) for speaker, said in speeches.items()}


def _speeches(text: str, where: str) -> Iterator[tuple[str, str]]:
    """Speaker and speech of each block between blank lines. Raises DataError for a block without a speaker."""
    line = 1
    for block in re.split(r"(\n{2,})", text):
        body = block.lstrip("\n")
        line += block.count("\n") - body.count("\n")
        if body:
            head, _, speech = body.partition("\n")
            match = _SPEAKER.fullmatch(head.rstrip())
            if match is None:
                raise DataError(
                    f"{where}, line {line}: '{head[:60]}' is not a NAME: line before a speech",
                    hint="Write the speaker and a colon on a line, the speech below, and a blank line after it.",
                )
            yield match[1], speech.rstrip("\n")
            line += body.count("\n")
