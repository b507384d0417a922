"""`flctl train --explain`: what it says is what training then does, and it leaves nothing behind."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support import make_run, toy_partition, train_run

from flctl.cli import run as cli
from flctl.engines import footprint as footprints
from flctl.engines.footprint import (
    PROCESS_BYTES,
    SERVER_VECTORS,
    RoundShape,
    footprint,
    refuse_too_large,
    round_shape,
    size_text,
)
from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.errors import ConfigError
from flctl.executors.choice import EXECUTORS
from flctl.machine import FreeMemory, cores, free_memory
from flctl.performance.duration import estimate_duration, seconds_text
from flctl.performance.forecast import forecast
from flctl.server.training import engine_class

QUICK = ("--model", "logreg", "--rounds", "2", "--clients-per-round", "4", "--seed", "7")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments):
    """The exit code, and the envelope's data or error."""
    capsys.readouterr()
    code = cli([*arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    return code, answer.get("data") or answer["error"]


@pytest.mark.parametrize(
    ("flags", "executor"),
    [
        ([], "shared"),
        (["--strategy", "fedmedian"], "shared"),
        (["--optimizer", "adam"], "stacked"),
        (["-o", "engine.executor=sequential"], "sequential"),
        (["--transform", "clip", "-o", "transforms.clip.norm=0.1"], "shared"),
    ],
)
def test_what_is_explained_is_what_is_done(toy, tmp_path, capsys, flags, executor):
    code, told = said(capsys, "train", str(toy.path), *QUICK, *flags, "--explain", "--out", "x")
    assert (code, told["executor"]["name"], os.listdir()) == (0, executor, [])
    assert set(told["executor"]["others"]) == set(EXECUTORS) - {executor}
    assert all(told["executor"]["others"].values())

    assert cli(["train", str(toy.path), *QUICK, *flags, "--out", "x", "--json"]) == 0
    recorded = json.loads((tmp_path / "x" / "execution.json").read_text())
    line = json.loads((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()[0])
    assert (recorded["executor"], recorded["why"]) == (told["executor"]["name"], told["executor"]["why"])
    assert (told["round"]["round"], told["round"]["clients"]) == (1, line["asked"])
    assert told["round"]["rows"] == line["examples"]
    assert told["traffic"]["round_down"] == line["bytes_down"] == 4 * told["traffic"]["down"]
    assert told["traffic"]["round_up"] == line["bytes_up"] == 4 * told["traffic"]["up"]


HALVES = """
import dataclasses
import flctl
import numpy as np

class Halves(flctl.Transform):
    name = "halves"

    def on_client(self, update, ctx):
        return dataclasses.replace(update, arrays={n: v.astype(np.float16) for n, v in update.arrays.items()})

    def decode(self, vectors, ctx):
        return {name: vector.astype(np.float32) for name, vector in vectors.items()}
"""


def test_codes_are_counted_as_they_are_sent(toy, tmp_path, capsys):
    """Fifteen numbers of two bytes; without the transform, of four."""
    (tmp_path / "halves.py").write_text(HALVES)
    _, plain = said(capsys, "train", str(toy.path), *QUICK, "--explain")
    arguments = ["train", str(toy.path), *QUICK, "--transform", "halves.py:Halves"]
    _, told = said(capsys, *arguments, "--explain")
    assert cli([*arguments, "--out", "x"]) == 0
    line = json.loads((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()[0])
    assert told["traffic"]["round_up"] == line["bytes_up"]
    assert 0 < plain["traffic"]["up"] - told["traffic"]["up"] <= 15 * 2
    # The server decodes each message and adds it up; it keeps none.
    assert (told["reads_each"], told["memory"]["updates"]) == ([], 0)


def test_a_deadline_makes_chunks_of_one_client(toy, capsys):
    _, told = said(capsys, "train", str(toy.path), *QUICK, "-o", "engine.deadline=60", "--explain")
    of_round = told["round"]
    assert [of_round[name] for name in ("chunks", "fewest", "most", "at_once")] == [4, 1, 1, 1]
    assert of_round["one_client_a_chunk"]


def test_whoever_reads_single_updates_is_named_with_what_the_server_keeps(toy, capsys):
    _, plain = said(capsys, "train", str(toy.path), *QUICK, "--explain")
    _, median = said(capsys, "train", str(toy.path), *QUICK, "--strategy", "fedmedian", "--explain")
    assert (plain["reads_each"], plain["memory"]["updates"]) == ([], 0)
    # Four clients; (4 features + 1) x 3 classes in float32.
    assert (median["reads_each"], median["memory"]["updates"]) == (["strategy 'fedmedian'"], 4 * 15 * 4)


def test_the_engine_that_auto_stands_for_is_told(toy, capsys):
    _, told = said(capsys, "train", str(toy.path), *QUICK, "--explain")
    assert told["engine"] == {"name": "inprocess", "asked": "auto", "workers": 1}
    _, told = said(capsys, "train", str(toy.path), *QUICK, "--workers", "3", "--explain")
    assert told["engine"] == {"name": "pool", "asked": "auto", "workers": 3}
    memory = told["memory"]
    assert memory["workers"] == 3 * memory["worker"]
    assert memory["needed"] == memory["workers"] + memory["server"]


def test_people_are_told_too(toy, capsys):
    flags = ["--strategy", "krum", "-o", "strategy.num_malicious=0", "--workers", "2", "--explain"]
    assert cli(["train", str(toy.path), *QUICK, *flags]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "chosen",
        "could train it too",
        "pool, 2 workers",
        "strategy 'krum' reads individual updates",
        "4 clients with",
    ):
        assert expected in text


@pytest.mark.parametrize(
    "flags",
    [
        ["--strategy", "fedagv"],
        ["--clients-per-round", "11"],
        ["--engine", "cloud"],
        ["-o", "engine.executor=fused", "-o", "engine.memory=0.001 MiB"],
        ["-o", "engine.executor=shared", "--optimizer", "adam"],
        ["--config", "nothing.yaml"],
    ],
)
def test_what_cannot_be_trained_is_refused_as_training_refuses_it(toy, capsys, flags):
    arguments = ["train", str(toy.path), *QUICK, *flags, "--out", "x"]
    explained, trained = said(capsys, *arguments, "--explain"), said(capsys, *arguments)
    assert explained == trained
    assert explained[0] != 0
    assert os.listdir() == []


def test_a_run_in_progress_is_explained_from_where_it_is(toy, tmp_path, capsys):
    train_run(toy, tmp_path / "x", "rounds=3")
    before = sorted((path, path.stat().st_mtime_ns) for path in Path("x").rglob("*"))
    _, told = said(capsys, "train", "--resume", "x", "--rounds", "5", "--explain")
    assert (told["round"]["round"], told["estimate"]["rounds"]) == (4, 2)
    assert sorted((path, path.stat().st_mtime_ns) for path in Path("x").rglob("*")) == before


@pytest.mark.parametrize("change", ["engine.executor=sequential", "local.lr=0.7"])
def test_a_resume_that_would_be_refused_is_refused(toy, tmp_path, capsys, change):
    train_run(toy, tmp_path / "x", "rounds=3")
    arguments = ["train", "--resume", "x", "--rounds", "5", "-o", change]
    explained, trained = said(capsys, *arguments, "--explain"), said(capsys, *arguments)
    assert explained == trained
    assert explained[0] == 3


def test_a_profile_of_nothing_is_refused(toy, capsys):
    code, error = said(capsys, "train", str(toy.path), *QUICK, "--explain", "--profile")
    assert (code, "--profile has no effect" in error["message"]) == (2, True)


def test_a_rounds_shape_is_the_first_round_that_asks_anybody(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "x", "cohort.sampling=poisson", "cohort.rate=0.02", "rounds=200")
    shape = round_shape(run)
    assert shape.round_number > 1
    assert len(shape.sizes) > 0
    assert sorted(np.concatenate(shape.chunks).tolist()) == list(range(len(shape.sizes)))


# Memory.


def test_a_footprint_is_the_sum_of_its_parts(toy, tmp_path):
    """Softmax regression: 15 parameters; evaluation of all test rows, 4 features in and 3 classes out."""
    test_rows = toy.manifest.rows.central_test
    for workers, engine in ((1, InProcessEngine), (3, PoolEngine)):
        run, _ = make_run(toy, tmp_path / f"x{workers}", f"engine.workers={workers}", "engine.executor=sequential")
        found = footprint(run, engine, round_shape(run), None)
        evaluation, reply = 4 * test_rows * (4 + 3), workers * 4 * 15
        trains = found.chunk if workers == 1 else 0
        assert found.server == SERVER_VECTORS * 4 * 15 + max(evaluation, reply if workers > 1 else 0) + trains
        assert found.worker == PROCESS_BYTES + run.execution.fixed_bytes + found.chunk
        assert found.needed == found.server + (workers * found.worker if workers > 1 else 0)
        # One after the other: what the most needy takes, and what the three before it changed.
        needs = run.execution.cost(run.execution.amounts(round_shape(run).sizes))[1]
        assert found.chunk == max(needs) + 3 * 4 * 15
        assert found.fits


def test_clients_that_run_elsewhere_take_no_memory_here(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "x")

    class Elsewhere(PoolEngine.__base__):
        name = "elsewhere"

    found = footprint(run, Elsewhere, round_shape(run), FreeMemory(1 << 30, "free"))
    assert (found.workers, found.needed) == (0, found.server)
    assert "plugin" in estimate_duration(run, Elsewhere, round_shape(run), found, 2, 10).advice


@pytest.fixture
def squeezed(monkeypatch):
    """Makes the machine have so much memory."""

    def squeeze(size):
        monkeypatch.setattr(footprints, "free_memory", lambda: FreeMemory(size, "free on this machine"))

    return squeeze


def test_a_run_that_cannot_fit_is_refused_before_anything_is_written(toy, capsys, squeezed):
    squeezed(2 * PROCESS_BYTES + 50 * MIB)
    arguments = ["train", str(toy.path), *QUICK, "--out", "x"]
    for extra in ([], ["--explain"]):
        code, error = said(capsys, *arguments, "--workers", "4", *extra)
        assert (code, error["kind"], os.listdir()) == (2, "config", [])
        assert f"4 workers {size_text(PROCESS_BYTES)} each" in error["message"]
        assert "370.0 MiB are free on this machine" in error["message"].replace("370 MiB", "370.0 MiB")
        assert error["hint"] == "Use --workers 2 or fewer."
    assert said(capsys, *arguments, "--workers", "2", "--explain")[0] == 0


def test_a_resume_that_no_longer_fits_is_refused(toy, tmp_path, capsys, squeezed):
    train_run(toy, tmp_path / "x", "rounds=2")
    squeezed(MIB)
    code, error = said(capsys, "train", "--resume", "x", "--rounds", "3", "--workers", "2")
    assert (code, "Use fewer workers" in error["hint"]) == (2, True)


def test_who_keeps_every_update_is_told_to_ask_fewer_clients(toy, tmp_path, squeezed):
    overrides = ("model=mlp", "model.hidden=[500, 500]", "strategy=fedmedian", "cohort.clients=10")
    run, _ = make_run(toy, tmp_path / "x", *overrides, "engine.executor=sequential")
    update = 4 * run.layout["params"]
    squeezed(15 * update)
    with pytest.raises(ConfigError) as caught:
        refuse_too_large(run, engine_class(run))
    assert caught.value.hint.startswith(f"Sample fewer clients per round (the server keeps {size_text(10 * update)}")


def test_a_smaller_chunk_is_offered_where_it_helps(toy, tmp_path, squeezed):
    run, _ = make_run(toy, tmp_path / "x", "model=mlp", "model.hidden=[300]", "cohort.clients=10")
    found = footprint(run, InProcessEngine, round_shape(run), None)
    assert found.chunk > found.fewest
    squeezed(found.needed - 1)
    with pytest.raises(ConfigError, match="the run needs about") as caught:
        refuse_too_large(run, InProcessEngine)
    assert caught.value.hint == f"Lower engine.memory (a client needs {size_text(found.fewest)})."
    squeezed(found.needed)
    refuse_too_large(run, InProcessEngine)


def test_memory_that_nobody_knows_is_not_checked(toy, tmp_path, monkeypatch):
    run, _ = make_run(toy, tmp_path / "x", "engine.workers=4000")
    monkeypatch.setattr(footprints, "free_memory", lambda: None)
    refuse_too_large(run, engine_class(run))


@pytest.mark.parametrize(
    ("count", "text"), [(900, "900 bytes"), (2048, "2.0 KiB"), (3 * MIB // 2, "1.5 MiB"), (160 << 20, "160 MiB")]
)
def test_sizes_for_people(count, text):
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12 ms"), (0.0996, "0.1 s"), (1.44, "1.4 s"), (99.0, "99 s"), (1234.5, "1,234 s")]
)
def test_durations_for_people(seconds, text):
    assert seconds_text(seconds) == text


# The machine.

MEMINFO = "MemTotal:       8000 kB\nMemFree: 100 kB\nMemAvailable:   5000 kB\n"


def written(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "kib", "source"),
    [
        ({}, 5000, "free on this machine"),
        # Version 2: the group's own limit, less its use, more what its file cache gives back.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": f"{3000 * 1024}\n",
                "sys/fs/cgroup/a/b/memory.current": f"{1000 * 1024}\n",
                "sys/fs/cgroup/a/b/memory.stat": f"anon 5\ninactive_file {200 * 1024}\n",
            },
            2200,
            "left by the limit of this process's control group",
        ),
        # A limit of the group above.
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "4096\n",
                "sys/fs/cgroup/a/memory.max": f"{1500 * 1024}\n",
                "sys/fs/cgroup/a/memory.current": f"{500 * 1024}\n",
            },
            1000,
            "left by the limit of this process's control group",
        ),
        # In a container: the path is the host's, and the group lies at the root.
        (
            {
                "proc/self/cgroup": "0::/docker/4f2a\n",
                "sys/fs/cgroup/memory.max": f"{700 * 1024}\n",
                "sys/fs/cgroup/memory.current": "0\n",
            },
            700,
            "left by the limit of this process's control group",
        ),
        # Version 1, used up.
        (
            {
                "proc/self/cgroup": "5:cpu:/z\n4:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8192\n",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "9000\n",
            },
            0,
            "left by the limit of this process's control group",
        ),
        # Version 1 without a limit.
        (
            {
                "proc/self/cgroup": "4:memory:/a\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "9000\n",
            },
            5000,
            "free on this machine",
        ),
    ],
)
def test_free_memory_is_the_least_that_anything_leaves(tmp_path, files, kib, source):
    root = written(tmp_path, {"proc/meminfo": MEMINFO, **files})
    assert free_memory(root) == FreeMemory(kib * 1024, source)


