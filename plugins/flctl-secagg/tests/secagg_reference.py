"""The primitives again, from the standard library alone and straight from their standards: slow, and independent.

Who made tests/known_answers.json: `python secagg_reference.py` prints it. Nothing of flctl_secagg is used here.
"""

import hashlib
import hmac
import json
import struct

P = 2**255 - 19


def hkdf(secret, salt, info, length):
    """RFC 5869, sections 2.2 and 2.3."""
    key, block, out = hmac.digest(salt, secret, "sha256"), b"", b""
    while len(out) < length:
        block = hmac.digest(key, block + info + bytes((len(out) // 32 + 1,)), "sha256")
        out += block
    return out[:length]


def x25519(private, public):
    """RFC 7748, section 5: the Montgomery ladder."""
    k = int.from_bytes(private, "little") & ~7 & ~(1 << 255) | (1 << 254)
    u = int.from_bytes(public, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in reversed(range(255)):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def _times(a, b):
    product = 0
    for bit in range(8):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in reversed(range(8, 16)):
        product ^= (0x11B << (bit - 8)) * (product >> bit & 1)
    return product


def _sbox(value):
    inverse = next((x for x in range(256) if _times(x, value) == 1), 0)
    return (
        inverse
        ^ 0x63
        ^ (inverse << 1 | inverse >> 7) & 255
        ^ (inverse << 2 | inverse >> 6) & 255
        ^ (inverse << 3 | inverse >> 5) & 255
        ^ (inverse << 4 | inverse >> 4) & 255
    )


SBOX = [_sbox(value) for value in range(256)]


def aes(key, block):
    """FIPS 197, section 5.1; a key of 16 or 32 bytes."""
    size = len(key) // 4
    words, factor = [list(key[4 * i : 4 * i + 4]) for i in range(size)], 1
    for at in range(size, 4 * (size + 7)):
        word = list(words[-1])
        if at % size == 0:
            word = [SBOX[b] for b in word[1:] + word[:1]]
            word[0] ^= factor
            factor = _times(factor, 2)
        elif size > 6 and at % size == 4:
            word = [SBOX[b] for b in word]
        words.append([a ^ b for a, b in zip(words[-size], word, strict=True)])
    keys = [[byte for word in words[4 * i : 4 * i + 4] for byte in word] for i in range(size + 7)]
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number, one in enumerate(keys[1:], 1):
        state = [SBOX[state[(4 * (i // 4 + i % 4) + i % 4) % 16]] for i in range(16)]
        if number < len(keys) - 1:
            columns = [state[4 * i : 4 * i + 4] for i in range(4)]
            state = [
                _times(c[r], 2) ^ _times(c[(r + 1) % 4], 3) ^ c[(r + 2) % 4] ^ c[(r + 3) % 4]
                for c in columns
                for r in range(4)
            ]
        state = [a ^ b for a, b in zip(state, one, strict=True)]
    return bytes(state)


def keystream(seed, length):
    """AES-CTR as NIST SP 800-38A, section 6.5, with the standard incrementing function of 128 bits."""
    counter, out = int.from_bytes(seed[-16:], "big"), b""
    while len(out) < length:
        out += aes(seed[:-16], (counter % 2**128).to_bytes(16, "big"))
        counter += 1
    return out[:length]


def bound(*parts):
    """Each part with its length before it, after the protocol's name."""
    raw = [part.to_bytes(8, "big") if isinstance(part, int) else part for part in parts]
    return b"flctl-secagg/1" + b"".join(struct.pack(">I", len(part)) + part for part in raw)


def known_answers():
    """What a session of two fixed clients derives."""
    sid = hashlib.sha256(b"a fixed session").digest()
    keys = [hashlib.sha256(bytes((number,))).digest() for number in range(4)]
    base = (9).to_bytes(32, "little")
    shared = x25519(keys[0], x25519(keys[1], base))
    mask = hkdf(shared, sid, bound(b"mask", 3, 7), 32)
    long_mask = hkdf(shared, sid, bound(b"mask", 3, 7), 48)
    order = keystream(hashlib.sha256(b"graph" + sid).digest(), 16 * 60)
    return {
        "sid": sid.hex(),
        "privates": [key.hex() for key in keys],
        "shared": shared.hex(),
        "mask_seed": mask.hex(),
        "mask": keystream(mask, 64).hex(),
        "mask_seed_256": long_mask.hex(),
        "mask_256": keystream(long_mask, 64).hex(),
        "self_seed": hkdf(keys[2], sid, b"flctl-secagg self", 32).hex(),
        "share_key": hkdf(shared, sid, bound(b"shares", 3, 7), 32).hex(),
        "commitment": hashlib.sha256(bound(b"commitment", sid, b"c03", keys[3])).hexdigest(),
        "ring_of_60": sorted(range(60), key=lambda one: order[16 * one : 16 * one + 16]),
    }


if __name__ == "__main__":
    print(json.dumps(known_answers(), indent=1))
