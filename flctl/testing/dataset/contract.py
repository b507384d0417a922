"""The contract of data set readers."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flctl.data.dataset import Dataset, DatasetReader
from flctl.errors import FlctlError
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, UnaskedError, conform, said
from flctl.testing.dataset.values import faults_of
from flctl.testing.examples import or_examples
from flctl.testing.randomness import global_seed
from flctl.testing.temporary import temporary_directory
from flctl.testing.values import difference

__all__ = ["DATASET", "check_dataset"]


class DatasetSubject:
    """A reader with its options, and the data set that it reads from a source."""

    def __init__(
        self, component: type[DatasetReader], options: Mapping[str, Any], source: str, directory: Path
    ) -> None:
        self.component = component
        self.options = options
        self.source = source
        self.directory = directory
        self.notes: list[str] = []

    def read(self, source: str | None = None, elsewhere: int = 0) -> Dataset:
        """Reads a source (by default the sample) by a new object."""
        with global_seed(elsewhere):
            return self.component.from_options(dict(self.options)).read(source or self.source, 3)

    @cached_property
    def first(self) -> Any:
        """Data set that the reader returns for the sample."""
        return self.read()

    @property
    def dataset(self) -> Dataset:
        """Returns the sample. Raises UnaskedError if it is not a data set."""
        try:
            found = self.first
        except Exception as error:
            raise UnaskedError from error
        if not isinstance(found, Dataset) or any(faults_of(found)):
            raise UnaskedError
        return found

    @property
    def file(self) -> Path | None:
        """The source as a file; None for folders and names."""
        path = Path(self.source)
        return path if path.is_file() else None


def _all() -> Checks:
    checks = component_checks("dataset")
    _add_reads(checks)
    _add_read(checks)
    _add_seed(checks)
    _add_bad(checks)
    _add_written(checks)
    return checks


def check_dataset(
    reader: type[DatasetReader],
    source: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that a reader keeps the contract of `flctl.DatasetReader`; returns the names of the checks that ran.

    `source` is a small sample that it reads with `options`: a file, a folder or a name. Of a file it also reads
    halves and garbage. `skip` are ids of checks that do not apply. Raises ConformanceError.
    """
    with temporary_directory() as directory:
        subject = DatasetSubject(reader, or_examples(options, reader), str(source), Path(directory))
        return conform(DATASET, subject, title_of(reader, "dataset"), skip)


def _add_reads(checks: Checks) -> None:
    @checks.add(
        "reads",
        "reads(source) is True for the sample, False for other sources, and never raises.",
        why="`flctl partition SOURCE` calls every reader in turn; a reader that accepts or fails on a foreign source "
        "blocks the right reader.",
        todo="Check the name (extensions = ('.ext',) does so), then the first bytes; return True or False.",
    )
    def find(s: DatasetSubject) -> Iterator[str]:
        folder = s.directory / "folder"
        folder.mkdir()
        strangers = ("", ".", "no-such-file.xyz", "no/such/folder", str(folder), "a\0b", "http://host/x", "x" * 200)
        if s.component.reads(s.source) is not True:
            yield f"reads({s.source!r:.300}) is {s.component.reads(s.source)!r}"
        for stranger in strangers:
            try:
                answer = s.component.reads(stranger)
            except Exception as error:
                yield f"reads({stranger!r:.40}) raised {said(error)}"
                continue
            if answer is not False:
                yield f"reads({stranger!r:.40}) is {answer!r}"


def _add_read(checks: Checks) -> None:
    @checks.add(
        "read",
        "read returns a Dataset whose columns have equal lengths and the types of its task.",
        why="Schemes, standardisation, models and metrics rely on this: codes are int64 from 0, targets float32.",
        todo="See flctl.Dataset for each field's shape and dtype.",
    )
    def find(s: DatasetSubject) -> Iterator[str]:
        if isinstance(s.first, Dataset):
            yield from faults_of(s.first)
        else:
            yield f"it returned {type(s.first).__name__}, expected a Dataset"


def _add_seed(checks: Checks) -> None:
    @checks.add(
        "same",
        "Reading again returns the same data set under any global random state, and leaves the source unchanged.",
        why="A partition's digest and a resume rest on the data: nothing may be shuffled or drawn without the seed.",
        todo='Keep the order of the source; draw synthetic data from flctl.rng(seed, "...").',
    )
    def find(s: DatasetSubject) -> Iterator[str]:
        before = s.file.read_bytes() if s.file else b""
        differs = difference(s.dataset, s.read(elsewhere=1))
        yield from [differs] if differs else []
        if s.file and s.file.read_bytes() != before:
            yield f"{s.file.name} was changed"


def _add_bad(checks: Checks) -> None:
    @checks.add(
        "bad-sources",
        "A missing, empty, truncated or corrupt source is a DataError or IntegrityError, or a valid data set.",
        why="Files come from any origin. An unexpected exception does not explain the problem, and a declared size "
        "must be compared with the file's length before memory is allocated.",
        todo='Check before you parse, and raise flctl.DataError("what was found, what was expected", hint=...).',
    )
    def find(s: DatasetSubject) -> Iterator[str]:
        if s.file is None:
            return
        whole = s.file.read_bytes()
        noise = np.random.default_rng(6).bytes(max(len(whole), 64))
        cases = {"missing": None, "empty": b"", "cut in half": whole[: len(whole) // 2], "garbage": noise}
        cases |= {"with a byte changed": _changed(whole), "cut by a byte": whole[:-1]}
        for name, content in cases.items():
            path = s.directory / name.replace(" ", "-") / s.file.name
            path.parent.mkdir()
            if content is not None:
                path.write_bytes(content)
            yield from _judged(s, path, name)

    def _changed(whole: bytes) -> bytes:
        middle = len(whole) // 2
        return whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :] if whole else whole


def _judged(s: DatasetSubject, path: Path, name: str) -> Iterator[str]:
    try:
        found = s.read(str(path))
    except FlctlError:
        return
    except Exception as error:
        yield f"a file that is {name}: {said(error)}"
        return
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
    yield from (f"a file that is {name} was read as: {fault}" for fault in faults_of(found))


def _add_written(checks: Checks) -> None:
    @checks.add(
        "written",
        "The sample can be divided among two clients and written.",
        why="Partitioning is the purpose of a reader.",
        todo="Follow the error message.",
    )
    def find(s: DatasetSubject) -> Iterator[str]:
        from flctl.partition.schemes import PARTITIONERS
        from flctl.partition.writer import PartitionSpec, write_partition

        iid = next(scheme for scheme in PARTITIONERS if scheme.name == "iid")
        made = write_partition(s.directory / "p", s.dataset, iid(), PartitionSpec(clients=2, test_fraction=0.2, seed=1))
        if made.train(0)[0].shape[0] == 0:
            yield "the first of two clients has no rows"


DATASET = _all()
