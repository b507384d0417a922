"""The contract of models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flctl.errors import ConfigError, counted
from flctl.models.model import DataSpec, Model
from flctl.testing.component import component_checks, title_of
from flctl.testing.conformance import Checks, Conformance, UnaskedError, conform
from flctl.testing.examples import or_examples
from flctl.testing.model.training import example, one_step, weights_of
from flctl.testing.randomness import global_seed
from flctl.testing.values import difference, gap

if TYPE_CHECKING:
    import torch

__all__ = ["MODEL", "check_model"]

SPECS = (
    DataSpec("classification", (6,), 3),
    DataSpec("classification", (1, 28, 28), 10),
    DataSpec("classification", (3, 32, 32), 10),
    DataSpec("binary", (5,), 1),
    DataSpec("regression", (5,), 1),
    DataSpec("next-character", (20,), 30),
)


class ModelSubject:
    """A model class with its options, and what it builds for each kind of data that it takes."""

    def __init__(self, component: type[Model], options: Mapping[str, Any], data: Sequence[DataSpec]) -> None:
        self.component = component
        self.options = options
        self.data = data
        self.notes: list[str] = []

    def build(self, data: DataSpec, seed: int = 0, elsewhere: int = 0) -> torch.nn.Module:
        """A new module: torch's generator is at `seed`, all others are where `elsewhere` puts them."""
        import torch

        with global_seed(elsewhere):
            torch.manual_seed(seed)
            return self.component.from_options(dict(self.options)).build(data)

    @cached_property
    def tried(self) -> Mapping[DataSpec, Any]:
        """Result for each kind of data: a module, or the error."""
        found: dict[DataSpec, Any] = {}
        for data in self.data:
            try:
                found[data] = self.build(data)
            except Exception as error:
                found[data] = error
        return found

    def built(self) -> Iterator[tuple[DataSpec, torch.nn.Module]]:
        """Returns the kinds of data that the model takes, each with a new module. Raises UnaskedError if it takes no
        kind."""
        import torch

        taken = [data for data, found in self.tried.items() if isinstance(found, torch.nn.Module)]
        if not taken:
            raise UnaskedError
        for data in taken:
            yield data, self.build(data)


def _all() -> Checks:
    checks = component_checks("model")
    _add_build(checks)
    _add_seed(checks)
    _add_outputs(checks)
    _add_rows(checks)
    _add_trains(checks)
    return checks


def check_model(
    model: type[Model],
    options: Mapping[str, Any] | None = None,
    *,
    data: Sequence[DataSpec] = SPECS,
    skip: Collection[str] = (),
) -> Conformance:
    """Checks that a model keeps the contract of `flctl.Model`; returns the names of the checks that ran.

    Builds it for each of `data` (tables, images, numbers, characters) that it does not refuse with a ConfigError, and
    trains a step. `skip` are ids of checks that do not apply. Raises ConformanceError.
    """
    return conform(
        MODEL,
        ModelSubject(model, or_examples(options, model), data),
        title_of(model, "model"),
        skip,
    )


def _add_build(checks: Checks) -> None:
    @checks.add(
        "build",
        "build returns a torch module with trainable parameters, or refuses the data with a ConfigError; it accepts "
        "at least one kind of data.",
        why="A user who combines a model with unsuitable data needs an error before training.",
        todo="Raise flctl.ConfigError with a hint if data.task or data.shape does not fit.",
    )
    def find(s: ModelSubject) -> Iterator[str]:
        import torch

        for data, found in s.tried.items():
            if isinstance(found, torch.nn.Module):
                if not any(p.requires_grad for p in found.parameters()):
                    yield f"for {_said(data)} no parameter requires a gradient"
            elif isinstance(found, Exception):
                yield from _refusal(data, found)
            else:
                yield f"for {_said(data)} it returned {type(found).__name__}, expected a torch.nn.Module"
        if all(isinstance(found, ConfigError) for found in s.tried.values()):
            yield f"it refuses all of {', '.join(_said(data) for data in s.tried)}"


def _refusal(data: DataSpec, error: Exception) -> Iterator[str]:
    if not isinstance(error, ConfigError):
        yield f"for {_said(data)} it raised {type(error).__name__}: {error!s:.200}"


def _said(data: DataSpec) -> str:
    return f"{data.task} of {list(data.shape)} with {data.outputs} outputs"


