"""The built-in subcommands, one file each."""

from __future__ import annotations

import typer

from flctl.cli import bench, config, demo, doctor, federation, plot, site
from flctl.cli.baselines import command as baselines_command
from flctl.cli.eval import command as eval_command
from flctl.cli.export import command as export_command
from flctl.cli.partition import command as partition_command
from flctl.cli.plugins import command as plugins_command
from flctl.cli.predict import command as predict_command
from flctl.cli.runs import command as runs_command
from flctl.cli.train import command as train_command

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds them to the application, in the order that `--help` shows."""
    for module in (
        partition_command,
        train_command,
        eval_command,
        baselines_command,
        predict_command,
        export_command,
        plot,
        runs_command,
        federation,
        site,
        demo,
        config,
        plugins_command,
        doctor,
        bench,
    ):
        module.register(app)