def test_where_nothing_is_told_the_whole_memory_counts_or_none(tmp_path, monkeypatch):
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert free_memory(tmp_path) == FreeMemory(4096000, "all of this machine's memory")
    monkeypatch.delattr(os, "sysconf")
    assert free_memory(tmp_path) is None


def test_cores_are_no_more_than_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert cores(tmp_path) == 8
    assert cores(written(tmp_path / "a", {"sys/fs/cgroup/cpu.max": "max 100000\n"})) == 8
    assert cores(written(tmp_path / "b", {"sys/fs/cgroup/cpu.max": "250000 100000\n"})) == 3
    old = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}
    assert cores(written(tmp_path / "c", old)) == 1


# Advice on workers.


def advised(run, engine, cores, rounds):
    shape = round_shape(run)
    return estimate_duration(
        run, engine, shape, footprint(run, engine, shape, FreeMemory(1 << 40, "free")), cores, rounds
    )


@pytest.fixture(scope="module")
def busy(toy, tmp_path_factory):
    """Ten clients a round whose chunks hold one each."""
    settings = ("cohort.clients=10", "local.epochs=300", "engine.executor=sequential")

    def make(*overrides):
        return make_run(toy, tmp_path_factory.mktemp("busy") / "x", *settings, *overrides)[0]

    return make


