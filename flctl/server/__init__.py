"""The server: the training loop, and one round of it."""
