"""The built-in strategies."""

from flctl.strategies.centered_clipping import CenteredClipping
from flctl.strategies.ditto import Ditto
from flctl.strategies.fedavg import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from flctl.strategies.feddyn import FedDyn
from flctl.strategies.fedmedian import FedMedian, FedTrimmedAvg
from flctl.strategies.fednova import FedNova
from flctl.strategies.fedprox import FedProx
from flctl.strategies.fedsgd import FedSGD
from flctl.strategies.fltrust import FLTrust
from flctl.strategies.geometric_median import GeometricMedian
from flctl.strategies.krum import Bulyan, Krum, MultiKrum
from flctl.strategies.mime_lite import MimeLite
from flctl.strategies.norm_bounding import NormBounding
from flctl.strategies.private_layers import FedBN, FedPer, FedRep
from flctl.strategies.qfedavg import QFedAvg
from flctl.strategies.scaffold import Scaffold

__all__ = ["STRATEGIES"]

STRATEGIES = [
    FedAvg,
    FedSGD,
    FedAvgM,
    FedAdagrad,
    FedAdam,
    FedYogi,
    FedProx,
    FedNova,
    Scaffold,
    FedDyn,
    QFedAvg,
    MimeLite,
    FedPer,
    FedRep,
    FedBN,
    Ditto,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Bulyan,
    GeometricMedian,
    CenteredClipping,
    NormBounding,
    FLTrust,
]
