"""`flctl demo --network`: a hub, a coordinator and three sites on this machine, from the keys to the trained model."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flctl.cli import output
from flctl.errors import FlctlError, command_line, counted
from flctl.results import reserved_stdout

__all__ = ["NetworkDemo"]

SITES = ("elm-street", "st-marys", "trinity")
COORDINATOR, FEDERATION = "uni", "hospitals"
ROUNDS = 5
WAIT_SECONDS = 300.0
LAST_LINES = 8
"""Lines of a log that an error shows."""
POLICY = """\
approve: each
ask_for: [train, evaluate]
coordinators: [uni]
allow: {strategies: [fedavg], models: [logreg], transforms: [], aggregators: [plain], plugins: []}
limits: {rounds: 20, local_epochs: 2, minutes_a_round: 5, rounds_an_hour: 1000, gb_a_day: 1, min_rows: 30, min_sites: 3,
         runs_at_once: 1}
share: {metrics: [count, loss], rows: exact, errors: kind}
"""


@dataclass
class NetworkDemo:
    """Runs the demo below `folder`. Each step is an `flctl` command, shown as it runs.

    The hub, the sites' agents and `flctl train` are processes; they end with the demo, also if it fails.
    """

    folder: Path
    commands: list[str] = field(default_factory=list)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Returns the facts of the demo: its folder, the commands, and the digests of the two models, which are equal.

        Raises FlctlError if a step fails.
        """
        started = time.monotonic()
        self.folder.mkdir(parents=True)
        self._write_tables()
        with ExitStack() as running:
            self._enrol(running)
            self._pack()
            for site in SITES:
                running.enter_context(self._process(site, "site", "serve", "--home", self._home(site)))
            training = running.enter_context(self._process("train", *self._training()))
            self._approve()
            self._title("The rounds as the coordinator's command prints them")
            self._await("the training to end", partial(_has_succeeded, training))
            self._say(_last_lines(self._log("train"), ROUNDS + 2))
        digests = self._compare()
        return {
            "folder": self.folder.as_posix(),
            "commands": self.commands,
            "model": digests[0],
            "twin": digests[1],
            "seconds": round(time.monotonic() - started, 1),
        }

    # the steps

    def _write_tables(self) -> None:
        """One table for each site: a third of the breast cancer data that scikit-learn ships, every third row."""
        from sklearn.datasets import load_breast_cancer

        data = load_breast_cancer()
        names = [str(name).replace(" ", "_") for name in data.feature_names]
        words = [str(data.target_names[code]) for code in data.target]
        for number, site in enumerate(SITES):
            rows = range(number, len(words), len(SITES))
            lines = [",".join([*(f"{value:.6g}" for value in data.data[row]), words[row]]) for row in rows]
            self._table(site).write_text("\n".join([",".join([*names, "diagnosis"]), *lines]) + "\n")
        tables = ", ".join(self._table(site).as_posix() for site in SITES)
        self._say(f"three tables with {counted(len(words), 'row')} in all: {tables}")

    def _enrol(self, running: ExitStack) -> None:
        self._title("The operator makes the federation and serves its hub")
        url = f"https://127.0.0.1:{_free_port()}"
        self._flctl("federation", "init", FEDERATION, "--url", url, "--home", self.folder / "operator")
        running.enter_context(
            self._process("hub", "federation", "serve", "--home", self.folder / "operator", "--host", "127.0.0.1")
        )
        self._await("the hub", (self.folder / "operator" / "hub" / "serving.json").exists)
        self._title("Sites and the coordinator make their keys, and the operator admits them by their words")
        for name in (COORDINATOR, *SITES):
            self._admit(name)

    def _admit(self, name: str) -> None:
        operator, role = ("--home", self.folder / "operator"), ("--coordinator",) if name == COORDINATOR else ()
        invite = self._flctl("federation", "invite", name, *role, *operator)["invite"]
        group = "federation" if name == COORDINATOR else "site"
        words = self._flctl(group, "join", invite, "--home", self._home(name))["words"]
        self._flctl("federation", "admit", name, "--words", words, *operator)

    def _pack(self) -> None:
        self._title("Sites agree on a schema and pack their rows; only the numbers of rows are declared")
        schema = self.folder / "tumour.schema.yaml"
        draft = self._flctl("site", "data", self._table(SITES[0]), "--propose", "--target", "diagnosis")["draft"]
        schema.write_text(draft)
        declared: list[object] = []
        for site in SITES:
            home = self._home(site)
            self._flctl("site", "data", self._table(site), "--schema", schema, "--home", home)
            (home / "policy.yaml").write_text(POLICY)
            declared += ["--declared", home / "declared.json"]
        self._say(f"each site's policy.yaml:\n{POLICY}")
        self._flctl("federation", "data", FEDERATION, "--schema", schema, *declared, "--out", self.folder / "fed")

    def _training(self) -> Sequence[object]:
        self._title("The coordinator asks for a run, and waits until each site has approved its plan")
        home = f"engine.home={self._home(COORDINATOR).as_posix()}"
        return (
            *("train", self.folder / "fed", *_settings(), "--purpose", "a demo on public data", "-o", home),
            *("--out", self.folder / "run"),
        )

    def _approve(self) -> None:
        for site in SITES:
            plans = self._home(site) / "runs"
            self._await(f"the plan to reach {site}", partial(_has_plan, plans))
            (run,) = (path.parent.name for path in plans.glob("*/plan.json"))
            if site == SITES[0]:
                self._shown("site", "review", run, "--home", self._home(site))
            self._flctl("site", "approve", run, "--reason", "public data", "--home", self._home(site))

    def _compare(self) -> tuple[str, str]:
        """Trains on all rows together, which only a demo can, and compares the bits of the models."""
        self._title("The same run simulated on all three tables together gives the same bits")
        from flctl.cli.session import current_registry
        from flctl.federation.schema.read import open_schema
        from flctl.federation.schema.rows import read_rows
        from flctl.federation.site.data import pack

        schema = open_schema(self.folder / "tumour.schema.yaml")
        rows = {site: read_rows(str(self._table(site)), schema, current_registry()) for site in SITES}
        pack(self.folder / "twin", schema, rows, 0.2)
        twin = self.folder / "run-twin"
        self._shown("train", self.folder / "twin", *_settings(), "-o", "engine.alone=true", "--out", twin)
        digests = _model_digest(self.folder / "run"), _model_digest(twin)
        if digests[0] != digests[1]:
            raise FlctlError(f"the models differ: {digests[0]} at the sites, {digests[1]} simulated")
        self._say(f"equal, bit for bit: model.safetensors of round {ROUNDS} has the SHA-256 {digests[0]}")
        return digests

    # parts

    def _flctl(self, *words: object) -> dict[str, Any]:
        """Runs a command in this process, and returns the data of its result."""
        from flctl.cli import run

        self._command(words)
        printed = io.StringIO()
        with reserved_stdout(printed):
            code = run([*map(str, words), "--json"])
        answer = json.loads(printed.getvalue().splitlines()[-1])
        if code:
            raise FlctlError(f"the command '{' '.join(map(str, words[:2]))}' failed: {answer['error']['message']}")
        return dict(answer["data"])

    def _shown(self, *words: object) -> None:
        """Runs a command in this process, and shows what it prints."""
        from flctl.cli import run

        self._command(words)
        code = run([*map(str, words)])
        if code:
            raise FlctlError(f"the command '{' '.join(map(str, words[:2]))}' ended with the exit code {code}")

    @contextmanager
    def _process(self, name: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
        """A command as a process of its own, with its output in a log, until the block ends."""
        self._command(words)
        with self._log(name).open("wb") as written:
            process = self._processes[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "flctl", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await(self, what: str, there: Callable[[], bool]) -> None:
        """Waits for something. Raises FlctlError with the ends of the logs after some minutes, or at once if a process
        of the demo has ended."""
        until = time.monotonic() + WAIT_SECONDS
        while not there():
            for name, process in self._processes.items():
                if process.poll() is not None and not there():
                    raise FlctlError(
                        f"waited for {what}; '{name}' ended with exit code {process.returncode}, and its log ends:\n"
                        + _last_lines(self._log(name)),
                        hint=f"Read {self._log(name)}.",
                    )
            if time.monotonic() > until:
                logs = "\n".join(f"{name}: {_last_lines(self._log(name), 1)}" for name in self._processes)
                raise FlctlError(f"waited {WAIT_SECONDS:.0f} s for {what}; the logs end:\n{logs}")
            time.sleep(0.1)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _command(self, words: Sequence[object]) -> None:
        self.commands.append(command_line("flctl", *words))
        shown = command_line("flctl", *map(_brief, words))
        output.stdout().print(f"[bold]$ {shown}[/]" if "[" not in shown else f"$ {shown}", soft_wrap=True)

    def _title(self, text: str) -> None:
        output.stdout().print(f"\n[bold]{text}[/]", soft_wrap=True)

    def _say(self, text: str) -> None:
        output.stdout().print(text, markup=False, soft_wrap=True)

    def _home(self, name: str) -> Path:
        return self.folder / name

    def _table(self, site: str) -> Path:
        return self.folder / f"{site}.csv"


def _has_succeeded(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() == 0


def _brief(word: object) -> object:
    """A word of a command as it is shown; of an invite, which fills several lines, the first letters."""
    return f"{word[:20]}..." if isinstance(word, str) and word.startswith("flctl-invite:") else word


def _has_plan(runs: Path) -> bool:
    return any(runs.glob("*/plan.json"))


def _settings() -> tuple[str, ...]:
    """The settings of both runs."""
    return ("--model", "logreg", "--strategy", "fedavg", "--rounds", str(ROUNDS), "--lr", "0.1", "--seed", "7")


def _model_digest(run: Path) -> str:
    """SHA-256 of the model after the last round."""
    (file,) = (run / "checkpoints").glob(f"*{ROUNDS}/model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _last_lines(log: Path, count: int = LAST_LINES) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return "\n".join(lines[-count:]) or "no output"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
