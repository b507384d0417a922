"""The data sets that come with scikit-learn, by name: nothing is downloaded.

Their files are read without importing scikit-learn, which takes seconds of CPU time.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset, DatasetReader
from flctl.errors import DataError
from flctl.types import TaskKind

__all__ = ["BreastCancer", "Diabetes", "Digits", "Iris", "Wine"]


def _numbers(name: str, delimiter: str | None = ",", lines_before: int = 0) -> npt.NDArray[np.float64]:
    """Reads a file of numbers of scikit-learn: float64 [n, columns], or [n] for one column.

    `delimiter` None means blanks. Raises DataError if the file is missing.
    """
    spec = find_spec("sklearn")  # of a package without parents: imports nothing
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    for folder in folders:
        file = folder / "datasets" / "data" / name
        if file.is_file():
            return np.loadtxt(file, delimiter=delimiter, skiprows=lines_before)
    raise DataError(
        f"the installed scikit-learn has no file datasets/data/{name}",
        hint="pip install --force-reinstall 'scikit-learn>=1.4,<2'",
    )


class _Embedded(DatasetReader):
    """A data set of scikit-learn, read by its name."""

    task: ClassVar[TaskKind] = "classification"
    file: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    features: ClassVar[tuple[str, ...]]

    @classmethod
    def reads(cls, source: str) -> bool:
        """True if `source` is this data set's name."""
        return source == cls.name

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [n, features], y int64 codes [n] or float32 [n]; the seed has no part in it."""
        table = _numbers(self.file, lines_before=1)  # counts of rows and features, and the classes
        x = np.ascontiguousarray(table[:, :-1], np.float32)
        return Dataset(self.name, self.task, x, table[:, -1].astype(np.int64), self.classes, self.features)


class Digits(_Embedded):
    """1,797 handwritten digits of 8 x 8 pixels, 10 classes (Alpaydin and Kaynak 1998; UCI 80)."""

    name = "digits"
    file = "digits.csv.gz"
    classes = tuple("0123456789")

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [1797, 1, 8, 8] of values 0 to 16, y int64 codes [1797]."""
        table = _numbers(self.file)
        x = table[:, :-1].astype(np.float32).reshape(-1, 1, 8, 8)
        return Dataset(self.name, self.task, x, table[:, -1].astype(np.int64), self.classes)


class BreastCancer(_Embedded):
    """569 breast tumours, 30 features, malignant or benign (Street et al. 1993; UCI 17)."""

    name = "breast_cancer"
    task = "binary"
    file = "breast_cancer.csv"
    classes = ("malignant", "benign")
    features = tuple(
        form.format(measure)
        for form in ("mean {}", "{} error", "worst {}")
        for measure in (
            "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points",
            "symmetry", "fractal dimension",
        )
    )  # fmt: skip


class Wine(_Embedded):
    """178 wines, 13 chemical features, 3 cultivars (Aeberhard and Forina 1992; UCI 109)."""

    name = "wine"
    file = "wine_data.csv"
    classes = ("class_0", "class_1", "class_2")
    features = (
        "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
        "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
    )  # fmt: skip


class Iris(_Embedded):
    """150 irises, 4 features, 3 species (Fisher 1936; UCI 53)."""

    name = "iris"
    file = "iris.csv"
    classes = ("setosa", "versicolor", "virginica")
    features = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")


class Diabetes(_Embedded):
    """442 patients, 10 raw features, regression on disease progression (Efron et al. 2004, section 2)."""

    name = "diabetes"
    task = "regression"
    file = "diabetes_data_raw.csv.gz"
    classes = ()
    features = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

    def read(self, source: str, seed: int) -> Dataset:
        """x float32 [442, 10], y float32 [442]."""
        x = np.ascontiguousarray(_numbers(self.file, delimiter=None), np.float32)
        y = _numbers("diabetes_target.csv.gz").astype(np.float32)
        return Dataset(self.name, self.task, x, y, self.classes, self.features)
