"""`flctl predict`."""
