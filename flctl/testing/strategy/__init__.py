"""Checks of strategies."""
