"""The client side of a run: one request in, one reply out; local training; client memory."""
