"""Empirical audits: an attack with canaries gives a lower bound of epsilon."""
