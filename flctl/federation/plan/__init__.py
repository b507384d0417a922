"""The plan of a run at real sites: one digest over everything that decides what runs."""
