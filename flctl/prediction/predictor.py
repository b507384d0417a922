"""A run's model with the preprocessing that was fitted for it: from raw rows to outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flctl.component import Catalogue
from flctl.config.load import load
from flctl.data.preprocessing import FittedPreprocessing
from flctl.errors import ConfigError, DataError, IncompatibleError
from flctl.evaluation.evaluate import evaluating, on_all_cores, tensor_of
from flctl.partition.manifest import preprocessing_of
from flctl.partition.preprocess import Standardiser
from flctl.run import run as runs
from flctl.run.directory import RunDirectory
from flctl.stored.load import load_checkpoint, load_own_model, own_partition

if TYPE_CHECKING:
    from torch.nn import Module

    from flctl.config.config import Config
    from flctl.models.flat_model import FlatModel

__all__ = ["Predictor", "load_predictor"]

PERSONAL = "clients have personal models, and this is the global model; --client ID selects a client's model"


@dataclass(frozen=True)
class Predictor:
    """A model and its preprocessing. `round` is that of the checkpoint; `client` is the client whose own model it is,
    None for the global model."""

    name: str
    round: int
    model: FlatModel
    fitted: FittedPreprocessing
    config: Config
    directory: RunDirectory
    client: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """Rows that the model takes at once, as in the run's evaluations."""
        return self.config.eval.batch_size

    def outputs(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """The model's outputs for raw rows x [n, *shape]: standardised here, in batches on all cores."""
        standardiser = Standardiser(self.fitted.standardisation, self.fitted.shape)

        def batch(module: Module, start: int) -> Any:
            return module(tensor_of(standardiser.x(x[start : start + self.batch_size]))).numpy()

        with evaluating(self.model):
            return np.concatenate(on_all_cores(self.model, batch, range(0, max(1, len(x)), self.batch_size)))

    def logits(self, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The logits [n, characters] after the last of codes [n, window]."""

        def batch(module: Module, start: int) -> Any:
            return module(tensor_of(codes[start : start + self.batch_size]))[:, -1].numpy()

        with evaluating(self.model):
            return np.concatenate(on_all_cores(self.model, batch, range(0, len(codes), self.batch_size)))


def load_predictor(
    path: Path, checkpoint: str, client: str | None, registry: Catalogue, overrides: Sequence[str] = ()
) -> Predictor:
    """The model of a run's checkpoint: a round's number, "best" or "last"; with `client` that client's own model.

    Raises ConfigError for what is no run or a checkpoint that it does not have, IncompatibleError for a run whose
    preprocessing was not kept or that has no such model, IntegrityError for damaged files.
    """
    directory = RunDirectory(path)
    config = load(registry, file=directory.config_file, overrides=overrides).config
    fitted = directory.preprocessing() or _of_partition(config, directory)
    model = runs.build_model(config, fitted, registry)
    round_number = load_checkpoint(directory, checkpoint, model)
    strategy = registry.get("strategy", config.strategy.name).from_options(dict(config.strategy.options))
    if client is not None:
        if not strategy.personalises:
            raise ConfigError(
                f"--client {client}: strategy '{strategy.name}' keeps no personal models",
                hint="Leave --client out: all clients share one model.",
            )
        load_own_model(directory, config, registry, client, round_number, model)
    notes = (PERSONAL,) if strategy.personalises and client is None else ()
    return Predictor(str(path), round_number, model, fitted, config, directory, client, notes)


def _of_partition(config: Config, directory: RunDirectory) -> FittedPreprocessing:
    """The preprocessing of a run that kept none: its partition's, if that is still there and has it."""
    partition = own_partition(config, directory)
    if partition is None:
        raise IncompatibleError(
            f"{directory.path} has no preprocessing (it is of an earlier version), and its partition is missing",
            hint=f"Restore the partition at {directory.facts['partition']}.",
        )
    return preprocessing_of(partition.manifest)


def require_inputs(fitted: FittedPreprocessing, source: str) -> None:
    """Raises IncompatibleError for a table's model whose columns are not known."""
    if fitted.inputs is not None:
        return
    if fitted.reader in ("npz", "npy") or not fitted.features:
        raise DataError(
            f"{source} is a table, and the model's features have no names",
            hint="Use the format of the training rows: an .npz with the array x, or a .npy.",
        )
    raise IncompatibleError(
        "the run's partition is of a version of flctl that did not record the encoding of columns",
        hint="Partition the data again with the same options and seed, which assigns the same rows, and train again.",
    )
