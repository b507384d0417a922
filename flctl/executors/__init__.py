"""Executors: ways to compute the local training of clients, each equal to the sequential one within rounding."""
