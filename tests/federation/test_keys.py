"""Identities: files of private keys, fingerprints, sealed secrets, statements."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from flctl import ConfigError, IntegrityError, ProtocolError
from flctl.federation.identity import hpke
from flctl.federation.identity.canonical import canonical, parse
from flctl.federation.identity.curves import PRIME
from flctl.federation.identity.failures import UntrustedError
from flctl.federation.identity.keys import KEY_FILE, PUBLIC_FILE, Identity, PublicIdentity
from flctl.federation.identity.statements import sign, verify
from flctl.federation.identity.words import SYLLABLES, WORDS, alike, as_words

IDENTITY = Identity(bytes(range(32)), bytes(range(32, 64)))
OTHER = Identity(bytes(32), bytes([9] * 32))
LOW_ORDER = (0, 1, PRIME - 1, PRIME, PRIME + 1)


def test_created_keys_open_again_and_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "identity")
    assert Identity.open(tmp_path / "identity").public == made.public
    assert stat.S_IMODE((tmp_path / "identity" / KEY_FILE).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "identity").iterdir()) == [KEY_FILE, PUBLIC_FILE]
    assert "Identity('" in repr(made)
    assert made.public.words in repr(made)


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    made = Identity.create(tmp_path)
    with pytest.raises(ConfigError, match="exists already"):
        Identity.create(tmp_path)
    assert Identity.open(tmp_path).public == made.public


def test_keys_that_other_users_can_read_are_refused(tmp_path: Path) -> None:
    Identity.create(tmp_path)
    os.chmod(tmp_path / KEY_FILE, 0o640)
    with pytest.raises(IntegrityError, match="can be read by other users"):
        Identity.open(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"format":"flctl-identity/1","sealing":"00","signing":"00"}'])
def test_a_damaged_key_file_is_refused_without_its_content(tmp_path: Path, damage: bytes) -> None:
    Identity.create(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(damage)
    with pytest.raises(IntegrityError, match="is not an identity"):
        Identity.open(tmp_path)


def test_missing_keys_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Identity.open(tmp_path)


@pytest.mark.parametrize("low", LOW_ORDER)
def test_keys_of_low_order_are_refused(low: int) -> None:
    key = low.to_bytes(32, "little")
    for keys in ((key, IDENTITY.public.sealing), (IDENTITY.public.signing, key)):
        with pytest.raises(UntrustedError) as caught:
            PublicIdentity(*keys)
        assert caught.value.reason == "key"


@pytest.mark.parametrize("value", [None, {}, {"signing": "00"}, {"signing": 3, "sealing": []}])
def test_an_identity_of_other_fields_is_refused(value: object) -> None:
    with pytest.raises(UntrustedError) as caught:
        PublicIdentity.from_json(value)
    assert caught.value.reason == "format"


def test_upper_case_digits_are_a_second_text_of_a_key_and_refused() -> None:
    value = IDENTITY.public.to_json()
    with pytest.raises(UntrustedError):
        PublicIdentity.from_json({**value, "signing": value["signing"].upper()})


def test_the_words_depend_on_both_keys_and_have_72_bits() -> None:
    assert len(set(SYLLABLES)) == 64
    assert {len(syllable) for syllable in SYLLABLES} == {2}  # of one length, so that words split in one way
    assert len(IDENTITY.public.words.split()) == WORDS == 6
    swapped = PublicIdentity(IDENTITY.public.signing, OTHER.public.sealing)
    assert swapped.words != IDENTITY.public.words
    assert as_words(b"a") != as_words(b"b")
    assert alike(IDENTITY.public.words.upper().replace(" ", "-"), IDENTITY.public.words)
    assert not alike(IDENTITY.public.words, OTHER.public.words)


def test_sealed_secrets_open_for_the_recipient_and_the_context_alone() -> None:
    box = IDENTITY.public.seal(b"key" * 10, b"task 1")
    assert len(box) == 30 + hpke.OVERHEAD
    assert IDENTITY.unseal(box, b"task 1") == b"key" * 10
    changed = [bytes([*box[:at], box[at] ^ 1, *box[at + 1 :]]) for at in (0, 20, 32, len(box) - 1)]
    for identity, sealed, context in [
        (OTHER, box, b"task 1"),
        (IDENTITY, box, b"task 2"),
        (IDENTITY, box[:40], b"task 1"),
        (IDENTITY, b"", b"task 1"),
        (IDENTITY, bytes(32) + box[32:], b"task 1"),
        *((IDENTITY, one, b"task 1") for one in changed),
    ]:
        with pytest.raises(ProtocolError):
            identity.unseal(sealed, context)


def test_the_key_encapsulation_gives_the_shared_secret_of_rfc_9180() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    # RFC 9180, appendix A.1.1: the encapsulation does not depend on the cipher.
    private = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
    encapsulated = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
    expected = "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"
    key = X25519PrivateKey.from_private_bytes(private)
    context = encapsulated + key.public_key().public_bytes_raw()
    assert hpke._shared(key, encapsulated, context).hex() == expected


def test_sealing_agrees_with_the_hpke_of_cryptography() -> None:
    module = pytest.importorskip(
        "cryptography.hazmat.primitives.hpke", reason="cryptography has HPKE from version 47 on"
    )
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    suite = module.Suite(module.KEM.X25519, module.KDF.HKDF_SHA256, module.AEAD.AES_256_GCM)
    key = X25519PrivateKey.generate()
    public = key.public_key()
    assert suite.decrypt(hpke.seal(public.public_bytes_raw(), b"secret", b"info"), key, b"info") == b"secret"
    assert hpke.open_sealed(key, suite.encrypt(b"secret", public, b"info"), b"info") == b"secret"


STATEMENT = {"run": "r1", "until": "2027-01-31", "sites": ["a", "b"], "count": 3}
TEXT = sign(IDENTITY, "flctl/test/1", STATEMENT)


def test_a_signed_statement_verifies_and_names_its_signer() -> None:
    found = verify(TEXT, "flctl/test/1", by=IDENTITY.public.signing)
    assert (found.statement, found.by, found.text) == (STATEMENT, IDENTITY.public.signing, TEXT)
    assert found.digest == verify(sign(IDENTITY, "flctl/test/1", STATEMENT), "flctl/test/1").digest
    assert found.digest != verify(sign(OTHER, "flctl/test/1", STATEMENT), "flctl/test/1").digest


@pytest.mark.parametrize("position", range(0, len(TEXT), 5))
def test_a_statement_with_one_bit_changed_is_refused(position: int) -> None:
    changed = bytes([*TEXT[:position], TEXT[position] ^ 1, *TEXT[position + 1 :]])
    with pytest.raises(UntrustedError):
        verify(changed, "flctl/test/1", by=IDENTITY.public.signing)


def rewritten(**fields: object) -> bytes:
    return canonical({**parse(TEXT, 1 << 12), **fields})


REFUSED = {
    "another purpose": (TEXT, "flctl/other/1", "purpose"),
    "purpose rewritten": (rewritten(purpose="flctl/other/1"), "flctl/other/1", "signature"),
    "another signer": (sign(OTHER, "flctl/test/1", STATEMENT), "flctl/test/1", "signer"),
    "signer rewritten": (rewritten(by=OTHER.public.signing.hex()), "flctl/test/1", "signer"),
    "field added": (rewritten(extra=1), "flctl/test/1", "format"),
    "statement is a list": (rewritten(statement=[1]), "flctl/test/1", "format"),
    "statement changed": (rewritten(statement={**STATEMENT, "count": 4}), "flctl/test/1", "signature"),
    "number for a signature": (rewritten(signature=5), "flctl/test/1", "format"),
    "short signature": (rewritten(signature="00"), "flctl/test/1", "format"),
    "number for a signer": (rewritten(by=[1]), "flctl/test/1", "format"),
    "not canonical": (TEXT + b" ", "flctl/test/1", "format"),
    "not JSON": (b"\xff", "flctl/test/1", "format"),
}


@pytest.mark.parametrize(("text", "purpose", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_statement_is_refused_with_its_reason(text: bytes, purpose: str, reason: str) -> None:
    with pytest.raises(UntrustedError) as caught:
        verify(text, purpose, by=IDENTITY.public.signing)
    assert (caught.value.reason, caught.value.exit_code) == (reason, 6)


@pytest.mark.parametrize("low", LOW_ORDER)
def test_a_signer_of_low_order_is_refused(low: int) -> None:
    with pytest.raises(UntrustedError) as caught:
        verify(rewritten(by=low.to_bytes(32, "little").hex()), "flctl/test/1")
    assert caught.value.reason == "key"


def test_identity_imports_neither_torch_nor_numpy() -> None:
    import subprocess
    import sys

    program = (
        "import sys, pkgutil, importlib, flctl.federation.identity as i\n"
        "for m in pkgutil.iter_modules(i.__path__): importlib.import_module(f'{i.__name__}.{m.name}')\n"
        "print([n for n in ('torch', 'numpy', 'aiohttp') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_keys_are_made_where_files_have_no_links_as_on_memory_sticks(tmp_path: Path, monkeypatch) -> None:
    def no_links(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    made = Identity.create(tmp_path)
    assert Identity.open(tmp_path).public == made.public
    with pytest.raises(ConfigError, match="exists already"):
        Identity.create(tmp_path)
