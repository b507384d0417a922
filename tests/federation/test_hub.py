"""The hub through its client: orders, replies, notes and blobs between one coordinator and two sites."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_member import federation
from support.hub_server import HubServer

from flctl.federation.identity.statements import verify
from flctl.federation.reasons import Refused
from flctl.federation.transport.envelope import BlobRef, open_envelope
from flctl.federation.transport.hub_client import HubClient, TaskProgress
from flctl.federation.transport.tasks import task_id


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def uni(hub: HubServer) -> Iterator[HubClient]:
    with hub.client("uni") as client:
        yield client


@pytest.fixture
def site(hub: HubServer) -> Iterator[HubClient]:
    hub.box.presence = type(hub.box.presence)()  # a new client is a new agent
    with hub.client("st-marys") as client:
        yield client


def blob(folder: Path, text: bytes) -> tuple[Path, BlobRef]:
    digest = hashlib.sha256(text).hexdigest()
    path = folder / digest
    path.write_bytes(text)
    return path, BlobRef(digest, len(text), digest, "00" * 48)


def task(run: str, site: str = "st-marys", number: int = 1) -> str:
    return task_id("ab" * 32, number, run, 0, site, "cd" * 32)


def order(uni: HubClient, run: str, site: str = "st-marys", number: int = 1, **fields: object) -> str:
    name = task(run, site, number)
    text = federation().written(
        "task", uni.line.name, site, run=run, task=name, round=number, **{"reply_bytes": 100} | fields
    )
    uni.post([text])
    return name


def reply(run: str, name: str, site: str = "st-marys", coordinator: str = "uni", **fields: object) -> bytes:
    return federation().written("reply", site, coordinator, run=run, task=name, **fields)


def test_a_round_goes_down_and_up(uni: HubClient, site: HubClient, tmp_path: Path) -> None:
    path, model = blob(tmp_path, b"sealed model")
    uni.send_blob(path, model.sha256, run="round")
    name = order(uni, "round", blobs=(model,))
    (text,) = site.tasks(wait=5)
    envelope, _ = open_envelope(text)
    assert (envelope.task, envelope.blobs) == (name, (model,))
    site.fetch_blob(model.sha256, model.bytes, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == b"sealed model"
    path, update = blob(tmp_path, b"sealed update")
    site.send_blob(path, update.sha256, task=name)
    site.send_reply(name, reply("round", name, blobs=(update,)))
    ((number, answer),) = uni.replies("round", wait=5)
    assert open_envelope(answer)[0].blobs == (update,)
    uni.fetch_blob(update.sha256, update.bytes, tmp_path / "answer")
    assert (tmp_path / "answer").read_bytes() == b"sealed update"
    assert uni.replies("round", after=number, wait=0) == []


def test_hello_brings_the_signed_roster(site: HubClient) -> None:
    assert site.hello().roster == federation().roster.signed


def test_a_waiting_poll_returns_once_an_order_arrives(uni: HubClient, site: HubClient) -> None:
    found: list[bytes] = []
    poll = threading.Thread(target=lambda: found.extend(site.tasks(wait=20)))
    poll.start()
    name = order(uni, "wake")
    poll.join(10)
    assert [open_envelope(text)[0].task for text in found if open_envelope(text)[0].run == "wake"] == [name]


def test_a_new_client_gets_open_tasks_again_and_answered_ones_not(hub: HubServer, uni: HubClient) -> None:
    first, second = (order(uni, "again", "elm-street", number) for number in (1, 2))
    with hub.client("elm-street") as elm:
        assert len(elm.tasks(wait=0)) == 2
        assert elm.tasks(wait=0) == []
        elm.send_reply(first, reply("again", first, "elm-street"))
    hub.box.presence = type(hub.box.presence)()
    with hub.client("elm-street") as elm:
        assert [open_envelope(text)[0].task for text in elm.tasks(wait=0)] == [second]


def test_a_task_that_is_posted_again_keeps_its_reply(uni: HubClient, site: HubClient) -> None:
    name = order(uni, "repeat")
    site.send_reply(name, reply("repeat", name))
    assert order(uni, "repeat") == name
    assert len(uni.replies("repeat", wait=0)) == 1
    assert all(open_envelope(text)[0].task != name for text in site.tasks(wait=0))


def test_the_same_reply_again_is_stored_once_and_another_is_refused(uni: HubClient, site: HubClient) -> None:
    name = order(uni, "twice")
    receipts = [site.send_reply(name, reply("twice", name)) for _ in range(2)]
    assert len(uni.replies("twice", wait=0)) == 1
    with pytest.raises(Refused) as refused:
        site.send_reply(name, reply("twice", name, body={"other": 1}))
    assert refused.value.reason == "reply-changed"
    digest = open_envelope(reply("twice", name))[1].digest
    for receipt in receipts:
        signed = verify(receipt, "flctl/receipt/1", by=federation().identities["hub"].public.signing)
        assert (signed.statement["digest"], signed.statement["sender"]) == (digest, "st-marys")


def test_a_cancelled_task_is_offered_no_more_and_takes_no_reply(uni: HubClient, site: HubClient) -> None:
    name = order(uni, "cancel")
    uni.cancel("cancel", [name])
    assert all(open_envelope(text)[0].task != name for text in site.tasks(wait=0))
    with pytest.raises(Refused, match="withdrawn"):
        site.send_reply(name, reply("cancel", name))


def test_notes_reach_the_coordinator_of_the_run(uni: HubClient, site: HubClient) -> None:
    order(uni, "notes")
    note = federation().written("decision", "st-marys", "uni", run="notes", body={"decision": "approve"})
    for _ in range(2):
        site.send_note(note)
    assert [text for _, text in uni.notes("notes")] == [note]


def test_progress_of_a_site_reaches_the_coordinator(uni: HubClient, site: HubClient) -> None:
    site.tasks(wait=0, progress=TaskProgress("ab" * 32, step=3, of=9, moved=77))
    state = uni.sites()["st-marys"]
    assert state.progress == TaskProgress("ab" * 32, 3, 9, 77)
    assert state.seen is not None
    assert uni.sites()["elm-street"].progress is None


def test_settled_rounds_and_ended_runs_leave_no_blob(hub: HubServer, uni: HubClient, tmp_path: Path) -> None:
    path, first = blob(tmp_path, b"round one")
    uni.send_blob(path, first.sha256, run="settle")
    path, second = blob(tmp_path, b"round two")
    uni.send_blob(path, second.sha256, run="settle")
    order(uni, "settle", number=1, blobs=(first,))
    order(uni, "settle", number=2, blobs=(first, second))
    uni.settle("settle", 1)
    assert hub.box.blobs.path(first.sha256).exists()  # round 2 names it too
    uni.settle("settle", 2)
    assert not hub.box.blobs.path(first.sha256).exists()
    uni.send_blob(path, second.sha256, run="settle")
    uni.end("settle")
    assert not hub.box.blobs.path(second.sha256).exists()


def test_a_restored_backup_is_made_whole_by_the_sites(tmp_path: Path) -> None:
    """The backup is older than an acknowledged reply, whose blob's file is there or not."""
    with HubServer(tmp_path / "hub") as hub, hub.client("uni") as uni, hub.client("st-marys") as site:
        name = order(uni, "backup")
        hub.stop()
        backup = (tmp_path / "hub" / "hub.sqlite").read_bytes()
        hub.start()
        path, update = blob(tmp_path, b"update")
        answer = reply("backup", name, blobs=(update,))
        site.tasks(wait=0)
        for damage in (
            lambda: (tmp_path / "hub" / "hub.sqlite").write_bytes(backup),
            lambda: stored(hub, update).unlink(),
        ):
            site.send_blob(path, update.sha256, task=name)
            site.send_reply(name, answer)
            assert len(uni.replies("backup", wait=0)) == 1
            hub.stop()
            damage()
            hub.start()
            assert uni.replies("backup", wait=0) == []
        later = order(uni, "backup", number=2)
        assert [open_envelope(text)[0].task for text in site.tasks(wait=0)] == [later]  # its number is a new one


def stored(hub: HubServer, ref: BlobRef) -> Path:
    return hub.box.blobs.path(ref.sha256)


def test_orders_survive_a_restart_of_the_hub(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub, hub.client("uni") as uni, hub.client("st-marys") as site:
        name = order(uni, "restart")
        assert uni.restarts == 0
        hub.stop()
        hub.start()
        assert uni.hello().roster
        assert uni.restarts == 1
        assert [open_envelope(text)[0].task for text in site.tasks(wait=0)] == [name]
        site.send_reply(name, reply("restart", name))
        assert len(uni.replies("restart", wait=0)) == 1
