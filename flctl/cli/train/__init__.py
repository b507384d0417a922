"""`flctl train`."""
