"""`flctl partition`."""
