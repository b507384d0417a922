"""Checks of engines."""
