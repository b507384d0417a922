"""How far an attack got, beside what it does to the model's accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flctl import evaluate
from flctl.attacks.on_rows import Backdoor
from flctl.outcomes import Labelled

if TYPE_CHECKING:
    from flctl.run import Run
    from flctl.tasks import Task
    from flctl.trainer import FlatModel

__all__ = ["backdoor_success"]


def backdoor_success(run: Run, model: FlatModel, task: Task) -> dict[str, float]:
    """The share of central test rows of other classes that the model takes for the target once they have the trigger;
    nothing where there is no backdoor, or no such row."""
    attack = run.adversary.attack
    if not isinstance(attack, Backdoor):
        return {}
    x, y = run.partition.central_test()
    others = y != attack.config.target
    if not others.any():
        return {}
    marked, wanted = attack.altered(x[others], y[others])
    outcomes = evaluate.run_model(model, task, marked, wanted, run.config.eval.batch_size)
    if not isinstance(outcomes, Labelled):
        return {}
    return {"backdoor_success": float(np.mean(outcomes.prediction == attack.config.target))}
