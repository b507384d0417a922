"""Work and output of `flctl partition` and its subcommands; loaded when one of them runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flctl import atomic
from flctl.cli import output
from flctl.cli.session import current_registry
from flctl.errors import ConfigError, StorageError, command_line, counted
from flctl.partition import export as exports
from flctl.partition import request as requests
from flctl.partition.duplicates import Duplicates
from flctl.partition.skew import Divergence, SkewReport, skew_of
from flctl.partition.store import Partition
from flctl.partition.verify import Verified
from flctl.report import heatmap_terminal
from flctl.report.figure import format_of
from flctl.report.heatmap import Heatmap, draw, heatmap_of, write_csv

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Checked", "Copies", "Given", "PartitionReport", "check", "export", "misplaced", "report_on", "run"]

REPORT = "report"


@dataclass(frozen=True, slots=True)
class Given:
    """Arguments that describe a partition. Flags override `-o`, and both override the config's section."""

    config: Path | None
    overrides: tuple[str, ...]
    scheme_options: tuple[str, ...]
    reader_options: tuple[str, ...]
    flags: Mapping[str, Any]

    def request(self) -> requests.PartitionRequest:
        """The request that all of it makes. Raises ConfigError."""
        values: dict[str, Any] = _section(self.config) if self.config else {}
        values |= {key.replace("-", "_"): text for key, text in output.parse_pairs(self.overrides).items()}
        values |= {key: value for key, value in self.flags.items() if value is not None}
        for name, pairs in (("scheme_options", self.scheme_options), ("reader_options", self.reader_options)):
            if pairs:
                values[name] = {**(values.get(name) or {}), **output.parse_pairs(pairs)}
        return requests.parse(values)


@dataclass(frozen=True, slots=True)
class Copies:
    """Pictures and a table that the user wants elsewhere as well."""

    pictures: tuple[Path, ...]
    table: Path | None

    def check(self) -> None:
        """Raises ConfigError for what could not be written, before any work is done."""
        for picture in self.pictures:
            format_of(picture)
        for path in (*self.pictures, *([self.table] if self.table else [])):
            atomic.refuse_existing(path)

    def write(self, heatmap: Heatmap) -> None:
        """Draws and writes them."""
        for picture in self.pictures:
            draw(heatmap, picture)
        if self.table:
            write_csv(heatmap, self.table)


@dataclass(frozen=True, slots=True)
class PartitionReport:
    """A partition with its skew, its heatmap, notes, and the command that follows."""

    partition: Partition
    skew: SkewReport
    heatmap: Heatmap
    notes: tuple[str, ...] = ()
    next: str | None = None

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope."""
        manifest = self.partition.manifest
        return {
            "path": self.partition.path.as_posix(),
            "digest": self.partition.digest,
            "dataset": {key: getattr(manifest.dataset, key) for key in ("name", "task", "source", "digest", "shape")},
            "classes": list(self.partition.classes),
            "scheme": manifest.scheme,
            "seed": manifest.seed,
            "clients": manifest.clients,
            "test_fraction": manifest.test_fraction,
            "test_split": manifest.test_split,
            "validation_fraction": manifest.validation_fraction,
            "central_test": manifest.central_test,
            "standardise": manifest.preprocess.kind,
            "rows": asdict(manifest.rows),
            "skew": self.skew.to_json(),
            "notes": list(self.notes),
            "next": self.next,
        }

    def render(self, console: Console) -> None:
        """Prints the result as text."""
        heatmap_terminal.render(self.heatmap, console)
        console.print()
        output.table(console, ("", "mean", "worst", "at client"), _divergences(self.skew))
        for line in (*_sizes(self.partition, self.skew), *_copies(self.skew.duplicates), *self.notes):
            console.print(line, markup=False)
        if self.next:
            console.print(f"next: {self.next}", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Checked:
    """A partition that was found right."""

    partition: Partition
    verified: Verified
    duplicates: Duplicates | None = field(default=None)

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope."""
        found = asdict(self.duplicates) if self.duplicates else None
        return {
            "path": self.partition.path.as_posix(),
            "digest": self.partition.digest,
            "clients": self.partition.clients,
            **asdict(self.verified),
            "duplicates": found,
        }

    def render(self, console: Console) -> None:
        """Prints the result as text."""
        done = self.verified
        lines = (
            f"digests   {counted(done.files, 'file')}, {done.bytes:,} bytes, unchanged since they were written",
            f"overlap   none: each of {counted(done.owned, 'row')} belongs to one of "
            f"{counted(self.partition.clients, 'client')}",
            f"coverage  {done.owned:,} owned + {done.left_out:,} left out = {counted(done.rows, 'row')} of the source",
            *(f"copies    {line}" for line in _copies(self.duplicates)),
            f"{self.partition.path.as_posix()} is intact: {self.partition.digest}",
        )
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)


