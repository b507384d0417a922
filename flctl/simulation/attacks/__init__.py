"""Attacks: simulated malicious clients, as test adversaries."""

from flctl.simulation.attacks.adversary import Adversary

__all__ = ["Adversary"]