def test_more_workers_are_advised_where_they_save_seconds(busy):
    found = advised(busy(), InProcessEngine, 4, 1000)
    assert sorted(found.seconds) == [1, 2, 3, 4]
    assert found.seconds[1] > found.seconds[2] > found.seconds[4]
    assert found.now == found.seconds[1]
    assert found.advice.startswith("--workers 4 would be faster: about")
    assert "over 1,000 rounds" in found.advice
    pinned = advised(busy("engine.name=inprocess"), InProcessEngine, 4, 1000)
    assert pinned.advice.startswith("--engine pool --workers 4 would be faster")


def test_more_workers_are_not_advised_for_a_short_run(busy):
    assert "starting them takes longer than they save" in advised(busy(), InProcessEngine, 4, 2).advice


def test_workers_beyond_cores_or_chunks_are_advised_against(busy, toy, tmp_path):
    found = advised(busy("engine.workers=8"), PoolEngine, 2, 10)
    assert (found.workers, found.advice) == (8, "--workers 2 would be as fast: the machine has 2 cores")
    run, _ = make_run(toy, tmp_path / "x", "engine.workers=2")
    assert advised(run, PoolEngine, 4, 10).advice == "--workers 1 would be as fast: a round is one chunk"
    assert advised(busy("engine.workers=2"), PoolEngine, 2, 10).advice == "all cores are used"


