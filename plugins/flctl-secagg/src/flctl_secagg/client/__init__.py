"""Client side of the protocol: its steps, its policy, its state between phases and its record of sessions."""
