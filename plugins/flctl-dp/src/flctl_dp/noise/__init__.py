"""Random numbers, rounding and noise: exact distributions on a lattice, from the operating system's randomness."""
