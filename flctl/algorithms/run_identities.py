"""RunIdentities: the signed identities of a run's clients at real sites, as an aggregator sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["RunIdentities"]


@dataclass(frozen=True)
class RunIdentities:
    """Identities of a run's clients, from the roster that the operator of their federation signed.

    `run` is the plan's digest. `keys` has the Ed25519 public key of each client in the plan, `operator` the one that
    signed `roster`, whose digest is `digest`. `graph_seed` is public and was drawn with the roster, before any plan.
    `directory` is for records that outlive the run. At a site, `me` is its name, `sign` signs with its identity and
    `secret` derives 32 secret bytes of its identity for a label; at the coordinator they are None.
    """

    run: str
    operator: bytes
    keys: Mapping[str, bytes]
    graph_seed: bytes
    digest: str
    roster: bytes = field(repr=False)
    directory: Path
    me: str | None = None
    sign: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    secret: Callable[[bytes], bytes] | None = field(default=None, repr=False)
