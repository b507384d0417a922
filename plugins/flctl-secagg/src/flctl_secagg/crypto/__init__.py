"""Cryptographic primitives: key agreement, signatures, sealing, masks and secret sharing."""
