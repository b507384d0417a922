"""Names of the vectors that a round sends to a site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flctl.types import Arrays

__all__ = ["named_vectors"]


def named_vectors(params: Arrays, extra: Arrays, transforms: Mapping[str, Arrays]) -> Arrays:
    """Returns all vectors of a round's work under the names that a plan uses: "params", "buffers", "extra:NAME" and
    "transform:TRANSFORM:NAME"."""
    sent = dict(params)
    sent |= {f"extra:{name}": vector for name, vector in extra.items()}
    for name, vectors in transforms.items():
        sent |= {f"transform:{name}:{key}": vector for key, vector in vectors.items()}
    return sent
