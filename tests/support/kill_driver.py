"""Trains runs that are killed (SIGKILL, no clean-up) at every n-th durable operation, and resumes them; run by
test_resume.py in a process of its own, because it forks.

Arguments: PARTITION FOLDER STRATEGY STRIDE (every so many operations). Prints a JSON list of the runs that were
killed and finished.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path

from flctl.config.load import load
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry
from flctl.report import curves
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from support import make_run

OPERATIONS = ("fsync", "rename", "replace", "unlink", "mkdir", "rmdir", "open", "pwrite", "pwritev")
OVERRIDES = ("rounds=5", "checkpoint.every=2", "checkpoint.seconds=0", "local.epochs=2")


def armed(countdown: int) -> None:
    """From now on the `countdown`-th durable operation is the last thing that this process begins."""
    left = [countdown]

    def lethal(name: str):
        original = getattr(os, name)

        def operation(*args, **kwargs):
            if name != "open" or (len(args) > 1 and args[1] & (os.O_WRONLY | os.O_RDWR)):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return operation

    for name in OPERATIONS:
        setattr(os, name, lethal(name))


def attempt(partition: Partition, path: Path, strategy: str, countdown: int | None) -> bool:
    """One process's life: makes the run or goes on with it. Whether it finished."""
    child = os.fork()
    if child == 0:
        if countdown is not None:
            armed(countdown)
        if (path / "run.json").is_file():
            directory = RunDirectory(path)
            registry = Registry(files=[Path(__file__).with_name("remembering_strategy.py")])
            config = load(registry, file=directory.config_file).config
            run = Run.build(config, registry, partition, directory.memory)
        else:
            registry = Registry(files=[Path(__file__).with_name("remembering_strategy.py")])
            run, directory = make_run(partition, path, f"strategy={strategy}", *OVERRIDES, registry=registry)
        train(run, directory)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def import_what_runs_use(partition: Partition, folder: Path) -> None:
    """Imports, before anything is forked, what runs import as they train: most of a short one's CPU time."""
    child = os.fork()
    if child == 0:
        train(*make_run(partition, folder / "tried", *OVERRIDES))
        (folder / "modules").write_text("\n".join(sys.modules))
        os._exit(0)
    os.waitpid(child, 0)
    for name in (folder / "modules").read_text().split("\n"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy every page of what was imported


def main() -> None:
    partition, folder, strategy = Partition.open(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    curves.curves = lambda *args: None  # a picture takes longer than all rounds, and nothing rests on it
    import_what_runs_use(partition, folder)
    attempt(partition, folder / "whole", strategy, None) or sys.exit(1)
    kills, countdown = [], 1
    while True:
        path = folder / f"killed-{countdown}"
        if attempt(partition, path, strategy, countdown):
            break
        attempt(partition, path, strategy, 5)  # and again, soon after it went on
        attempt(partition, path, strategy, None) or sys.exit(2)
        kills.append(path.name)
        countdown += int(sys.argv[4])
    print(json.dumps(kills))


if __name__ == "__main__":
    main()
