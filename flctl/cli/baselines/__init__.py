"""`flctl baselines`."""
