"""Costs of a session before it is held."""
