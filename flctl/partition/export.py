"""One client's rows as a file of its own, as its site would have it: raw values, readable by `flctl partition`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.data.extras import optional
from flctl.errors import ConfigError, DataError
from flctl.partition.store import Partition
from flctl.types import PADDING

__all__ = ["FORMATS", "Part", "export_all", "export_client", "file_names"]

Part = Literal["all", "train", "validation", "test"]
FORMATS = (".npz", ".csv", ".parquet", ".txt")
INDEX = "index.csv"
CELLS = 1 << 17
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_SPEAKER = re.compile(r"\S.{0,78}")


@dataclass(frozen=True, slots=True)
class _Site:
    """The rows of one client to export: `sizes` of them for training, validation and testing, in this order."""

    partition: Partition
    client_id: str
    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    sizes: tuple[int, int, int]


def export_client(partition: Partition, index: int, out: Path, part: Part = "all") -> Path:
    """Writes client number `index` to `out`, whose ending decides the format; values are as the source had them.

    .npz: `x`, `y` and, where the client has such rows, `x_val`, `y_val`, `x_test`, `y_test`. .csv and .parquet: a table
    with its target last; training, then validation, then test rows. .txt: what a speaker says. Raises ConfigError for
    an existing file or an unknown ending, DataError where the format does not fit the data.
    """
    write = _writer_of(partition, out.suffix.lower())
    site = _site(partition, index, part)
    with atomic.new_file(out) as handle:
        write(site, handle)
    return out


def export_all(partition: Partition, out: Path, suffix: str = ".npz", part: Part = "all") -> Path:
    """Writes a file for each client into the new directory `out`, and `index.csv` with each client's file and rows.

    Whole or not at all. Raises what `export_client` raises; a client without such rows has no file.
    """
    write = _writer_of(partition, suffix)
    held_back = partition.manifest.has_validation
    lines = [("client", "file", "train", *(["validation"] if held_back else []), "test")]
    with atomic.new_directory(out) as directory:
        for index, name in enumerate(file_names(partition.client_ids, suffix)):
            sizes = _sizes(partition, index, "all")
            filled = any(_sizes(partition, index, part))
            if filled:
                with (directory / name).open("xb") as handle:
                    write(_site(partition, index, part), handle)
            counts = map(str, sizes if held_back else (sizes[0], sizes[2]))
            lines.append((partition.client_ids[index], name if filled else "", *counts))
        (directory / INDEX).write_bytes(_csv(lines))
    return out


def file_names(client_ids: Iterable[str], suffix: str) -> Iterator[str]:
    """A file name for each client that every system takes: letters, digits, `.`, `_`, `-`; unique whatever the case,
    and none of the names that Windows keeps for devices."""
    taken = {INDEX.removesuffix(suffix)}
    uses: dict[str, int] = {}
    for client_id in client_ids:
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", client_id)[:80].rstrip(".") or "_"
        stem = f"_{stem}" if _RESERVED.fullmatch(stem) or stem[0] in "-." else stem
        name = stem
        while name.lower() in taken:
            uses[stem] = uses.get(stem, 1) + 1
            name = f"{stem}-{uses[stem]}"
        taken.add(name.lower())
        yield f"{name}{suffix}"


def _writer_of(partition: Partition, suffix: str) -> Callable[[_Site, BinaryIO], None]:
    writers: dict[str, Callable[[_Site, BinaryIO], None]] = {
        ".npz": _write_npz,
        ".csv": _write_csv,
        ".parquet": _write_parquet,
        ".txt": _write_text,
    }
    if suffix not in writers:
        raise ConfigError(
            f"'{suffix}' is not an export format", hint=f"Use a file name that ends in {', '.join(FORMATS)}."
        )
    table = len(partition.shape) == 1 and partition.task != "next-character"
    if suffix in (".csv", ".parquet") and not table:
        raise DataError(
            f"{suffix} needs a table; these examples have shape {partition.shape}", hint="Export to a .npz file."
        )
    if suffix == ".txt" and partition.task != "next-character":
        raise DataError(".txt needs text; this partition has no text", hint="Export to a .npz file.")
    return writers[suffix]


def _sizes(partition: Partition, index: int, part: Part) -> tuple[int, int, int]:
    """Rows of a client for training, validation and testing; 0 for those that are not of the part."""
    trained, tested = partition.counts[index].tolist()
    sizes = {"train": trained, "validation": int(partition.validation_counts[index]), "test": tested}
    train, validation, test = (size if part in ("all", name) else 0 for name, size in sizes.items())
    return train, validation, test


def _site(partition: Partition, index: int, part: Part) -> _Site:
    sizes, client_id = _sizes(partition, index, part), partition.client_ids[index]
    if not any(sizes):
        rows = "rows" if part == "all" else f"{part} rows"
        raise DataError(f"client '{client_id}' has no {rows}")
    x, y = (_raw(partition, name, index, sizes) for name in ("x", "y"))
    return _Site(partition, client_id, _with_offsets(partition, x), y, sizes)


def _raw(partition: Partition, name: str, index: int, sizes: tuple[int, int, int]) -> npt.NDArray[Any]:
    """A column's values for a client's rows: training, validation, test rows, each if there are any of this part."""
    start, train_end, end = partition.bounds[index].tolist()
    parts = [
        partition.read_raw(name, start, train_end if sizes[0] else start),
        partition.read_raw(name, train_end if sizes[2] else end, end),
    ]
    if sizes[1]:
        first, last = partition.column("validation_bounds")[index : index + 2].tolist()
        parts.insert(1, partition.read_raw(f"validation_{name}", first, last))
    return np.concatenate(parts)


def _with_offsets(partition: Partition, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as the source had them: float64 if some were stored as differences from an offset."""
    inputs = partition.manifest.inputs
    features = [] if inputs is None else [offset for column in inputs.columns for offset in column.offsets]
    return x.astype(np.float64) + np.array(features) if any(features) else x


