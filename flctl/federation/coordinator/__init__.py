"""The side of a data scientist: the engine whose clients are sites."""
