"""The base of schemes that change what a client sees, on top of another scheme that says who owns which rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_serializer

from flctl.component import Options
from flctl.errors import ConfigError, DataError, plain_words, suggest
from flctl.partition.partitioner import Assignment, Partitioner, Rows
from flctl.partition.schemes.base_schemes import BASE_SCHEMES
from flctl.partition.schemes.options import Pairs

__all__ = ["Altering", "AlteringOptions"]


class AlteringOptions(Options):
    """Scheme that assigns the rows to clients, and its options (`alpha=0.3,min_size=5` on a command line)."""

    base: Annotated[str, Field(description="Scheme that assigns the rows to clients")] = "iid"
    base_options: Annotated[Pairs, Field(default_factory=dict, description="Its options")]

    @field_serializer("base_options")
    def _as_the_base_says(self, options: dict[str, Any]) -> dict[str, Any]:
        """All options of the base in effect, without the folders of files."""
        return dict(_base(self.base, options).config.model_dump(mode="json"))


class Altering(Partitioner):
    """Rows by the scheme `base`; `alter` changes them for each client.

    `assign` comes first: it looks at the data as a whole (`prepare`), which `alter` then needs.
    """

    class Config(AlteringOptions):
        """No options of its own."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.base = _base(self.config.base, self.config.base_options)

    def assign(self, rows: Rows, clients: int | None, rng: np.random.Generator) -> Assignment:
        if rows.target.ndim != 1:
            raise DataError(f"scheme '{self.name}' does not apply to text", hint="Use natural, temporal or iid.")
        self.prepare(rows)
        return self.base.assign(rows, clients, rng)

    def prepare(self, rows: Rows) -> None:
        """Keeps what `alter` must know about the data as a whole. Raises DataError for data it cannot alter."""
        raise NotImplementedError


def _base(name: str, options: dict[str, Any]) -> Partitioner:
    known = {scheme.name: scheme for scheme in BASE_SCHEMES}
    if name not in known:
        hint = suggest(name, known) or f"Known: {', '.join(known)}."
        raise ConfigError(f"'{name}' cannot be the base of a scheme that alters rows", hint=hint)
    try:
        return known[name].from_options(options)
    except ValidationError as error:
        found = "; ".join(_reason(item) for item in error.errors())
        has = ", ".join(known[name].Config.model_fields) or "none"
        raise ConfigError(f"base_options do not fit scheme '{name}': {found}", hint=f"Known options: {has}.") from error


def _reason(item: Mapping[str, Any]) -> str:
    return f"{'.'.join(map(str, item['loc']))}: {plain_words(item['msg'])}"
