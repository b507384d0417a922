"""Federated data directories: from a schema and the sites' declarations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flctl.config.yaml_reader import read_source
from flctl.errors import DataError, IncompatibleError
from flctl.federation.schema.read import open_schema, read_schema
from flctl.federation.schema.schema import Schema
from flctl.federation.site.data import DeclaredRows
from flctl.partition.federated import FederatedData
from flctl.partition.federated_files import DeclaredClient, FederatedManifest, open_data, write_federated

__all__ = ["SCHEMA_FILE", "assemble", "read_declaration", "schema_and_sites"]

SCHEMA_FILE = "schema.yaml"
MAX_DECLARATION = 1 << 16


def assemble(out: Path, federation: str, schema_file: Path, declared: Sequence[DeclaredRows]) -> FederatedData:
    """Writes the directory `out` from the sites' declared rows, in the order of their names.

    Raises IncompatibleError for a site that declared rows of another schema, DataError for one that did so twice.
    """
    source = read_source(schema_file)
    schema = read_schema(source)
    ordered = sorted(declared, key=lambda one: one.site)
    sites = [one.site for one in ordered]
    if len(set(sites)) != len(sites):
        raise DataError("a site has two declarations", hint="Name each declaration once.")
    others = [one.site for one in ordered if one.schema != schema.digest]
    if others:
        raise IncompatibleError(
            f"{', '.join(others)} packed rows by another schema than {schema_file.name}",
            hint="Send them the file, to pack again: flctl site data FILE --schema SCHEMA --replace",
        )
    clients = tuple(DeclaredClient(one.site, one.train, one.test) for one in ordered)
    manifest = FederatedManifest(federation, schema.described(), schema.standardisation, clients, schema.inputs)
    return write_federated(out, manifest, source.text.encode())


def read_declaration(path: Path) -> DeclaredRows:
    """The declaration in a file that `flctl site data` wrote. Raises DataError if it is not one."""
    if not path.is_file() or path.stat().st_size > MAX_DECLARATION:
        raise DataError(f"{path} is not a declaration of rows", hint="Name the declared.json of a site.")
    try:
        return DeclaredRows.from_json(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a declaration of rows: it is not JSON") from error


def schema_and_sites(path: Path, count: int) -> tuple[Schema, Sequence[str]]:
    """The schema and the site names of a federated data directory; of a schema file, `count` made-up names."""
    if path.is_file():
        return open_schema(path), [f"site-{number}" for number in range(1, count + 1)]
    data = open_data(path)
    if not isinstance(data, FederatedData):
        raise DataError(f"{path} is a partition, not a federated data directory", hint="Name a schema file.")
    return open_schema(path / SCHEMA_FILE), list(data.client_ids)
