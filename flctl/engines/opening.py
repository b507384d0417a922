"""The description of a run that a worker process opens, complete without the run's own objects.

Nothing here imports torch: at a site, the process that writes the description holds keys and runs no model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic.fields import FieldInfo

from flctl.config.config import effective
from flctl.errors import ProtocolError
from flctl.partition.federated import FederatedData, SiteData
from flctl.partition.manifest import parse, serialise
from flctl.partition.store import Partition
from flctl.wire import frames
from flctl.wire.frames import MAX_BODY

if TYPE_CHECKING:
    from flctl.partition.view import PartitionView
    from flctl.run.run import Run

__all__ = ["Opening", "SiteFacts", "most_reply_bytes"]

_WIDEST = 8
"""Bytes of the widest value of an update."""
_IN_HEADER = ("client", "digest", "clients", "counts")
_SLACK = 1 << 26
"""Bytes of a client's reply beside its vectors; and of sums over its rows, such as a matrix of 512 classes."""


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """A federation as a site's worker reads it: `client` is the site's own name, whose rows the partition has.

    `manifest` is the federation's, as `manifest.json`; `digest` that of its data; `clients` its ids in order, with the
    rows that each declares for training, testing and validation in `counts`.
    """

    client: str
    manifest: str
    digest: str
    clients: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, federation: FederatedData, client: str) -> Self:
        """Returns the facts of a federation for the site `client`."""
        counts = np.column_stack([federation.counts, federation.validation_counts])
        declared = tuple(tuple(rows) for rows in counts.tolist())
        ids = tuple(federation.client_ids.take(np.arange(federation.clients)).tolist())
        return cls(client, serialise(federation.manifest).decode(), federation.digest, ids, declared)

    def view(self, own: Partition) -> SiteData:
        """Returns the federation with the site's own rows. Raises IncompatibleError for rows of another data set."""
        manifest, counts = parse(self.manifest.encode()), np.array(self.counts, np.int64)
        federation = FederatedData(own.path, manifest, self.digest, np.array(self.clients, np.str_), counts)
        return SiteData(federation, own, self.client)


@dataclass(frozen=True, slots=True)
class Opening:
    """The description of a run for a worker process, and how that process starts.

    `config` holds the effective settings; `partition` is the folder with the rows, `memory` that of client memory;
    `files` are plugin files, `disabled` the names of plugins to leave out, `path` the import path. `site`: the rows are
    those of one client of a federation. `prefix` stands before the process's command, as a confining program does;
    `environment` is the process's, None for this one's. `reply_bytes` bounds what is read of one client's reply. `plan`
    is the approved plan as JSON: the worker refuses the run if values that follow from it come out differently. `code`
    are source files that the site approved: the bytes that were hashed, which the worker runs.
    """

    config: Mapping[str, Any]
    partition: Path
    memory: Path
    files: tuple[Path, ...] = ()
    disabled: tuple[str, ...] = ()
    path: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    site: SiteFacts | None = None
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    reply_bytes: int = MAX_BODY
    plan: str = ""
    code: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, run: Run) -> Self:
        """Returns the description of a run whose rows are on this machine.

        The aggregator's options that name files, such as a folder of keys, are left out: its client half runs in the
        process that starts the worker.
        """
        return cls(
            config=_without_paths(run),
            partition=run.partition.path.resolve(),
            memory=run.memory_directory.resolve(),
            files=tuple(file.resolve() for file in run.registry.files),
            disabled=tuple(run.registry.disabled),
            path=tuple(sys.path),
            reply_bytes=most_reply_bytes(run.update_layout),
        )

    def message(self) -> list[Any]:
        """Returns the message that tells a worker to open the run, as buffers."""
        facts = self.site
        # A manifest names every feature and a plan every site, and a header is short: they travel as arrays.
        texts = {"plan": self.plan, "manifest": "" if facts is None else facts.manifest}
        arrays = {name: np.frombuffer(text.encode(), np.uint8) for name, text in texts.items() if text}
        arrays |= {f"code/{number}": np.frombuffer(source, np.uint8) for number, source in enumerate(self.code)}
        meta = {
            "config": dict(self.config),
            "partition": str(self.partition),
            "memory": str(self.memory),
            "files": [str(file) for file in self.files],
            "disabled": list(self.disabled),
            "path": list(self.path),
            "site": None if facts is None else {name: getattr(facts, name) for name in _IN_HEADER},
        }
        return frames.pack_parts("open", meta=meta, arrays=arrays)

    @classmethod
    def read(cls, message: bytes) -> Self:
        """Returns the description in a message. Raises ProtocolError for other messages."""
        frame = frames.unpack(message, "open")
        try:
            meta = frame.meta
            return cls(
                config=meta["config"],
                partition=Path(meta["partition"]),
                memory=Path(meta["memory"]),
                files=tuple(Path(file) for file in meta["files"]),
                disabled=tuple(meta["disabled"]),
                path=tuple(meta["path"]),
                site=None if meta["site"] is None else _site_facts(frame),
                plan=frame.arrays["plan"].tobytes().decode() if "plan" in frame.arrays else "",
                code=tuple(value.tobytes() for name, value in frame.arrays.items() if name.startswith("code/")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError("a message to open a run lacks a part of its description") from error

    def partition_view(self) -> PartitionView:
        """Opens the partition: all rows of the folder, or those of one client of a federation."""
        own = Partition.open(self.partition)
        return own if self.site is None else self.site.view(own)


def _without_paths(run: Run) -> dict[str, Any]:
    config, fields = effective(run.config), type(run.aggregator.config).model_fields
    withheld = {name for name, field in fields.items() if _is_path(field) and not field.is_required()}
    options = config["aggregator"]
    config["aggregator"] = {name: value for name, value in options.items() if name not in withheld}
    return config


def _is_path(field: FieldInfo) -> bool:
    marks = field.json_schema_extra
    return isinstance(marks, dict) and marks.get("place") == "path"


def _site_facts(frame: frames.Frame) -> SiteFacts:
    facts = frame.meta["site"]
    counts = tuple(tuple(int(number) for number in rows) for rows in facts["counts"])
    manifest = frame.arrays["manifest"].tobytes().decode()
    return SiteFacts(facts["client"], manifest, facts["digest"], tuple(facts["clients"]), counts)


def most_reply_bytes(layout: Mapping[str, int]) -> int:
    """Returns the most bytes of one client's reply with vectors of this layout.

    >>> most_reply_bytes({"delta": 1000})
    67116864
    """
    return _WIDEST * sum(layout.values()) + _SLACK
