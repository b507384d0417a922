"""Imputation: the mean or median of training rows in place of missing numbers, recorded for new rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from flctl.data.dataset import Dataset
from flctl.partition.split import SplitPlan

__all__ = ["imputed"]


def imputed(dataset: Dataset, planned: SplitPlan) -> Dataset:
    """The data set without missing numbers, if it asks for imputation: each takes the mean or median of its column over
    the training rows. Columns without missing cells get a `fill` too, for new rows."""
    if dataset.impute is None or dataset.inputs is None:
        return dataset
    parts = [planned.order[start:stop] for start, stop in planned.bounds[:, :2].tolist()]
    training = np.concatenate([np.zeros(0, np.int64), *parts])
    average = np.median if dataset.impute == "median" else np.mean
    x, columns, offset = dataset.x.copy(), list(dataset.inputs.columns), 0
    test, validation = (
        None if part is None else replace(part, x=part.x.copy()) for part in (dataset.test, dataset.validation)
    )
    for index, column in enumerate(dataset.inputs.columns):
        if column.kind != "category":
            known = _known(x[training, offset])
            fill = float(np.float32(average(known.astype(np.float64)))) if known.size else 0.0
            for values in (x, *(part.x for part in (test, validation) if part is not None)):
                values[np.isnan(values[:, offset]), offset] = fill
            columns[index] = replace(column, fill=fill)
        offset += len(column.features)
    inputs = replace(dataset.inputs, columns=tuple(columns))
    return replace(dataset, x=x, test=test, validation=validation, inputs=inputs)


def _known(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return values[~np.isnan(values)]
