"""Next characters: each text's continuation, most probable character by most probable character."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flctl.data.encoding import CHARACTERS, Tally
from flctl.data.files import existing_file, read_utf8
from flctl.data.readers.speeches import TextReader, texts_by_speaker
from flctl.data.windows import Vocabulary
from flctl.errors import DataError
from flctl.prediction.outputs import probabilities
from flctl.prediction.predictor import Predictor

__all__ = ["Continued", "Prompts", "continued", "read_prompts"]

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts to continue; `speakers` say them, or are empty."""

    texts: tuple[str, ...]
    speakers: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns beside the predictions."""
        return ("speaker",) if self.speakers else ()


@dataclass(frozen=True, slots=True)
class Continued:
    """Of some texts, from number `first` on: the characters that follow, and their joint probability."""

    first: int
    texts: list[str]
    probability: list[float]
    words: Mapping[str, Sequence[str]]


def read_prompts(source: str) -> Prompts:
    """The texts of a .txt: everything that each speaker says, if it has NAME: lines, else each line that is not blank.

    Raises DataError for a file without text.
    """
    path = existing_file(source)
    text = read_utf8(path)
    if TextReader.reads(source) or _has_speakers(path, text):
        said = texts_by_speaker(text, path.name)
        return Prompts(tuple(said.values()), tuple(said))
    lines = tuple(line for line in text.split("\n") if line.strip())
    if not lines:
        raise DataError(f"{path.name} has no text")
    return Prompts(lines)


def _has_speakers(path: Path, text: str) -> bool:
    """True for a pipe's text, which has no .txt name."""
    return path.suffix != ".txt" and text.lstrip().partition("\n")[0].rstrip().endswith(":")


def continued(
    predictor: Predictor, prompts: Prompts, length: int, tally: Tally, *, refuse: bool
) -> Iterator[Continued]:
    """The next `length` characters of each text, block by block. The model sees at most its training window.

    Characters outside the vocabulary are left out and counted, or with `refuse` raise DataError.
    """
    vocabulary = predictor.fitted.classes
    coder = Vocabulary.of("".join(vocabulary))
    for first in range(0, len(prompts.texts), BLOCK):
        texts = prompts.texts[first : first + BLOCK]
        codes = [_codes(text, first + position, coder, tally, refuse=refuse) for position, text in enumerate(texts)]
        tally.rows += len(texts)
        follows, chance = _follow(predictor, codes, length)
        said = ["".join(vocabulary[code] for code in row) for row in follows.tolist()]
        words = {"speaker": prompts.speakers[first : first + BLOCK]} if prompts.speakers else {}
        yield Continued(first, said, chance.tolist(), words)


def _codes(text: str, row: int, coder: Vocabulary, tally: Tally, *, refuse: bool) -> npt.NDArray[np.int32]:
    known = set(coder.characters)
    unknown = [letter for letter in text if letter not in known]
    if unknown and refuse:
        raise DataError(
            f"text {row} has the character {unknown[0]!r}, which training never had",
            hint="Correct it, or use --unseen zeros: such characters are left out.",
        )
    for letter in unknown:
        tally.add_unseen(CHARACTERS, letter, 1)
    kept = "".join(letter for letter in text if letter in known) if unknown else text
    if not kept:
        raise DataError(f"text {row} has no character of the vocabulary")
    return coder.encode(kept)


def _follow(
    predictor: Predictor, codes: Sequence[npt.NDArray[np.int32]], length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(Codes [n, length], joint probability [n]) of the most probable continuation, one character after the other."""
    window = predictor.fitted.shape[0]
    follows, chance = np.zeros((len(codes), length), np.int64), np.ones(len(codes))
    seen = [row[-window:].astype(np.int64) for row in codes]
    for position in range(length):
        sizes = np.array([len(row) for row in seen])
        for size in np.unique(sizes):  # texts of one length share a batch, so that nothing is padded
            rows = np.flatnonzero(sizes == size)
            code, probability = probabilities(predictor.logits(np.stack([seen[row] for row in rows])))
            follows[rows, position] = code
            chance[rows] *= probability.max(axis=1)
        seen = [np.append(row, follows[index, position])[-window:] for index, row in enumerate(seen)]
    return follows, chance