def run(given: Given, copies: Copies, *, report: bool, duplicates: bool) -> PartitionReport:
    """Makes the partition, and its report in it."""
    request = given.request()
    copies.check()
    made = requests.make(request, current_registry())
    path = made.partition.path
    trains = bool(made.partition.manifest.rows.train)
    following = command_line("flctl", "train", path) if trains else command_line("flctl", "eval", "RUN", "--data", path)
    found = report_on(made.partition, made.notes, following, duplicates=duplicates)
    try:
        if report:
            _write_report(found)
        copies.write(found.heatmap)
    except StorageError as error:
        # The partition is whole without its pictures.
        output.warn(f"{path} was written, but its report was not: {error.message}")
    return found


def report_on(
    partition: Partition, notes: tuple[str, ...] = (), following: str | None = None, *, duplicates: bool
) -> PartitionReport:
    """Returns the report of a partition; reads its labels, and all rows if `duplicates`."""
    return PartitionReport(
        partition, skew_of(partition, duplicates=duplicates), heatmap_of(partition), notes, following
    )


def check(partition: Partition, *, duplicates: bool) -> Checked:
    """Verifies a partition. Raises IntegrityError."""
    from flctl.partition.verify import verify

    verified = verify(partition)
    return Checked(partition, verified, skew_of(partition).duplicates if duplicates else None)


def export(
    directory: Path, out: Path, client: str | None, suffix: str, part: exports.Part, *, everyone: bool
) -> dict[str, Any]:
    """Writes one client's file, or all of them."""
    if client is None and not everyone:
        raise ConfigError("no client was named", hint="Name a client with --client ID, or use --all.")
    if client is not None and everyone:
        raise ConfigError(f"--client {client} and --all cannot be combined", hint="Use one of them.")
    partition = Partition.open(directory)
    if client is None:
        exports.export_all(partition, out, suffix, part)
    else:
        exports.export_client(partition, partition.index(client), out, part)
    return {"path": out.as_posix(), "client": client, "rows": part}


def misplaced(word: str) -> ConfigError:
    """A subcommand's name where a source should stand."""
    return ConfigError(
        f"'{word}' is a subcommand and comes first: flctl partition {word} DIR",
        hint=f"Write ./{word} for a source of that name.",
    )


def _section(config: Path) -> dict[str, Any]:
    from flctl.config.load import load_partition_section

    section = load_partition_section(config, current_registry())
    return {key.replace("-", "_"): value for key, value in section.items()}


def _write_report(report: PartitionReport) -> None:
    with atomic.new_directory(report.partition.path / REPORT) as directory:
        for name in ("heatmap.png", "heatmap.svg"):
            draw(report.heatmap, directory / name)
        write_csv(report.heatmap, directory / "heatmap.csv")
        skew = output.envelope("partition inspect", ok=True, data=report.skew.to_json())
        text = json.dumps(json.loads(skew)["data"], indent=1, ensure_ascii=False)
        (directory / "skew.json").write_text(text + "\n", encoding="utf-8")


def _divergences(skew: SkewReport) -> list[tuple[str, str, str, str]]:
    emd = "earth mover's distance" + (" (target's units)" if skew.kind == "bins" else "")
    found = {
        "Jensen-Shannon divergence": skew.jensen_shannon,
        "Hellinger distance": skew.hellinger,
        emd: skew.earth_mover,
    }
    rows = [_divergence(name, value) for name, value in found.items() if value is not None]
    if skew.effective_classes is not None:
        least = f"{skew.effective_classes_min:.2f}"
        rows.append(("effective labels per client", f"{skew.effective_classes:.2f}", least, ""))
    return [*rows, ("size Gini", f"{skew.size_gini:.3f}", "", "")]


def _divergence(name: str, value: Divergence) -> tuple[str, str, str, str]:
    return name, f"{value.mean:.4g}", f"{value.max:.4g}", value.worst


def _sizes(partition: Partition, skew: SkewReport) -> list[str]:
    rows = partition.manifest.rows
    own = f" of the source's own, {rows.test:,} of clients" if partition.manifest.central_test == "own" else ""
    held = f"; {_validation(partition)}" if partition.manifest.has_validation else ""
    return [
        f"training rows by client: {skew.size_min:,} to {skew.size_max:,}, median {skew.size_median:,.0f}; "
        f"{skew.empty_clients:,} of {counted(skew.clients, 'client')} without rows",
        f"{counted(rows.train, 'training row')}; {counted(rows.central_test, 'test row')}{own}{held}",
    ]


def _validation(partition: Partition) -> str:
    own, held = partition.manifest.own_validation, counted(partition.manifest.rows.validation, "validation row")
    return f"{held} of clients, {own:,} of the source's own" if own else held


def _copies(found: Duplicates | None) -> list[str]:
    if found is None:
        return []
    across, leaked = found.rows_across_clients, found.test_rows_in_train
    repeated = found.validation_rows_in_train
    lines = [f"{counted(repeated, 'validation row')} duplicated in training rows"] if repeated else []
    return [
        f"{counted(across, 'duplicate row')} across clients" if across else "No duplicate rows across clients",
        f"{counted(leaked, 'test row')} duplicated in training rows" if leaked else "No test rows among training rows",
        *lines,
    ]
