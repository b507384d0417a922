"""The schema that all sites of a federation agree on, and the rows that it describes."""
