"""`flctl site data`: from a file to the home's partition, schema and declaration."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flctl import atomic
from flctl.component import Catalogue
from flctl.config.yaml_reader import read_source
from flctl.errors import ConfigError
from flctl.federation.identity.canonical import canonical
from flctl.federation.identity.homes import SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.identity.names import require_name
from flctl.federation.schema.read import read_schema
from flctl.federation.schema.rows import read_rows
from flctl.federation.site.data import DeclaredRows, RowsDeclared, declare, pack

__all__ = ["DECLARED_FILE", "SCHEMA_FILE", "PackRequest", "Packed", "pack_home"]

SCHEMA_FILE, DECLARED_FILE = "schema.yaml", "declared.json"


@dataclass(frozen=True, slots=True)
class PackRequest:
    """The arguments of `flctl site data`."""

    source: str
    schema: Path
    test: float
    rows: RowsDeclared
    reader: str | None
    name: str | None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """Outcome of packing: the partition's folder, what will be declared, and notes on the rows."""

    folder: Path
    declared: DeclaredRows
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {"folder": self.folder.as_posix(), "declared": self.declared.to_json(), "notes": list(self.notes)}


def pack_home(home: Path | None, request: PackRequest, registry: Catalogue) -> Packed:
    """Packs a file into a site's home: data/, schema.yaml and declared.json.

    Raises ConfigError if data are there and `replace` is False, DataError if rows do not fit the schema; then nothing
    is changed.
    """
    place = SiteHome.at(home)
    site = _name(place, request.name)
    if place.data.exists() and not request.replace:
        raise ConfigError(f"{place.data} holds data already", hint="Add --replace to pack them anew.")
    source = read_source(request.schema)
    schema = read_schema(source)
    rows = read_rows(request.source, schema, registry, request.reader)
    place.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = place.path / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    partition = pack(fresh, schema, {site: rows}, request.test)
    declared = declare(partition, site, schema, request.rows)
    shutil.rmtree(place.data, ignore_errors=True)
    fresh.rename(place.data)
    atomic.write_file(place.path / SCHEMA_FILE, source.text.encode())
    atomic.write_file(place.path / DECLARED_FILE, canonical(declared.to_json()) + b"\n")
    return Packed(place.data, declared, rows.notes)


def _name(home: SiteHome, given: str | None) -> str:
    """The site's name: that of its membership, or the one given before it has joined."""
    if not home.membership.exists():
        if given is None:
            raise ConfigError("this site has not joined a federation", hint="Join it, or name it: --name st-marys")
        return require_name(given, "site")
    joined = Membership.open(home).name
    if given not in (None, joined):
        raise ConfigError(f"this site has joined as {joined}, not as {given}", hint="Leave out --name.")
    return joined
