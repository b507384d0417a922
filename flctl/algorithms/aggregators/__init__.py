"""Built-in aggregators, and the server's accumulators."""
