"""The digest of the work that a session is held for: all vectors that its clients are sent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flctl import Arrays, Work

__all__ = ["model_digest"]


def model_digest(work: Work | None) -> str:
    """SHA-256 of all vectors that a client is sent: the model, and what strategy and transforms broadcast."""
    digest = hashlib.sha256(b"flctl-secagg work")
    if work is not None:
        _absorb(digest, "params", work.params)
        _absorb(digest, "extra", work.extra)
        for name in sorted(work.transforms):
            _absorb(digest, f"transform {name}", work.transforms[name])
    return digest.hexdigest()


def _absorb(digest: Any, group: str, vectors: Arrays) -> None:
    for name in sorted(vectors):
        vector = vectors[name]
        digest.update(json.dumps([group, name, vector.dtype.newbyteorder("<").str, int(vector.size)]).encode())
        digest.update(vector.astype(vector.dtype.newbyteorder("<"), copy=False).data)
