"""Vectors of floats as words modulo 2^w, and words as packed bytes."""
