"""`flctl plugins`."""
