"""Sealed files: AES-256-GCM in segments of 1 MiB, streamed from file to file in constant memory.

Segment i of the plaintext becomes its ciphertext and a tag of 16 bytes. Its nonce is the segment's number and a byte
that is 1 for the last segment, so that files which were cut, whose segments were swapped, or to which something was
appended do not open. The key belongs to one plaintext: `content_key` derives it from the plaintext's digest, so equal
files have equal ciphertexts, and no nonce is ever used for two different segments under one key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flctl.errors import IntegrityError
from flctl.federation.reasons import Reason, Refused

__all__ = ["SEGMENT", "TAG", "BlobFacts", "content_key", "file_digest", "open_file", "seal_file", "sealed_size"]

SEGMENT = 1 << 20
"""Bytes of plaintext in one segment."""
TAG = 16
KEY = 32
_CONTEXT = b"flctl/blob/1"


@dataclass(frozen=True, slots=True)
class BlobFacts:
    """A sealed file: SHA-256 and size of the ciphertext, SHA-256 of the plaintext."""

    sha256: str
    bytes: int
    plaintext: str


def content_key(secret: bytes, plaintext_digest: str) -> bytes:
    """Returns the key of 32 bytes for one plaintext, derived with HKDF-SHA256 from its digest and the sender's secret.

    >>> content_key(bytes(32), "00" * 32) == content_key(bytes(32), "11" * 32)
    False
    """
    if len(secret) < KEY:
        raise ValueError(f"a secret of {len(secret)} bytes; at least {KEY} are needed")
    derive = HKDF(algorithm=hashes.SHA256(), length=KEY, salt=None, info=_CONTEXT + bytes.fromhex(plaintext_digest))
    return derive.derive(secret)


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal, read in segments."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def sealed_size(plaintext: int) -> int:
    """Returns the size of the ciphertext of `plaintext` bytes.

    >>> sealed_size(0), sealed_size(1 << 20), sealed_size((1 << 20) + 1)
    (16, 1048592, 1048609)
    """
    return plaintext + TAG * max(1, -(-plaintext // SEGMENT))


def seal_file(source: Path, target: Path, key: bytes, expected: str | None = None) -> BlobFacts:
    """Encrypts `source` into `target`, which is on disk when this returns.

    With `expected`, raises IntegrityError if the plaintext's digest is another one: the key belongs to that digest, and
    a file that changed after its digest was taken must not be encrypted under it.
    """
    cipher, plain, sealed, written = AESGCM(key), hashlib.sha256(), hashlib.sha256(), 0
    with source.open("rb") as reading, _new(target) as writing:
        for number, segment, last in _segments(reading, SEGMENT):
            plain.update(segment)
            text = cipher.encrypt(_nonce(number, last=last), segment, _CONTEXT)
            sealed.update(text)
            written += writing.write(text)
        if expected is not None and plain.hexdigest() != expected:
            raise IntegrityError("a file changed while it was encrypted", hint="Run the command again.")
    return BlobFacts(sealed.hexdigest(), written, plain.hexdigest())


def open_file(source: Path, target: Path, key: bytes, expected: str | None = None) -> BlobFacts:
    """Decrypts `source` into `target`, which is on disk when this returns and absent if this raises.

    Raises Refused (`blob-segments`) if a segment does not open, (`blob-digest`) if the plaintext is not `expected`.
    """
    cipher, plain, sealed, size = AESGCM(key), hashlib.sha256(), hashlib.sha256(), 0
    with source.open("rb") as reading, _new(target) as writing:
        for number, segment, last in _segments(reading, SEGMENT + TAG):
            sealed.update(segment)
            size += len(segment)
            try:
                text = cipher.decrypt(_nonce(number, last=last), segment, _CONTEXT)
            except (InvalidTag, ValueError) as error:
                raise Refused(Reason.BLOB_SEGMENTS) from error
            plain.update(text)
            writing.write(text)
        if expected is not None and plain.hexdigest() != expected:
            raise Refused(Reason.BLOB_DIGEST)
    return BlobFacts(sealed.hexdigest(), size, plain.hexdigest())


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _segments(source: BinaryIO, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Number, bytes, and True for the last, of each segment; an empty file is one empty segment."""
    segment, number = source.read(size), 0
    while following := source.read(size):
        yield number, segment, False
        segment, number = following, number + 1
    yield number, segment, True


@contextmanager
def _new(target: Path) -> Iterator[BinaryIO]:
    """A file to write; flushed to disk at the end, removed if the block raises."""
    try:
        with target.open("wb") as writing:
            yield writing
            writing.flush()
            os.fsync(writing.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
