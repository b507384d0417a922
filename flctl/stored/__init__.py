"""Models that runs and files hold, read back with the rows to score them on."""
