"""Baselines of a run: the same training on pooled rows, on each client's rows alone, and without each client."""
