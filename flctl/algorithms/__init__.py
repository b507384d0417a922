"""Algorithms: what clients do besides plain training, what happens to updates, and how they are combined."""
