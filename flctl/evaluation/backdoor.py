"""Success rate of a backdoor attack, measured beside the model's accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flctl.evaluation import evaluate
from flctl.evaluation.outcomes import ClassificationOutcomes
from flctl.simulation.attacks.on_rows import Backdoor

if TYPE_CHECKING:
    from flctl.models.flat_model import FlatModel
    from flctl.models.tasks import Task
    from flctl.run.run import Run

__all__ = ["backdoor_success"]


def backdoor_success(run: Run, model: FlatModel, task: Task) -> dict[str, float]:
    """Fraction of the scored rows of other classes that the model predicts as the target once they have the trigger.

    Empty if the run has no backdoor attack, or no such rows.
    """
    attack = run.adversary.attack
    if not isinstance(attack, Backdoor):
        return {}
    x, y = run.scored.central_test()
    others = y != attack.config.target
    if not others.any():
        return {}
    marked, wanted = attack.altered(x[others], y[others])
    outcomes = evaluate.run_model(model, task, marked, wanted, run.config.eval.batch_size)
    if not isinstance(outcomes, ClassificationOutcomes):
        return {}
    return {"backdoor_success": float(np.mean(outcomes.prediction == attack.config.target))}
