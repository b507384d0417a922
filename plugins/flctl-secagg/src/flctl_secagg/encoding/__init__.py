"""Encoding of float vectors as words modulo 2^w, and of words as packed bytes."""
