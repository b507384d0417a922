"""LEAF's JSON: users, their numbers of samples, and their data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flctl.component import Options
from flctl.data.dataset import Dataset, DatasetReader, Split
from flctl.data.examples import refuse_nonfinite
from flctl.data.files import existing, list_folder, read_utf8, short_name
from flctl.data.options import Columns, Pixels, Task
from flctl.data.precision import column_offsets, with_offsets
from flctl.data.schema import refuse_other_groups
from flctl.data.splits import SplitName, split_of_word
from flctl.data.targets import encode
from flctl.data.windows import Vocabulary
from flctl.errors import DataError, IntegrityError, counted
from flctl.types import PADDING, FloatArray

__all__ = ["LeafReader"]

_KEYS = re.compile(rb'"(users|num_samples|user_data)"\s*:')


class LeafReader(DatasetReader):
    """LEAF JSON, one file or a folder with train/, test/ and val/ (Caldas et al. 2018): numbers or text.

    A text sample, a string and the one character after it, becomes a row of codes whose targets are all padding (-1)
    but the last: exactly LEAF's task, predict the character after these.
    """

    name = "leaf"
    extensions = (".json",)

    class Config(Options):
        """`task`: what numbers in y mean (auto: whole numbers are labels). `image_size`: HEIGHTxWIDTH of flat
        pictures, for example 28x28 for FEMNIST. `by` may name the group column `user`, which is always there.
        """

        task: Task = "auto"
        image_size: Pixels | None = None
        by: Columns = ()

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is a .json file, or a folder with such files or with train/ of such files."""
        path = Path(source)
        if not path.is_dir():
            return super().reads(source)
        # Many folders of data have some .json about them; LEAF's begins with its keys.
        files = _json_files(path)
        return bool(files) and _KEYS.search(_start_of(files[0])) is not None

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, ...] or codes [n, window]; y codes, numbers or int32 [n, window]; group `user`."""
        path = existing(source)
        refuse_other_groups(self.config.by, ("user",), path.name)
        train = _load(_json_files(path) if path.is_dir() else (path,))
        if not train:
            raise DataError(f"{path.name} holds no samples")
        held_out, notes = _held_out(path)
        parts = [train, held_out["test"], held_out["validation"]]
        text = isinstance(train[0].x[0], str)
        data = self._text(short_name(source), *parts) if text else self._numbers(short_name(source), *parts)
        return replace(data, notes=(*data.notes, *notes))

    def _numbers(self, name: str, *parts: Sequence[_User]) -> Dataset:
        offsets = None if self.config.image_size else _offsets(parts[0])
        x = [self._examples(users, offsets) for users in parts]
        values = np.array([y for users in parts for user in users for y in user.labels()])
        whole = values.dtype.kind in "iub" or (values.dtype.kind == "f" and bool((values == np.floor(values)).all()))
        target = encode(values, "classification" if whole and self.config.task == "auto" else self.config.task, "y")
        y = np.split(target.y, np.cumsum([len(part) for part in x])[:-1])
        for kind, part in zip(("test", "validation"), x[1:], strict=True):
            if len(part) and part.shape[1:] != x[0].shape[1:]:
                raise DataError(f"{name}: training samples are {x[0].shape[1:]} and {kind} samples {part.shape[1:]}")
        splits = [Split(a, b, {"user": _owners(users)}) for a, b, users in zip(x, y, parts, strict=True)]
        return with_offsets(_of_splits(Dataset(name, target.task, x[0], y[0], target.classes), splits), offsets)

    def _examples(self, users: Sequence[_User], offsets: FloatArray | None) -> npt.NDArray[np.float32]:
        if not users:
            return np.empty((0, 0), np.float32)
        parts = [user.array(offsets) for user in users]
        for user, part in zip(users, parts, strict=True):
            if part.shape[1:] != parts[0].shape[1:]:
                first = f"{parts[0].shape[1:]} of user '{users[0].name}'"
                raise DataError(f"{user.where}: samples of shape {part.shape[1:]}, and {first}")
        return self._as_pictures(np.concatenate(parts))

    def _as_pictures(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if self.config.image_size is None:
            return x
        height, width = self.config.image_size
        channels, rest = divmod(int(np.prod(x.shape[1:])), height * width)
        if rest or channels not in (1, 3):
            raise DataError(f"samples of shape {x.shape[1:]} are not pictures of {height}x{width}")
        return x.reshape(len(x), channels, height, width)

    def _text(self, name: str, *parts: Sequence[_User]) -> Dataset:
        everybody = [user for users in parts for user in users]
        for user in everybody:
            user.refuse_other_than_text()
        vocabulary = Vocabulary.of("".join(word for user in everybody for word in (*user.x, *user.y)))
        window = max(len(sample) for user in everybody for sample in user.x)
        splits = [Split(*_next_characters(users, vocabulary, window), {"user": _owners(users)}) for users in parts]
        train = splits[0]
        data = Dataset(name, "next-character", train.x, train.y, vocabulary.characters, time_ordered=True)
        return _of_splits(data, splits)


@dataclass(frozen=True, slots=True)
class _User:
    """One user's samples as the file has them."""

    file: str
    name: str
    x: list[Any]
    y: list[Any]

    @property
    def where(self) -> str:
        return f"{self.file}, user '{self.name}'"

    def numbers(self) -> FloatArray:
        """x [n, ...]. Raises DataError for samples that are no numbers, or not equally long."""
        try:
            x = np.array(self.x, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.where}: x is not a list of samples of numbers, all equally long") from error
        return x.reshape(-1, 1) if x.ndim == 1 else x

    def array(self, offsets: FloatArray | None = None) -> npt.NDArray[np.float32]:
        """x float32 [n, ...] less `offsets`. Raises DataError for samples that are no finite numbers."""
        x = self.numbers()
        with np.errstate(over="ignore"):
            fits = offsets is not None and x.shape[1:] == offsets.shape
            narrow = (x - np.asarray(offsets) if fits else x).astype(np.float32)
        refuse_nonfinite(narrow, self.where)
        return narrow

    def labels(self) -> list[int | float | str]:
        """y as it is. Raises DataError where it is not a number or a word a sample."""
        for index, y in enumerate(self.y):
            if not isinstance(y, (int, float, str)):
                raise DataError(f"{self.where}, sample {index}: y is {y!r:.40}, expected a number or a word")
        return self.y

    def refuse_other_than_text(self) -> None:
        """Raises DataError for a sample that is not a string with one next character."""
        for index, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            if not (isinstance(x, str) and x and isinstance(y, str) and len(y) == 1):
                raise DataError(
                    f"{self.where}, sample {index}: expected a string x and one character y, found {y!r:.40}",
                    hint="The only text task that is read is next character.",
                )


