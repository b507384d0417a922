"""The work of `flctl export`, and its report; loaded when it runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flctl import atomic
from flctl.cli.hidden import DISCLOSED, refuse_personal
from flctl.cli.session import current_registry
from flctl.export.folder import Exported, export_model
from flctl.prediction.predictor import Predictor, load_predictor

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ExportReport", "ExportRequest", "run"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A written folder and the model in it."""

    predictor: Predictor
    exported: Exported
    disclosed: bool = False
    """True if the run's aggregator hides the client whose model this is."""

    def data(self) -> dict[str, Any]:
        """Returns the data of the JSON envelope."""
        return {
            "run": self.predictor.name,
            "round": self.predictor.round,
            "client": self.predictor.client,
            "path": self.exported.path.as_posix(),
            "files": dict(self.exported.files),
            "largest_difference": dict(self.exported.differences),
            **({"disclosed": True} if self.disclosed else {}),
        }

    def render(self, console: Console) -> None:
        """Prints the result as text."""
        folder = self.exported.path.as_posix()
        console.print(f"{self.predictor.name}, round {self.predictor.round} -> {folder}", markup=False)
        console.print(f"  {', '.join(self.exported.files)}", markup=False)
        if self.disclosed:
            console.print(f"  --disclose: a model of one client, {DISCLOSED}", markup=False)
        for form, difference in self.exported.differences.items():
            line = f"  {form}: largest difference from the run's own outputs {difference:.2g}, relative"
            console.print(line, markup=False)
        console.print(
            "  column and category names come from the data: read MODEL_CARD.md before you share the folder",
            markup=False,
        )
        script = shlex.quote(f"{folder}/model.py")
        console.print(f"next: python {script} ROWS > predictions.csv", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The model to export, and the folder to write."""

    run: Path
    out: Path
    form: Literal["torch", "onnx"]
    checkpoint: str
    client: str | None
    disclose: bool = False


def run(request: ExportRequest) -> ExportReport:
    """Exports. Raises FlctlError, and leaves no folder then."""
    atomic.refuse_existing(request.out)
    registry = current_registry()
    predictor = load_predictor(request.run, request.checkpoint, request.client, registry)
    disclosed = refuse_personal(predictor, registry, disclose=request.disclose)
    return ExportReport(predictor, export_model(predictor, request.out, request.form, registry), disclosed)
