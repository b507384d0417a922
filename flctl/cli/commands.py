"""The built-in subcommands, one file each."""

from __future__ import annotations

import typer

from flctl.cli import bench, config, demo, doctor, eval, partition, plot, plugins, runs, train  # noqa: A004

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds them to the application, in the order that `--help` shows."""
    for command in (partition, train, eval, plot, runs, demo, config, plugins, doctor, bench):
        command.register(app)