def _write_npz(site: _Site, handle: BinaryIO) -> None:
    if site.x.dtype.kind == "f" and np.isnan(site.x).any():
        raise DataError(
            f"client '{site.client_id}' has missing values, which .npz cannot represent",
            hint="Export to .csv or .parquet, where a cell can be empty.",
        )
    # Parts by the names that the reader of .npz knows; the first part, which may be the only one, is simply x and y.
    arrays: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for suffix, size in zip(("", "_val", "_test"), site.sizes, strict=True):
        if size:
            rows, ending = slice(start, start + size), suffix if start else ""
            arrays |= {f"x{ending}": site.x[rows], f"y{ending}": site.y[rows]}
        start += size
    for name, words in (("class_names", site.partition.classes), ("feature_names", _features(site.partition))):
        if words:
            arrays[name] = np.array(words, np.str_)
    np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]


def _features(partition: Partition) -> tuple[str, ...]:
    named = partition.manifest.dataset.features
    table = len(partition.shape) == 1 and partition.task != "next-character"
    return named or tuple(f"feature_{index}" for index in range(partition.shape[0])) if table else ()


def _target_name(features: tuple[str, ...]) -> str:
    name = "target"
    while name in features:
        name += "_"
    return name


def _target_values(partition: Partition, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Class names for labels; numbers for a real-valued target."""
    return y if partition.task == "regression" else np.array(partition.classes, np.str_)[y]


def _write_csv(site: _Site, handle: BinaryIO) -> None:
    features = _features(site.partition)
    handle.write(_csv([[*features, _target_name(features)]]))
    step = max(1, CELLS // (len(features) + 1))
    for start in range(0, len(site.y), step):
        x = site.x[start : start + step]
        # The shortest decimals that read back as the same float32; missing cells are empty.
        cells = np.where(np.isnan(x), "", x.astype(np.str_)) if x.dtype.kind == "f" else x.astype(np.str_)
        target = _target_values(site.partition, site.y[start : start + step]).astype(np.str_)
        handle.write(_csv(np.column_stack([cells, target]).tolist()))


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _write_parquet(site: _Site, handle: BinaryIO) -> None:
    arrow = optional("pyarrow", "pyarrow", "Parquet files")
    parquet = optional("pyarrow.parquet", "pyarrow", "Parquet files")
    features = _features(site.partition)
    columns = {name: arrow.array(site.x[:, index], from_pandas=True) for index, name in enumerate(features)}
    columns[_target_name(features)] = arrow.array(_target_values(site.partition, site.y).tolist())
    parquet.write_table(arrow.table(columns), handle)


def _write_text(site: _Site, handle: BinaryIO) -> None:
    name = site.client_id if _SPEAKER.fullmatch(site.client_id) else "client"
    said = re.sub(r"\n{2,}", "\n", _joined(site)).strip("\n")
    handle.write(f"{name}:\n{said}\n".encode())


def _joined(site: _Site) -> str:
    """The text that windows were cut from: inputs, and after each run of windows the last target."""
    characters = site.partition.classes
    pieces: list[str] = []
    last: int | None = None
    for x, y in zip(site.x.tolist(), site.y.tolist(), strict=True):
        length = next((index for index, code in enumerate(y) if code == PADDING), len(y))
        if length == 0:
            continue
        if last is not None and x[0] != last:
            pieces.append(characters[last] + "\n")
        pieces.append("".join(characters[code] for code in x[:length]))
        last = y[length - 1]
    return "".join(pieces) + (characters[last] if last is not None else "")
