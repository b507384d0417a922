"""`flctl runs`."""