def _add_seed(checks: Checks) -> None:
    @checks.add(
        "seed",
        "Equal seeds of torch give equal weights, under any other random state, and each build returns a new module.",
        why="The server and every worker build the model separately, and must get the same weights; the seed is set "
        "before build is called.",
        todo="Draw initial weights from torch's global generator; create layers in build, not on the class.",
    )
    def find(s: ModelSubject) -> Iterator[str]:
        for data, module in s.built():
            differs = difference(weights_of(module), weights_of(s.build(data, elsewhere=1)))
            yield from [f"for {_said(data)}: {differs}"] if differs else []
            own = {id(parameter) for parameter in module.parameters()}
            if own & {id(parameter) for parameter in s.build(data).parameters()}:
                yield f"for {_said(data)} two builds share parameters"


def _add_outputs(checks: Checks) -> None:
    @checks.add(
        "outputs",
        "A batch of any size has finite logits [batch, outputs], for characters [batch, window, outputs].",
        why="The loss, the metrics and the predictions of each task read that shape; the last batch of a client may "
        "have one row.",
        todo="End in a linear layer of data.outputs units without softmax; do not normalise over rows.",
    )
    def find(s: ModelSubject) -> Iterator[str]:
        import torch

        for data, module in s.built():
            for training in (False, True):
                for rows in (1, 2, 7):
                    module.train(training)
                    mode = "training" if training else "evaluation"
                    with torch.no_grad():
                        outputs = module(example(data, rows)[0])
                    yield from _output_faults(outputs, data, rows, mode)


def _output_faults(outputs: Any, data: DataSpec, rows: int, mode: str) -> Iterator[str]:
    import torch

    where = f"for {counted(rows, 'row')} of {_said(data)} in {mode}"
    window = data.shape if data.task == "next-character" else ()
    if not isinstance(outputs, torch.Tensor):
        yield f"{where} it returned {type(outputs).__name__}"
    elif tuple(outputs.shape) != (rows, *window, data.outputs):
        yield f"{where} it returned {list(outputs.shape)}, expected {[rows, *window, data.outputs]}"
    elif outputs.dtype != torch.float32:
        yield f"{where} it returned {outputs.dtype}, expected torch.float32"
    elif not bool(torch.isfinite(outputs).all()):
        yield f"{where} it returned values that are NaN or infinite"


def _add_rows(checks: Checks) -> None:
    @checks.add(
        "rows",
        "In evaluation mode a row's outputs depend on that row alone, and are deterministic.",
        why="Rows of several clients are evaluated in one batch and separated afterwards.",
        todo="Respect module.training: no dropout and no batch statistics in evaluation mode.",
    )
    def find(s: ModelSubject) -> Iterator[str]:
        import torch

        for data, module in s.built():
            module.eval()
            x, _ = example(data, 5)
            with torch.no_grad():
                together, again = module(x), module(x)
                alone = torch.cat([module(x[row : row + 1]) for row in range(5)])
            if gap(together.numpy(), again.numpy()) > 0:
                yield f"for {_said(data)} the same batch has different outputs"
            elif gap(together.numpy(), alone.numpy()) > 1e-4 * max(float(together.abs().max()), 1.0):
                yield f"for {_said(data)} a row has different outputs alone and in a batch"


def _add_trains(checks: Checks) -> None:
    @checks.add(
        "trains",
        "A training step has a finite loss and changes the weights.",
        why="Training is the purpose of a model.",
        todo="Let the outputs depend on the parameters: no detach, argmax or rounding in between.",
    )
    def find(s: ModelSubject) -> Iterator[str]:
        for data, module in s.built():
            step = one_step(module, data)
            if not np.isfinite(step.loss):
                yield f"for {_said(data)} the loss is {step.loss}"
            if not step.moved > 0:
                yield f"for {_said(data)} a step changes nothing"

    @checks.add(
        "stored",
        "Weights and buffers restored from a checkpoint give the same outputs.",
        why="Between rounds and in files, a model is only vectors and named tensors; all other attributes are rebuilt.",
        todo="Keep everything that outputs depend on in parameters and persistent buffers, not in attributes.",
    )
    def find_stored(s: ModelSubject) -> Iterator[str]:
        import torch

        from flctl.models.flat_model import FlatModel

        for data, module in s.built():
            one_step(module, data)
            other = FlatModel(s.build(data, seed=99))
            other.load_state_dict_arrays(FlatModel(module).state_dict_arrays())
            x, _ = example(data, 4)
            with torch.no_grad():
                apart = gap(module.eval()(x).numpy(), other.module.eval()(x).numpy())
            yield from [f"for {_said(data)} outputs differ by up to {apart:.3g}"] if apart > 0 else []


MODEL = _all()
