"""`flctl runs`: lists and shows runs, and repeats one client's work of one round."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flctl.cli import output, profiles
from flctl.cli.complete import complete_runs
from flctl.cli.output import JsonFlag
from flctl.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from flctl.run.directory import RunDirectory

__all__ = ["register"]

RUNS = Path("runs")
SHOWN = 20
"""Malicious clients whose ids are shown."""
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.", autocompletion=complete_runs)]


def register(app: typer.Typer) -> None:
    """Adds `runs` to the application."""
    runs = typer.Typer(no_args_is_help=True, help="List runs, show one, replay one client of a round.")
    runs.command("list")(list_runs)
    runs.command("show")(show)
    runs.command("replay")(replay)
    app.add_typer(runs, name="runs")


def list_runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that holds runs.")] = RUNS,
    as_json: JsonFlag = False,
) -> None:
    """List the runs in a folder, newest last."""
    from flctl.errors import ConfigError, FlctlError
    from flctl.run.directory import RUN, RunDirectory

    if folder != RUNS and not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="Name the folder that holds run directories.")
    found = sorted(folder.glob(f"*/{RUN}"), key=lambda path: path.stat().st_mtime)
    rows = []
    for path in found:
        try:
            rows.append(_facts(RunDirectory(path.parent)))
        except FlctlError as error:  # one damaged run must not hide the others
            output.warn(f"{path.parent} cannot be read: {error.message}")
    output.emit(
        "runs list", {"runs": rows}, as_json=as_json, render=lambda console: _render_list(console, folder, rows)
    )


def show(run: RunArgument, as_json: JsonFlag = False) -> None:
    """Show a run: its configuration, progress, rounds and checkpoints."""
    from flctl.run.directory import RunDirectory

    directory = RunDirectory(run)
    lines = directory.lines()
    data = {
        **_facts(directory),
        "facts": directory.facts,
        "config": _config_text(directory.config_file),
        "checkpoints": directory.checkpoints.rounds(),
        "summary": directory.summary(),
        "attack": directory.attack(),
        "profile": _profile(directory),
        "lines": lines,
    }
    output.emit("runs show", data, as_json=as_json, render=lambda console: _render_run(console, data))


def replay(
    run: RunArgument,
    round_number: Annotated[int, typer.Option("--round", metavar="N", min=1, help="The round to repeat.")],
    client: Annotated[str, typer.Option("--client", metavar="ID", help="The client whose work to repeat.")],
    disclose: Annotated[
        bool, typer.Option("--disclose", help="Allow this even if the run's aggregator hides clients.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Repeat one client's work of one round in this process and show the outcome. Nothing is written or charged."""
    from flctl.cli.runs.replay import replay_client

    data = replay_client(run, round_number, client, disclose=disclose)
    output.emit("runs replay", data, as_json=as_json, render=lambda console: _render_replay(console, data))


def _config_text(path: Path) -> str:
    """Returns the stored configuration for display, even if it is damaged."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else f"# {path.name} is missing"


def _profile(directory: RunDirectory) -> Mapping[str, Any] | None:
    from flctl.performance.profile import checked

    found = directory.profile()
    return None if found is None else checked(found, f"{directory.path}/profile.json")


def _facts(directory: RunDirectory) -> dict[str, Any]:
    summary = directory.summary() or {}
    lines = directory.lines()
    return {
        "run": str(directory.path),
        "rounds": len(lines),
        "status": summary.get("status", "unfinished"),
        "metric": summary.get("metric"),
        "best": summary.get("best", {}).get("value"),
        "final": summary.get("final", {}),
    }


def _render_list(console: Console, folder: Path, rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print(f"no runs in {folder}; `flctl train` makes one", markup=False)
        return
    cells = ((row["run"], row["rounds"], row["status"], row["metric"] or "", _number(row["best"])) for row in rows)
    output.table(console, ("run", "rounds", "status", "metric", "best"), cells)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _render_run(console: Console, data: dict[str, Any]) -> None:
    console.print(f"{data['run']}: {data['status']} after round {data['rounds']}", markup=False)
    versions = "  ".join(f"{name} {value}" for name, value in data["facts"]["versions"].items())
    console.print(versions, markup=False)
    console.print(f"checkpoints: {', '.join(map(str, data['checkpoints']))}", markup=False)
    if data["attack"] is not None:
        console.print(output.plain(_attack(data["attack"])), markup=False)
    console.print()
    console.print(data["config"].rstrip(), markup=False)
    names = _columns(data)
    shown = data["lines"] if len(data["lines"]) <= 20 else [*data["lines"][:5], *data["lines"][-15:]]
    output.table(console, names, ([_cell(line, name) for name in names] for line in shown))
    if len(shown) < len(data["lines"]):
        hidden = len(data["lines"]) - len(shown)
        console.print(f"{counted(hidden, 'round')} not shown; metrics.jsonl has all", markup=False)
    notes = [f"round {line['round']}: {note}" for line in data["lines"] for note in line.get("notes", ())]
    for note in notes:
        console.print(output.plain(f"note: {note}"), markup=False)
    if data["profile"] is not None:
        profiles.render(console, data["profile"])


def _columns(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns of the table of rounds, few enough for a terminal 80 characters wide."""
    metric = data["metric"] or "accuracy"
    if data["attack"] is None:
        loss = "validation_loss" if any("validation_loss" in line for line in data["lines"]) else "test_loss"
        return ("round", "loss", loss, metric, "answered", "bytes_up", "seconds")
    backdoor = any("backdoor_success" in line for line in data["lines"])
    return ("round", "loss", metric, *(["backdoor_success"] if backdoor else []), "attackers", "answered", "seconds")


def _attack(found: Mapping[str, Any]) -> str:
    """Returns a line with the attack and its malicious clients."""
    ids = found["malicious"]
    named = ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
    return f"attack {found['name']}: {len(ids)} of {counted(found['clients'], 'client')} malicious ({named})"


def _cell(line: dict[str, Any], name: str) -> str:
    value = line.get(name)
    if name == "seconds":
        return f"{line['seconds']['total']:.2f}"
    return f"{value:.4f}" if isinstance(value, float) else ("" if value is None else f"{value:,}")


def _render_replay(console: Console, data: Mapping[str, Any]) -> None:
    for name, value in data.items():
        shown = "unknown" if name == "in_cohort" and value is None else value
        console.print(f"{name}: {shown}", markup=False)
