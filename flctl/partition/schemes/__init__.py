"""The built-in partition schemes, in the order that `flctl plugins list` and the documentation show them."""

from __future__ import annotations

from flctl.partition.partitioner import Partitioner
from flctl.partition.schemes.base_schemes import BASE_SCHEMES
from flctl.partition.schemes.features import FeatureNoise, FeatureRotation, FeatureScaling
from flctl.partition.schemes.label_noise import LabelNoise

__all__ = ["PARTITIONERS"]

PARTITIONERS: list[type[Partitioner]] = [*BASE_SCHEMES, FeatureRotation, FeatureNoise, FeatureScaling, LabelNoise]
