"""Identities of operator, hub, sites and coordinators: keys, signed statements, roster, invites, certificates."""
