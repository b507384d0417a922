"""Settings of a site's machine, in `site.yaml` of its home: how its worker is confined."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from flctl.component import Options
from flctl.config.problems import Problem, refuse
from flctl.config.yaml_reader import parse, plain, read_source
from flctl.errors import plain_words

__all__ = ["SETTINGS_FILE", "SiteSettings", "WorkerOptions", "read_settings"]

SETTINGS_FILE = "site.yaml"


class WorkerOptions(Options):
    """The worker process, which runs model code on the site's rows."""

    prefix: tuple[str, ...] = Field(
        default=(), description="Command before the worker's own, which confines it: bwrap, systemd-run, apptainer."
    )


class SiteSettings(Options):
    """The content of `site.yaml`."""

    worker: WorkerOptions = Field(default=WorkerOptions(), description="The worker process.")


def read_settings(home: Path) -> SiteSettings:
    """Reads the settings in a home; the defaults without a file. Raises ConfigError with every problem."""
    path = home / SETTINGS_FILE
    if not path.exists():
        return SiteSettings()
    source = read_source(path)
    node, problems = parse(source)
    if problems:
        raise refuse(problems)
    try:
        return SiteSettings.model_validate_json(json.dumps(plain(node) or {}))
    except ValidationError as error:
        found = [
            Problem(f"{'.'.join(map(str, one['loc']))}: {plain_words(one['msg'])}", source.place())
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise refuse(found) from error
