"""Attacks as test adversaries: malicious clients, simulated."""

from flctl.simulation.attacks.adversary import Adversary

__all__ = ["Adversary"]
