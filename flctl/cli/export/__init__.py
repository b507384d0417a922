"""`flctl export`."""
