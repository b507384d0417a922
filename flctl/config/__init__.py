"""Configuration: the model, its sections, its sources, and validation with file, line and column."""
