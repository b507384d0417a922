"""The six transforms, `dp` to `dp-examples`, and what they share."""
