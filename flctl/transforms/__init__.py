"""The built-in transforms."""

from flctl.transforms.clip import Clip

__all__ = ["TRANSFORMS"]

TRANSFORMS = [Clip]
