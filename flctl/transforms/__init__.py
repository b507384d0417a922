"""The built-in transforms."""

from flctl.transforms.clip import Clip
from flctl.transforms.half import BFloat16, Float16
from flctl.transforms.powersgd import PowerSGD
from flctl.transforms.qsgd import QSGD
from flctl.transforms.quantise import Quantise
from flctl.transforms.randomk import RandomK
from flctl.transforms.signsgd import EFSignSGD, SignSGD
from flctl.transforms.topk import TopK

__all__ = ["TRANSFORMS"]

TRANSFORMS = [Clip, TopK, RandomK, Quantise, QSGD, SignSGD, EFSignSGD, PowerSGD, Float16, BFloat16]
