"""The server's half of the protocol: one attempt at a session, and recovery of secrets from shares."""
