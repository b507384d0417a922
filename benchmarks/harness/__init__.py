"""Shared by the benchmark scripts: workloads, paired timing, the hand-written loop, result files and pictures.

Imports nothing: the floor's processes and the peers' environments load `harness.torch_models` without flctl.
"""
