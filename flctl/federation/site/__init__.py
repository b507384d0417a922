"""A data owner's side: rows, policy, approvals, journal, the record, and the agent that answers a hub."""
