"""Fingerprints as words that people read to each other on the telephone.

A word is two open syllables: one of 16 consonants and one of 4 vowels, twice, which is 12 bits. Six words are 72 bits:
a key whose words equal those of a given key takes 2**72 attempts.
"""

from __future__ import annotations

import hashlib

__all__ = ["WORDS", "alike", "as_words"]

WORDS = 6
CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aiou"
SYLLABLES = tuple(consonant + vowel for consonant in CONSONANTS for vowel in VOWELS)
BITS = 12


def as_words(*parts: bytes) -> str:
    """Returns the first 72 bits of the SHA-256 of the parts, in order, as six words.

    >>> as_words(b"one key")
    'zozo moda bilo tupo noki foga'
    """
    number = int.from_bytes(hashlib.sha256(b"".join(parts)).digest()[: WORDS * BITS // 8], "big")
    chunks = [(number >> BITS * position) % (1 << BITS) for position in reversed(range(WORDS))]
    return " ".join(SYLLABLES[chunk >> 6] + SYLLABLES[chunk & 63] for chunk in chunks)


def alike(first: str, second: str) -> bool:
    """True if two fingerprints have the same words; case, hyphens, commas and spaces do not matter.

    >>> alike("Bada-dodu, FIFA", "bada dodu fifa")
    True
    """
    return _words(first) == _words(second)


def _words(text: str) -> list[str]:
    return text.lower().replace("-", " ").replace(",", " ").split()
