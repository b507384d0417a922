"""Sealed files: they open whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from flctl.errors import IntegrityError
from flctl.federation.reasons import Refused
from flctl.federation.transport.sealing import (
    SEGMENT,
    TAG,
    BlobFacts,
    content_key,
    file_digest,
    open_file,
    seal_file,
    sealed_size,
)

SECRET = bytes(range(32))
WIDE = SEGMENT + TAG


def sealed(folder: Path, text: bytes) -> tuple[Path, bytes, BlobFacts]:
    source, target = folder / "plain", folder / "sealed"
    source.write_bytes(text)
    key = content_key(SECRET, file_digest(source))
    return target, key, seal_file(source, target, key)


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
def test_a_sealed_file_opens_to_the_same_bytes(tmp_path: Path, size: int) -> None:
    text = bytes(range(256)) * (size // 256 + 1)
    target, key, facts = sealed(tmp_path, text[:size])
    assert open_file(target, tmp_path / "opened", key) == facts
    assert (tmp_path / "opened").read_bytes() == text[:size]
    assert facts.bytes == sealed_size(size) == target.stat().st_size
    assert facts.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    assert facts.plaintext == hashlib.sha256(text[:size]).hexdigest()


def test_equal_files_under_one_secret_have_equal_ciphertexts(tmp_path: Path) -> None:
    first = sealed(tmp_path, b"model")[2]
    assert sealed(tmp_path, b"model")[2] == first
    assert sealed(tmp_path, b"other")[2].sha256 != first.sha256


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut at a segment's border": lambda text: text[:WIDE],
    "cut to nothing": lambda text: b"",
    "cut in a segment": lambda text: text[:-1],
    "segments swapped": lambda text: text[WIDE : 2 * WIDE] + text[:WIDE] + text[2 * WIDE :],
    "a segment left out": lambda text: text[WIDE:],
    "a segment repeated": lambda text: text[:WIDE] + text,
    "bytes appended": lambda text: text + b"\0",
    "the last segment appended again": lambda text: text + text[2 * WIDE :],
    "one bit changed": lambda text: text[:100] + bytes([text[100] ^ 1]) + text[101:],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_ciphertext_is_refused_and_leaves_no_file(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    target, key, _ = sealed(tmp_path, bytes(2 * SEGMENT + 5))
    target.write_bytes(change(target.read_bytes()))
    with pytest.raises(Refused) as refused:
        open_file(target, tmp_path / "opened", key)
    assert refused.value.reason == "blob-segments"
    assert not (tmp_path / "opened").exists()


def test_another_key_and_another_plaintext_are_refused(tmp_path: Path) -> None:
    target, key, _ = sealed(tmp_path, b"model")
    with pytest.raises(Refused, match="segments"):
        open_file(target, tmp_path / "opened", content_key(SECRET, "00" * 32))
    with pytest.raises(Refused) as refused:
        open_file(target, tmp_path / "opened", key, expected="00" * 32)
    assert refused.value.reason == "blob-digest"
    assert not (tmp_path / "opened").exists()


def test_a_file_that_changed_after_its_digest_was_taken_is_not_sealed_under_its_key(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.write_bytes(b"before")
    digest = file_digest(source)
    source.write_bytes(b"after!")
    with pytest.raises(IntegrityError, match="changed"):
        seal_file(source, tmp_path / "sealed", content_key(SECRET, digest), expected=digest)
    assert not (tmp_path / "sealed").exists()
