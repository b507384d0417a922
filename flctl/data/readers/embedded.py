"""The data sets that come with scikit-learn, by name: nothing is downloaded."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from flctl.data.dataset import Dataset, DatasetReader
from flctl.types import TaskKind

__all__ = ["BreastCancer", "Diabetes", "Digits", "Iris", "Wine"]


class _Embedded(DatasetReader):
    """A data set of scikit-learn, read by its name."""

    task: ClassVar[TaskKind] = "classification"
    arguments: ClassVar[dict[str, Any]] = {}

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is this data set's name."""
        return source == cls.name

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, features], y int64 codes [n] or float32 [n]; the seed has no part in it."""
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{self.name}")(**self.arguments)
        regression = self.task == "regression"
        return Dataset(
            name=self.name,
            task=self.task,
            x=np.ascontiguousarray(bunch.data, np.float32),
            y=bunch.target.astype(np.float32 if regression else np.int64),
            classes=() if regression else tuple(str(name) for name in bunch.target_names),
            features=tuple(str(name) for name in bunch.feature_names),
        )


class Digits(_Embedded):
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes (Alpaydin and Kaynak 1998; UCI 80)."""

    name = "digits"

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [1797, 1, 8, 8] of values 0 to 16, y int64 codes [1797]."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = np.ascontiguousarray(bunch.images[:, None], np.float32)
        return Dataset(self.name, "classification", x, bunch.target.astype(np.int64), tuple("0123456789"))


class BreastCancer(_Embedded):
    """569 breast tumours, 30 features, malignant or benign (Street et al. 1993; UCI 17)."""

    name = "breast_cancer"
    task = "binary"


class Wine(_Embedded):
    """178 wines, 13 chemical features, 3 cultivars (Aeberhard and Forina 1992; UCI 109)."""

    name = "wine"


class Iris(_Embedded):
    """150 irises, 4 features, 3 species (Fisher 1936; UCI 53)."""

    name = "iris"


class Diabetes(_Embedded):
    """442 patients, 10 raw features, regression on disease progression (Efron et al. 2004, section 2)."""

    name = "diabetes"
    task = "regression"
    arguments: ClassVar[dict[str, Any]] = {"scaled": False}
