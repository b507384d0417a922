"""The state of a population's ledger: what was released, by which runs, and what is left of a budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from flctl import ConfigError
from flctl.errors import counted

from flctl_dp.accounting.accountants import guarantee
from flctl_dp.accounting.calibration import PlannedRounds, PrivacyTarget, affordable
from flctl_dp.accounting.figures import rounded_up, weak
from flctl_dp.accounting.releases import Relation
from flctl_dp.budget.statements import statement
from flctl_dp.budget.terms import LEDGER, delta_warning, refuse_delta
from flctl_dp.ledgers.ledger import Ledger, LedgerFile

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["find_ledger", "is_kept", "located", "read_ledger", "render_spent", "spent"]

_DELTA = 1e-5
"""Delta if neither an option nor the ledger names one."""
_MOST = 1 << 20
"""Largest configuration that is read, in bytes."""


def located(path: Path) -> Path:
    """The ledger, folder of ledgers or partition that `path` names; for a run directory, that of its configuration."""
    config = path / "config.yaml"
    if not config.is_file() or config.stat().st_size > _MOST:
        return path
    try:
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{config} is not YAML") from error
    values = values if isinstance(values, dict) else {}
    transforms = values.get("transforms")
    options = transforms.items() if isinstance(transforms, dict) else ()
    named = [one["ledger"] for name, one in options if str(name).startswith("dp") and _names_ledger(one)]
    if named:
        return Path(named[0])
    if not isinstance(values.get("data"), str):
        raise ConfigError(f"{config} has no `data`", hint="Name the ledger or the partition: flctl dp status DIR")
    return Path(values["data"])


def _names_ledger(options: Any) -> bool:
    return isinstance(options, dict) and isinstance(options.get("ledger"), str)


def find_ledger(path: Path) -> LedgerFile:
    """The ledger at `path`, or in the partition there."""
    return LedgerFile(path / LEDGER if path.is_dir() else path)


def is_kept(file: LedgerFile) -> bool:
    """True if a ledger is or was there."""
    return file.path.is_file() or file.path.with_name(file.path.name + ".head").is_file()


def read_ledger(file: LedgerFile) -> Ledger:
    """Returns the ledger. Raises ConfigError if it does not exist, IntegrityError if it was changed."""
    ledger = file.read()
    if ledger is None:
        raise ConfigError(
            f"{file.path} does not exist: there were no releases, or the ledger is elsewhere",
            hint="Name the ledger, the partition or the run directory.",
        )
    return ledger


def spent(file: LedgerFile, delta: float | None, target: float | None) -> dict[str, Any]:
    """The epsilon of a ledger, for the population and for each run, and the rounds left of `target`.

    `target` defaults to the last recorded, which holds at the delta recorded with it; `delta` to that delta, or to that
    of the last charge. Raises ConfigError for a delta of 1 / clients or more.
    """
    ledger = read_ledger(file)
    promise = ledger.promise
    delta = delta or promise.delta or _DELTA
    budget = (target, delta) if target else (promise.target, promise.delta or delta)
    refuse_delta("--delta", delta, promise.units)
    releases, relation = ledger.releases(), ledger.relation
    runs = list(dict.fromkeys(charge.run for charge in ledger.charges))
    epsilon = guarantee(releases, delta, relation).epsilon
    data: dict[str, Any] = {
        "ledger": file.path.as_posix(),
        "population": ledger.population,
        "relation": relation,
        "delta": delta,
        "charges": len(ledger.charges),
        "epsilon": epsilon,
        "observer_epsilon": guarantee(releases, delta, relation, "observer").epsilon,
        "runs": [_of_run(ledger, run, delta, relation) for run in runs],
        "statement": statement(releases, delta, relation),
        "warnings": [text for text in (delta_warning(delta, promise.units), weak(epsilon)) if text],
    }
    return {**data, **_left(ledger, *budget)}


def _left(ledger: Ledger, target: float | None, delta: float) -> dict[str, Any]:
    """The rounds like the last that are left of a target, at its delta."""
    if target is None or not ledger.charges:
        return {}
    last = ledger.charges[-1]
    more = PlannedRounds.after(ledger.releases(), last.release, 1 << 20, first=last.round + 1)
    left = affordable(more, PrivacyTarget(target, delta, ledger.relation))
    return {"target_epsilon": target, "target_delta": delta, "rounds_left": left, "like": str(last.release)}


def _of_run(ledger: Ledger, run: str, delta: float, relation: Relation) -> dict[str, Any]:
    releases = ledger.releases(run)
    epsilon = guarantee(releases, delta, relation).epsilon
    return {"run": run, "charges": sum(releases.values()), "epsilon": epsilon}


def render_spent(console: Console, data: Mapping[str, Any]) -> None:
    """Prints the state of a ledger."""
    console.print(f"{counted(data['charges'], 'release')} of the population {data['population'][:24]}", markup=False)
    console.print(data["statement"], markup=False)
    for run in data["runs"]:
        said = f"  run {run['run'][:12]}: {counted(run['charges'], 'release')}, eps={rounded_up(run['epsilon'])}"
        console.print(said, markup=False)
    if "rounds_left" in data:
        left, budget = data["rounds_left"], f"eps={data['target_epsilon']:g}, delta={data['target_delta']:g}"
        rounds = "1 more round" if left == 1 else f"{left} more rounds"
        console.print(f"{rounds} like the last ({data['like']}) possible within {budget}", markup=False)
    for warning in data["warnings"]:
        console.print(f"warning: {warning}", markup=False)
