"""Attacks as test adversaries: malicious clients, simulated."""

from flctl.attacks.adversary import Adversary

__all__ = ["Adversary"]
