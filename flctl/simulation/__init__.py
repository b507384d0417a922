"""Simulated conditions: devices, message sizes, and malicious clients."""
