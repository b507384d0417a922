"""Primitives against their standards, and what is built of them against an independent implementation."""

import ast
import json
from pathlib import Path

import flctl_secagg
import numpy as np
import pytest
import secagg_reference as reference
from flctl_secagg.crypto import masks, primitives
from flctl_secagg.encoding import packing
from flctl_secagg.protocol import graph
from flctl_secagg.protocol.derived_keys import box_key, mask_seed, self_seed
from flctl_secagg.protocol.session import Session
from secagg_support import identities, parameters

from flctl import ProtocolError

PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST = {  # SP 800-38A, F.5.1 and F.5.5
    "2b7e151628aed2a6abf7158809cf4f3c": "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee",
    "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4": "601ec313775789a5b7a7f504bbf3d228"
    "f443e3ca4d62b59aca84e990cacaf5c52b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6",
}
KNOWN = json.loads((Path(__file__).parent / "known_answers.json").read_text())


@pytest.mark.parametrize("key", NIST)
def test_masks_are_the_counter_mode_of_nist(key):
    seed = bytes.fromhex(key + COUNTER)
    assert masks.keystream(seed).update(PLAIN).hex() == NIST[key]
    stream = bytes(a ^ b for a, b in zip(bytes.fromhex(NIST[key]), PLAIN, strict=True))
    assert reference.keystream(seed, 64) == stream
    words = np.zeros(16, "<u4")
    masks.add_masks(words, [(seed, True)])
    assert words.tobytes() == stream


def test_keys_are_derived_as_rfc_5869_says():
    """A.1, its first 32 bytes and all 42."""
    salt, info = bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert primitives.derive(b"\x0b" * 22, salt, info, 42).hex() == expected
    assert reference.hkdf(b"\x0b" * 22, salt, info, 42).hex() == expected


def test_keys_are_agreed_as_rfc_7748_says():
    """Section 5.2: one and a thousand iterations of k, u = X25519(k, u), k."""
    k = u = (9).to_bytes(32, "little")
    found = []
    for _ in range(1000):
        k, u = primitives.agree(primitives.loaded(k), u), k
        found.append(k.hex())
    assert found[0] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert found[999] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_signatures_are_those_of_rfc_8032():
    """Section 7.1, test 1."""
    private = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = primitives.sign(private, b"")
    assert signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    assert primitives.is_signed(public, signature, b"")
    assert not primitives.is_signed(public, signature, b"x")
    assert not primitives.is_signed(public, signature[:-1], b"")


def test_what_a_session_derives_is_frozen(monkeypatch):
    """known_answers.json is what secagg_reference.py prints: the standard library, and nothing of this package."""
    assert reference.known_answers() == KNOWN
    monkeypatch.setattr(Session, "sid", bytes.fromhex(KNOWN["sid"]))
    roster, _, names = identities(9)
    privates = [bytes.fromhex(one) for one in KNOWN["privates"]]
    public = primitives.public_of(privates[1])
    for cipher, name in (("aes-128-ctr", ""), ("aes-256-ctr", "_256")):
        session = Session(parameters(names, cipher=cipher), roster)
        seed = mask_seed(session, primitives.loaded(privates[0]), public, 7, 3)
        assert seed.hex() == KNOWN["mask_seed" + name]
        words = np.zeros(16, "<u4")
        masks.add_masks(words, [(seed, True)])
        assert words.tobytes().hex() == KNOWN["mask" + name]
    session = Session(parameters(names), roster)
    assert self_seed(session, privates[2]).hex() == KNOWN["self_seed"]
    assert box_key(session, primitives.loaded(privates[0]), public, 3, 7).hex() == KNOWN["share_key"]
    assert primitives.commitment(privates[3], session.sid, "c03").hex() == KNOWN["commitment"]
    assert list(graph.ring(60, session.sid)) == KNOWN["ring_of_60"]


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


@pytest.mark.parametrize("public", [*LOW_ORDER, b"", bytes(31), bytes(33)], ids=lambda key: key.hex()[:8] or "none")
def test_points_of_low_order_and_keys_of_other_lengths_are_refused(public):
    with pytest.raises(ProtocolError, match="low order, or is not a key"):
        primitives.agree(primitives.loaded(primitives.new_key()), public)
    assert not primitives.is_usable(public)


def test_masks_cancel_whatever_the_length_and_the_number_of_streams(monkeypatch):
    monkeypatch.setattr(masks, "_AT_ONCE", 3)
    rng = np.random.default_rng(0)
    for bits in (16, 32, 64):
        for size in (1, 7, masks.CHUNK // 2 + 3, masks.CHUNK + 5):
            words = rng.integers(0, 2**16, size).astype(packing.lane(bits))
            seeds = [primitives.new_key() for _ in range(7)]
            changed = words.copy()
            masks.add_masks(changed, [(seed, True) for seed in seeds])
            assert size < 4 or not np.array_equal(changed, words)
            masks.add_masks(changed, [(seed, False) for seed in reversed(seeds)])
            np.testing.assert_array_equal(changed, words)


def test_a_mask_is_the_keystream_word_for_word_across_chunks():
    seed = primitives.new_key()
    for bits in (16, 20, 24, 32, 64):
        dtype = packing.lane(bits)
        count = masks.CHUNK // dtype.itemsize + 11
        words = np.zeros(count, dtype)
        masks.add_masks(words, [(seed, True)])
        stream = masks.keystream(seed).update(bytes(count * dtype.itemsize))
        np.testing.assert_array_equal(words, np.frombuffer(stream, dtype))


@pytest.mark.parametrize("bits", packing.WIDTHS)
def test_masks_are_uniform_up_to_the_highest_word(bits):
    """Chi-squared of the highest byte's 256 values over 2^18 words: mean 255, deviation 22.6; and 2^w - 1 comes."""
    words = np.zeros(1 << 18, packing.lane(bits))
    masks.add_masks(words, [(bytes(range(32)), True)])
    packing.reduce(words, bits)
    counts = np.bincount((words >> words.dtype.type(bits - 8)).astype(np.int64), minlength=256)
    assert abs(((counts - 1024) ** 2 / 1024).sum() - 255) < 6 * 22.6
    if bits == 16:
        assert int(words.max()) == 2**16 - 1


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_no_mask_comes_from_a_seed_of_another_length(length):
    with pytest.raises(ValueError, match="expected 32 or 48"):
        masks.keystream(bytes(length))


def test_the_package_draws_nothing_from_a_generator_that_can_be_foreseen():
    """Neither `random` nor `numpy.random`, by any spelling."""
    folder = Path(flctl_secagg.__file__).parent
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or "" if isinstance(node, ast.ImportFrom) else ""
            assert "random" not in [part for name in [*names, module] for part in name.split(".")], path
            assert not (isinstance(node, ast.Attribute) and node.attr in ("random", "default_rng")), path
