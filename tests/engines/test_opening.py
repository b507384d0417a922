"""The description of a run that a worker process opens: written without torch, by a site too."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from support import make_run

from flctl import wire
from flctl.client.client_half import ClientHalf
from flctl.client.runtime import ClientRuntime
from flctl.engines.opening import Opening, SiteFacts
from flctl.engines.worker_process import WorkerProcess, read_frame
from flctl.errors import IncompatibleError, ProtocolError
from flctl.models.parts import Outline
from flctl.partition.federated import FederatedData, SiteData
from flctl.run.run import Run
from flctl.simulation.message_sizes import first_work
from flctl.types import Request
from flctl.wire import frames, messages

PARENT = """
import json, sys
from pathlib import Path
from flctl.client.client_half import ClientHalf
from flctl.config.config import Config
from flctl.engines.opening import Opening
from flctl.engines.worker_process import WorkerProcess
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry
from flctl.run.run import Run
described = json.loads(sys.argv[1])
process = WorkerProcess(Opening(described["config"], Path(described["partition"]), Path(described["memory"])))
try:
    outline = process.wait_until_open()
finally:
    process.end()
config = Config.model_validate(described["config"])
partition = Partition.open(Path(described["partition"]))
run = Run.outlined(config, Registry(), partition, Path(described["memory"]), outline)
print("torch" in sys.modules, ClientHalf.of(run).aggregator.name, dict(run.update_layout))
"""


def carried(opening):
    """The description as a worker reads it."""
    return Opening.read(b"".join(opening.message()))


@pytest.mark.slow
def test_a_process_without_torch_opens_a_run_in_a_worker_and_runs_its_client_half(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "aggregator=secagg", "cohort.clients=9")
    opening = Opening.of(run)
    described = json.dumps({name: getattr(opening, name) for name in ("config", "partition", "memory")}, default=str)
    done = subprocess.run([sys.executable, "-c", PARENT, described], capture_output=True, text=True, check=True)
    assert done.stdout == f"False secagg {dict(run.update_layout)}\n"


def test_a_description_reads_as_it_was_written(toy, tmp_path):
    opening = Opening.of(make_run(toy, tmp_path / "run")[0])
    whole = dataclasses.replace(opening, site=SiteFacts.of(FederatedData.of(toy), "3"), disabled=("dp",))
    sent = {item.name for item in dataclasses.fields(Opening)} - {"prefix", "environment", "reply_bytes"}
    assert {name: getattr(carried(whole), name) for name in sent} == {name: getattr(whole, name) for name in sent}


@pytest.mark.parametrize("lost", ["config", "partition", "site"])
def test_a_description_that_lacks_a_part_is_no_message(lost, toy, tmp_path):
    opening = Opening.of(make_run(toy, tmp_path / "run")[0])
    meta = dict(wire.unpack(b"".join(opening.message()), "open").meta)
    del meta[lost]
    with pytest.raises(ProtocolError, match="lacks a part"):
        Opening.read(wire.pack("open", meta=meta))


def test_a_worker_at_a_site_trains_its_own_client_alone(toy, tmp_path):
    run, _ = make_run(FederatedData.of(toy), tmp_path / "run", "engine.alone=true", "eval.every=0")
    opening = dataclasses.replace(Opening.of(run), partition=toy.path, site=SiteFacts.of(run.partition, "3"))
    work = first_work(run)
    process = WorkerProcess(opening)
    try:
        process.wait_until_open()
        (sent,) = process.ask(["3"], messages.pack_work(work))
        (other,) = process.ask(["4"], messages.pack_work(work))
    finally:
        process.end()
    here = ClientRuntime(make_run(toy, tmp_path / "here", "engine.alone=true", "eval.every=0")[0])
    request = Request(1, work, b"")
    assert ClientHalf.of(run).answer("3", request, b"", sent) == here.answer("3", request, b"")
    assert "stay with their owners" in other.message


def test_a_run_without_a_model_has_the_layouts_and_the_aggregator_of_the_whole_run(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "strategy=scaffold", "transforms.topk.fraction=0.5")
    outline = Outline.of_plain(run.build_model().outline.plain())
    other = Run.outlined(run.config, run.registry, run.partition, run.memory_directory, outline)
    for name in ("update_layout", "memory_layout", "multiplies", "withholds_metrics"):
        assert getattr(other, name) == getattr(run, name)
    with pytest.raises(ProtocolError, match="outline lacks"):
        Outline.of_plain({"parts": [["weight"]], "shapes": []})


def test_a_site_refuses_rows_of_another_data_set(toy, tmp_path):
    facts = SiteFacts.of(FederatedData.of(toy), "3")
    counts = tuple((train + 1, *others) for train, *others in facts.counts)
    with pytest.raises(IncompatibleError, match="rows of the site's data"):
        dataclasses.replace(facts, counts=counts).view(toy)
    assert isinstance(facts.view(toy), SiteData)


def test_a_frame_that_declares_more_than_a_reply_can_have_is_not_read(toy, tmp_path):
    opening = Opening.of(make_run(toy, tmp_path / "run")[0])
    frame = wire.pack("answers", arrays={"big": np.zeros(opening.reply_bytes // 8 + 1)})
    stream = io.BytesIO(frame)
    with pytest.raises(ProtocolError, match=f"at most {opening.reply_bytes} are read"):
        read_frame(stream, opening.reply_bytes)
    assert stream.tell() == frames.PREFIX.size
