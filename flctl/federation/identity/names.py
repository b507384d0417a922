"""Names of federations, sites, coordinators and runs: lower-case letters, digits and hyphens.

Control characters, bidirectional marks, look-alike letters and case twins are refused by construction: names appear in
logs, terminals, file names, URLs and certificates.
"""

from __future__ import annotations

import re
from typing import Any

from flctl.federation.identity.failures import UntrustedError

__all__ = ["LONGEST_NAME", "require_name"]

LONGEST_NAME = 64
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


def require_name(name: Any, kind: str = "site") -> str:
    """Returns `name` if it is valid. Raises UntrustedError (`name`) otherwise.

    >>> require_name("st-marys")
    'st-marys'
    """
    if isinstance(name, str) and len(name) <= LONGEST_NAME and _NAME.fullmatch(name):
        return name
    shown = ascii(name[:LONGEST_NAME]) if isinstance(name, str) else f"a value of type {type(name).__name__}"
    raise UntrustedError(
        "name",
        f"{shown} is not a valid name of a {kind}",
        hint=f"Use at most {LONGEST_NAME} lower-case letters, digits and inner hyphens, for example st-marys.",
    )
