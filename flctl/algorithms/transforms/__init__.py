"""The built-in transforms."""

from flctl.algorithms.transforms.clip import Clip
from flctl.algorithms.transforms.half import BFloat16, Float16
from flctl.algorithms.transforms.powersgd import PowerSGD
from flctl.algorithms.transforms.qsgd import QSGD
from flctl.algorithms.transforms.quantise import Quantise
from flctl.algorithms.transforms.randomk import RandomK
from flctl.algorithms.transforms.signsgd import EFSignSGD, SignSGD
from flctl.algorithms.transforms.topk import TopK

__all__ = ["TRANSFORMS"]

TRANSFORMS = [Clip, TopK, RandomK, Quantise, QSGD, SignSGD, EFSignSGD, PowerSGD, Float16, BFloat16]