def test_workers_that_do_not_fit_are_not_promised(busy):
    run = busy()
    shape = round_shape(run)
    tight = footprint(run, InProcessEngine, shape, FreeMemory(2 * PROCESS_BYTES, "free"))
    assert estimate_duration(run, InProcessEngine, shape, tight, 4, 1000).advice.endswith(
        "this machine lacks the memory for it"
    )


def test_a_round_with_workers_takes_its_longest_chunk_at_least(toy, tmp_path):
    """Chunks of 1 and 3 equal clients on two workers take as long as the larger one."""
    run, _ = make_run(toy, tmp_path / "x", "engine.executor=sequential")
    chunks = (np.array([0]), np.array([1, 2, 3]))
    shape = RoundShape(1, np.full(4, 20), chunks)
    found = footprint(run, InProcessEngine, shape, None)
    seconds = estimate_duration(run, InProcessEngine, shape, found, 2, 10).seconds
    overhead = 2e-3
    transfer = 4 * 15 * (2 + 2) / 1e9
    assert seconds[2] - overhead - transfer == pytest.approx((seconds[1] - overhead) * 3 / 4)


def test_a_forecast_asks_nothing_of_the_disk(tmp_path):
    partition = toy_partition(tmp_path / "toy")
    run, directory = make_run(partition, tmp_path / "x", "strategy=scaffold")
    before = sorted(directory.path.rglob("*"))
    assert forecast(run, engine_class(run)).executor in EXECUTORS
    assert sorted(directory.path.rglob("*")) == before
