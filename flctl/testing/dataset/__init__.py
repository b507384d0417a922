"""Checks of dataset readers."""
