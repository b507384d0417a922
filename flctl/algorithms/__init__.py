"""Algorithms: local training beyond plain SGD, processing applied to updates, and their combination."""
