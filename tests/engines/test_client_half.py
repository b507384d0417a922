"""The aggregator's client half and its keys stay out of the process that runs model code."""

import secrets
import subprocess
import sys

import pytest
from support import checkpoint_digests, make_run, train_run, untimed_lines

from flctl.engines.opening import Opening

SPY = '''
import os
import re
from pathlib import Path

from pydantic import Field

import flctl
from flctl.algorithms.aggregators.plain import PlainAggregator

KEY = re.compile(bytes([67, 65, 78, 65, 82, 89]) + b"-[0-9a-f]{32}")


def readable():
    "What this process can read of itself: its memory, its open files, its environment and its command line."
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            start, stop = (int(number, 16) for number in span.split("-"))
            if rights.startswith("rw") and "[v" not in line and stop - start < 1 << 28:
                try:
                    memory.seek(start)
                    yield memory.read(stop - start)
                except (OSError, ValueError, OverflowError):
                    continue
    for name in ("environ", "cmdline"):
        yield Path("/proc/self", name).read_bytes()
    for entry in os.scandir("/proc/self/fd"):
        if os.path.isfile(entry.path):
            yield Path(entry.path).read_bytes()


class Spy(flctl.Strategy):
    name = "spy"

    def report(self, local, work, memory):
        found = sum(len(KEY.findall(part)) for part in readable())
        Path("FOUND").open("a").write(f"{found > 0}\\n")
        return super().report(local, work, memory)


class Keyed(PlainAggregator):
    """Reads its key from a file, and sums in the clear."""

    name = "keyed"
    transparent = False

    class Config(PlainAggregator.Config):
        keys: str | None = Field(None, json_schema_extra={"place": "path"})

    def client(self, memory, message, vector, ctx):
        self._key = Path(self.config.keys).read_bytes()
        return super().client(memory, message, vector, ctx)


@flctl.hookimpl
def flctl_strategies():
    return [Spy]


@flctl.hookimpl
def flctl_aggregators():
    return [Keyed]
'''


@pytest.fixture
def spied(toy, tmp_path, monkeypatch):
    """Trains with a strategy that searches its process for the aggregator's key; returns what each client found."""
    file, key, found = tmp_path / "spy.py", tmp_path / "client.key", tmp_path / "found"
    file.write_text(SPY.replace("FOUND", found.as_posix()))
    key.write_text(f"CANARY-{secrets.token_hex(16)}")

    def train(*settings):
        named = (f"plugins=[{file.as_posix()}]", "strategy=spy", "aggregator.name=keyed", "rounds=2",
                 f"aggregator.keys={key.as_posix()}")  # fmt: skip
        train_run(toy, tmp_path / "run", *named, *settings)
        return found.read_text().split()

    return train


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_model_code_in_a_worker_cannot_find_the_keys_of_the_client_half(spied):
    assert spied("engine.name=pool", "engine.workers=1") == ["False"] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_search_for_keys_finds_them_where_all_is_one_process(spied):
    assert spied("engine.name=inprocess")[-1] == "True"


ROLL_CALL = """
import flctl
from support.aggregators import RollCall

@flctl.hookimpl
def flctl_aggregators():
    return [RollCall]
"""


def test_an_aggregator_of_several_phases_gives_the_same_bits_in_this_process_and_in_workers(toy, tmp_path):
    file = tmp_path / "roll_call.py"
    file.write_text(ROLL_CALL)
    settings = (f"plugins=[{file.as_posix()}]", "aggregator.name=roll-call", "rounds=2")
    train_run(toy, tmp_path / "here", *settings)
    train_run(toy, tmp_path / "pool", *settings, "engine.name=pool", "engine.workers=2")
    assert checkpoint_digests(tmp_path / "pool") == checkpoint_digests(tmp_path / "here")
    assert untimed_lines(tmp_path / "pool") == untimed_lines(tmp_path / "here")


def test_a_worker_is_told_no_option_of_the_aggregator_that_names_a_file(toy, tmp_path):
    file = tmp_path / "spy.py"
    file.write_text(SPY)
    run, _ = make_run(toy, tmp_path / "run", f"plugins=[{file.as_posix()}]", "aggregator.name=keyed",
                      "aggregator.keys=/secret")  # fmt: skip
    assert Opening.of(run).config["aggregator"] == {"name": "keyed"}


LIGHT = """
import sys
import flctl.client.client_half
import flctl.engines.worker_process
print("torch" in sys.modules)
"""


def test_the_client_half_loads_without_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
