"""The work of `flctl export`, and its report; loaded when it runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flctl import atomic
from flctl.cli.session import current_registry
from flctl.export.folder import Exported, export_model
from flctl.prediction.predictor import Predictor, load_predictor

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ExportReport", "run"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A written folder and the model in it."""

    predictor: Predictor
    exported: Exported

    def data(self) -> dict[str, Any]:
        """For the envelope."""
        return {
            "run": self.predictor.name,
            "round": self.predictor.round,
            "client": self.predictor.client,
            "path": self.exported.path.as_posix(),
            "files": dict(self.exported.files),
            "largest_difference": dict(self.exported.differences),
        }

    def render(self, console: Console) -> None:
        """For people."""
        folder = self.exported.path.as_posix()
        console.print(f"{self.predictor.name}, round {self.predictor.round} -> {folder}", markup=False)
        console.print(f"  {', '.join(self.exported.files)}", markup=False)
        for form, difference in self.exported.differences.items():
            line = f"  {form}: largest difference from the run's own outputs {difference:.2g}, relative"
            console.print(line, markup=False)
        console.print(
            "  column and category names come from the data: read MODEL_CARD.md before you share the folder",
            markup=False,
        )
        script = shlex.quote(f"{folder}/model.py")
        console.print(f"next: python {script} ROWS > predictions.csv", markup=False, soft_wrap=True)


def run(path: Path, out: Path, form: Literal["torch", "onnx"], checkpoint: str, client: str | None) -> ExportReport:
    """Exports. Raises FlctlError, and leaves no folder then."""
    atomic.refuse_existing(out)
    registry = current_registry()
    predictor = load_predictor(path, checkpoint, client, registry)
    return ExportReport(predictor, export_model(predictor, out, form, registry))