def _start_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4096)


def _json_files(folder: Path) -> tuple[Path, ...]:
    inner = folder / "train"
    return list_folder(inner if inner.is_dir() else folder, LeafReader.extensions)


def _held_out(folder: Path) -> tuple[dict[SplitName, list[_User]], tuple[str, ...]]:
    """The users of folders beside `train` by part, and a note on validation rows. These are the test part if there is
    no other."""
    found: dict[SplitName, list[_User]] = {"test": [], "validation": []}
    if not (folder / "train").is_dir():
        return found, ()
    notes = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = split_of_word(inner.name)
        if split in found:
            found[split] += _load(list_folder(inner, LeafReader.extensions))
            notes += [inner.name] if split == "validation" else []
    if not found["validation"]:
        return found, ()
    if found["test"]:
        return found, (f"{', '.join(notes)}/: used as the source's validation rows, because of the folder's name",)
    note = f"{', '.join(notes)}/: validation rows, used as the source's test rows"
    return {"test": found["validation"], "validation": []}, (note,)


def _of_splits(data: Dataset, splits: Sequence[Split]) -> Dataset:
    """`data` with the users of its rows, and with the test and validation part that have rows."""
    train, test, validation = (split if len(split.x) else None for split in splits)
    return replace(data, groups=dict(train.groups) if train else {}, test=test, validation=validation)


def _load(files: Sequence[Path]) -> list[_User]:
    """The users of all files in order. Raises DataError for a user in two files."""
    users = [user for file in files for user in _users(file)]
    seen: dict[str, _User] = {}
    for user in users:
        if user.name in seen:
            raise DataError(f"{user.where} is in {seen[user.name].file} too")
        seen[user.name] = user
    return [user for user in users if user.x]


def _users(path: Path) -> Iterator[_User]:
    content = _parse(path)
    names, counts, data = (content.get(key) for key in ("users", "num_samples", "user_data"))
    if not (isinstance(names, list) and isinstance(counts, list) and isinstance(data, dict)):
        raise DataError(f"{path.name} is not in LEAF's JSON format: expected users, num_samples and user_data")
    if len(names) != len(counts) or {str(name) for name in names} != set(data):
        raise IntegrityError(
            f"{path.name}: {counted(len(names), 'user')}, sample counts of {len(counts)} and data of {len(data)}"
        )
    for name, count in zip(names, counts, strict=True):
        yield _user(path.name, str(name), count, data[str(name)])


def _user(file: str, name: str, count: Any, data: Any) -> _User:
    x, y = (data.get("x"), data.get("y")) if isinstance(data, dict) else (None, None)
    if not (isinstance(x, list) and isinstance(y, list)):
        raise DataError(f"{file}, user '{name}': expected lists x and y")
    if not len(x) == len(y) == count:
        raise IntegrityError(f"{file}, user '{name}': {count} samples declared, {len(x)} in x and {len(y)} in y")
    return _User(file, name, x, y)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_utf8(path))
    except json.JSONDecodeError as error:
        raise IntegrityError(
            f"{path.name}, line {error.lineno}, column {error.colno}: {error.msg}",
            hint="The file may be truncated: fetch it again.",
        ) from error
    # Numbers of thousands of digits, and lists in lists in lists.
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _offsets(users: Sequence[_User]) -> FloatArray | None:
    """Offsets of numbers that float32 merges, from the first users' samples."""
    parts = [user.numbers() for user in users[:64]]
    alike = all(part.shape[1:] == parts[0].shape[1:] for part in parts)
    return column_offsets(np.concatenate(parts)) if alike else None


def _owners(users: Sequence[_User]) -> npt.NDArray[Any]:
    return np.repeat(np.array([user.name for user in users]), [len(user.y) for user in users])


def _next_characters(
    users: Sequence[_User], vocabulary: Vocabulary, window: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    samples = [(x, y) for user in users for x, y in zip(user.x, user.y, strict=True)]
    x = np.zeros((len(samples), window), vocabulary.dtype)
    y = np.full((len(samples), window), PADDING, np.int32)
    for row, (text, following) in enumerate(samples):
        codes = vocabulary.encode(text + following)
        x[row, : len(text)] = codes[:-1]
        y[row, len(text) - 1] = codes[-1]
    return x, y
