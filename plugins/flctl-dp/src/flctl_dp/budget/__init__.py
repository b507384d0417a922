"""The budget of a run: its terms, the charge before each round, and the privacy statement after it."""
