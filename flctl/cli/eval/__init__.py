"""`flctl eval`."""
