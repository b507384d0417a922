"""The client's half of the protocol: its steps, its policy, its memory and its record of sessions."""
