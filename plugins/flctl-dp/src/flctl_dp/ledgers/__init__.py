"""Append-only ledgers of releases: one for a population of clients, or one for each client's rows."""
