"""Writes the folder of an exported model, and checks that it gives the run's own outputs before it appears."""

from __future__ import annotations

import hashlib
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from flctl import atomic
from flctl.component import Catalogue
from flctl.data.extras import optional
from flctl.errors import FlctlError, MissingExtraError
from flctl.export.card import CardFacts, model_card
from flctl.export.network import exported_program, network_source, quiet
from flctl.partition.skew import skew_of
from flctl.prediction.predictor import Predictor, require_inputs
from flctl.stored.load import assess, from_run, own_partition

__all__ = ["FORMATS", "TOLERANCE", "Exported", "export_model"]

FORMATS = ("torch", "onnx")
TOLERANCE = 1e-5
"""Largest difference between the exported model's outputs and the run's, relative to outputs beyond 1."""
RUNTIME = Path(__file__).with_name("runtime.py")


@dataclass(frozen=True, slots=True)
class Exported:
    """A written folder, its files by digest, and the largest difference from the run's own outputs by format."""

    path: Path
    files: Mapping[str, str]
    differences: Mapping[str, float]


def export_model(predictor: Predictor, out: Path, form: Literal["torch", "onnx"], registry: Catalogue) -> Exported:
    """Writes weights, network, preprocessing, `model.py` and the model card into the new directory `out`.

    With `onnx` also `model.onnx`, checked against torch. Raises IncompatibleError for a model that is not made of
    torch's own operations, MissingExtraError without the packages of ONNX, ConfigError if `out` exists.
    """
    from safetensors.numpy import save_file

    if predictor.fitted.is_table and predictor.fitted.features:
        require_inputs(predictor.fitted, "the exported model's source")
    atomic.refuse_existing(out)
    example = _examples(predictor)
    program = exported_program(predictor.model.module, _tensor(example))
    with atomic.new_directory(out) as folder:
        save_file(predictor.model.state_dict_arrays(), folder / "model.safetensors")
        (folder / "network.py").write_text(network_source(program), encoding="utf-8")
        (folder / "preprocessing.json").write_bytes(predictor.fitted.serialise())
        (folder / "model.py").write_bytes(RUNTIME.read_bytes())
        (folder / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        differences = {
            "torch": max(_difference_of_folder(predictor, folder, part) for part in _parts(predictor, example))
        }
        if form == "onnx":
            _write_onnx(folder / "model.onnx", program)
            found, expected = _of_onnx(folder / "model.onnx", example), _outputs(predictor, example)
            differences["onnx"] = _checked(found, expected, "onnx")
        files = {path.name: _digest(path) for path in sorted(folder.iterdir())}
        (folder / "MODEL_CARD.md").write_text(model_card(_facts(predictor, files, registry)), encoding="utf-8")
    return Exported(out, {**files, "MODEL_CARD.md": _digest(out / "MODEL_CARD.md")}, differences)


def _facts(predictor: Predictor, files: Mapping[str, str], registry: Catalogue) -> CardFacts:
    partition = own_partition(predictor.config, predictor.directory)
    if partition is None:
        return CardFacts(predictor, None, None, None, files)
    evaluated = None
    if predictor.client is None and (partition.manifest.rows.test or partition.manifest.rows.central_test):
        evaluated = assess(from_run(predictor.directory.path, str(predictor.round), None, registry))
    return CardFacts(predictor, partition, skew_of(partition, duplicates=False), evaluated, files)


def _examples(predictor: Predictor) -> npt.NDArray[Any]:
    """Seeded inputs [n, *shape] as the network takes them: no row of the data."""
    fitted, rng = predictor.fitted, np.random.default_rng(0)
    if fitted.task == "next-character":
        return rng.integers(0, len(fitted.classes), (5, *fitted.shape))
    return rng.normal(size=(5, *fitted.shape)).astype(np.float32)


def _parts(predictor: Predictor, example: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The example, and of text also a shorter window: the network was traced with the whole one."""
    return [example, example[:, :1]] if predictor.fitted.task == "next-character" else [example]


def _difference_of_folder(predictor: Predictor, folder: Path, example: npt.NDArray[Any]) -> float:
    try:
        found = _of_folder(folder, example)
    except (RuntimeError, ValueError, IndexError) as error:
        raise FlctlError(f"the exported network does not run: {str(error).partition(chr(10))[0][:200]}") from error
    return _checked(found, _outputs(predictor, example), "torch")


def _tensor(example: npt.NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(example[:2])


def _outputs(predictor: Predictor, example: npt.NDArray[Any]) -> npt.NDArray[Any]:
    import torch

    with torch.no_grad():
        return np.asarray(predictor.model.module.eval()(torch.from_numpy(example)).numpy())


def _of_folder(folder: Path, example: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Outputs of the written folder, by its own `model.py`."""
    written = runpy.run_path(str(folder / "model.py"))  # unlike an import it leaves no bytecode in the folder
    return np.asarray(written["load_model"](str(folder)).outputs(example))


def _checked(found: npt.NDArray[Any], expected: npt.NDArray[Any], form: str) -> float:
    """The largest difference. Raises FlctlError above the tolerance."""
    difference = float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max(initial=0.0))
    if not difference <= TOLERANCE:
        raise FlctlError(
            f"the outputs of the {form} export differ from the run's model: largest difference {difference:.3g}, "
            f"tolerance {TOLERANCE:g}; nothing was written",
            hint="Check whether the model draws random numbers in evaluation mode.",
        )
    return difference


def _write_onnx(path: Path, program: Any) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _needs(package)
    import torch

    with quiet():
        written = torch.onnx.export(program, dynamo=True, verbose=False, optimize=True)
        if written is None:
            raise FlctlError("torch wrote no ONNX model")
        written.save(path)


def _needs(package: str) -> Any:
    try:
        return optional(package, package, "ONNX models")
    except MissingExtraError as error:
        message = f"--format onnx needs {package}, which is not installed"
        raise MissingExtraError(message, hint="pip install 'flctl[onnx]'") from error


def _of_onnx(path: Path, example: npt.NDArray[Any]) -> npt.NDArray[Any]:
    runtime = _needs("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: example})[0])


def _requirements() -> str:
    return "".join(f"{name}>={version(name).partition('+')[0]}\n" for name in ("torch", "numpy"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
