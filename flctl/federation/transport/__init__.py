"""Envelopes, sealed bodies and the HTTPS client that sites and coordinators share."""
