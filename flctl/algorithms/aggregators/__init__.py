"""Built-in aggregators, and the accumulators that add vectors up on the server."""
