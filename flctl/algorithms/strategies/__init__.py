"""The built-in strategies."""

from flctl.algorithms.strategies.centered_clipping import CenteredClipping
from flctl.algorithms.strategies.ditto import Ditto
from flctl.algorithms.strategies.fedavg import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
from flctl.algorithms.strategies.feddyn import FedDyn
from flctl.algorithms.strategies.fedmedian import FedMedian, FedTrimmedAvg
from flctl.algorithms.strategies.fednova import FedNova
from flctl.algorithms.strategies.fedprox import FedProx
from flctl.algorithms.strategies.fedsgd import FedSGD
from flctl.algorithms.strategies.fltrust import FLTrust
from flctl.algorithms.strategies.geometric_median import GeometricMedian
from flctl.algorithms.strategies.krum import Bulyan, Krum, MultiKrum
from flctl.algorithms.strategies.mime_lite import MimeLite
from flctl.algorithms.strategies.norm_bounding import NormBounding
from flctl.algorithms.strategies.private_layers import FedBN, FedPer, FedRep
from flctl.algorithms.strategies.qfedavg import QFedAvg
from flctl.algorithms.strategies.scaffold import Scaffold

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
