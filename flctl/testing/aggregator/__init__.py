"""Checks of aggregators."""
