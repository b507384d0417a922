"""Costs of a session, computed before it runs."""
