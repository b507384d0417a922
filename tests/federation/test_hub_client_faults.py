"""The client through bad networks: cuts, proxies, answers from others, restarts and moves of the hub."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.hub_member import federation
from support.hub_server import HubServer, request
from support.tcp_proxy import TcpProxy

from flctl.errors import ConfigError, IntegrityError
from flctl.federation.hub.blobs import BlobPart
from flctl.federation.reasons import Refused
from flctl.federation.transport.connection import HubAddress
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.request_signing import body_digest
from flctl.federation.transport.retries import HubAwayError, Interrupted, Pace, Retries
from flctl.federation.transport.sealing import SEGMENT, file_digest
from flctl.federation.transport.tasks import task_id

SIZE = 3 * SEGMENT + 12_345
CUTS = (0, 1, 500, 2000, 100_000, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 77, SIZE - 1, SIZE, SIZE + 700)
BAD = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as running:
        yield running


def through(hub: HubServer, proxy: TcpProxy) -> HubAddress:
    return replace(hub.address(), url=f"http://127.0.0.1:{proxy.port}")


def blob(folder: Path, seed: int) -> tuple[Path, str]:
    text = random.Random(seed).randbytes(SIZE)
    path = folder / f"blob-{seed}"
    path.write_bytes(text)
    return path, hashlib.sha256(text).hexdigest()


@pytest.mark.slow
def test_an_upload_that_is_cut_goes_on_and_sends_at_most_one_segment_again(hub: HubServer, tmp_path: Path) -> None:
    for number, cut in enumerate(CUTS):
        path, digest = blob(tmp_path, number)
        with TcpProxy(hub.port, cuts=[cut]) as proxy, hub.client("uni", address=through(hub, proxy)) as uni:
            uni.send_blob(path, digest, run="cut-up")
        assert hub.box.blobs.path(digest).read_bytes() == path.read_bytes()
        assert proxy.passed["up"] <= SIZE + SEGMENT + 10_000, cut


def test_an_upload_that_is_cut_again_and_again_arrives(hub: HubServer, tmp_path: Path) -> None:
    path, digest = blob(tmp_path, 100)
    with TcpProxy(hub.port, cuts=[300_000] * 100) as proxy, hub.client("uni", address=through(hub, proxy)) as uni:
        uni.send_blob(path, digest, run="cut-up")
    assert hub.box.blobs.path(digest).read_bytes() == path.read_bytes()
    assert proxy.connections < 40


def test_a_download_that_is_cut_goes_on_and_gets_at_most_one_segment_again(hub: HubServer, tmp_path: Path) -> None:
    path, digest = blob(tmp_path, 200)
    with hub.client("uni") as uni:
        uni.send_blob(path, digest, run="cut-down")
    for number, cut in enumerate(CUTS):
        into = tmp_path / f"fetched-{number}"
        with (
            TcpProxy(hub.port, cuts=[cut], cut="down") as proxy,
            hub.client("uni", address=through(hub, proxy)) as uni,
        ):
            uni.fetch_blob(digest, SIZE, into)
        assert into.read_bytes() == path.read_bytes()
        assert proxy.passed["down"] <= SIZE + SEGMENT + 10_000, cut


def test_progress_of_transfers_is_reported(hub: HubServer, tmp_path: Path) -> None:
    path, digest = blob(tmp_path, 300)
    sent: list[tuple[int, int]] = []
    got: list[tuple[int, int]] = []
    with hub.client("uni") as uni:
        uni.send_blob(path, digest, lambda *moved: sent.append(moved), run="moved")
        uni.fetch_blob(digest, SIZE, tmp_path / "fetched", lambda *moved: got.append(moved))
    for moved in (sent, got):
        assert moved[-1] == (SIZE, SIZE)
        assert moved == sorted(moved)


def test_a_file_that_is_not_its_digest_is_not_sent_for_ever(hub: HubServer, tmp_path: Path) -> None:
    path, _ = blob(tmp_path, 400)
    with hub.client("uni") as uni, pytest.raises(IntegrityError, match="not the file of its digest"):
        uni.send_blob(path, "ab" * 32, run="wrong")


def test_a_blob_with_other_bytes_is_refused_after_two_attempts(hub: HubServer, tmp_path: Path) -> None:
    path, digest = blob(tmp_path, 500)
    with hub.client("uni") as uni:
        uni.send_blob(path, digest, run="spoilt")
        stored = hub.box.blobs.path(digest)
        stored.write_bytes(b"x" + stored.read_bytes()[1:])
        with pytest.raises(Refused) as refused:
            uni.fetch_blob(digest, SIZE, tmp_path / "fetched")
    assert refused.value.reason == "blob-digest"
    assert not (tmp_path / "fetched").exists()


STATUSES = (b"502 Bad Gateway", b"503 Service Unavailable", b"504 Gateway Timeout", b"407 Proxy Authentication",
            b"500 Internal Server Error", b"403 Forbidden", b"200 OK")  # fmt: skip


def test_answers_from_others_than_the_hub_are_waited_out(hub: HubServer, tmp_path: Path) -> None:
    """A portal's page, whatever its status, is no refusal of the hub."""
    said: list[str] = []
    answers = [BAD % status for status in STATUSES] + [b"", b"SSH-2.0-x\r\n"]
    with (
        TcpProxy(hub.port, answer=lambda: answers.pop() if answers else None) as proxy,
        hub.client("uni", address=through(hub, proxy), said=said.append) as uni,
    ):
        assert uni.hello().roster == federation().roster.signed
    assert answers == []
    assert said[-1] == "the hub answers again"
    assert len(said) == 2  # one sentence a minute


def test_a_fifth_of_all_requests_may_fail(hub: HubServer, tmp_path: Path) -> None:
    draw = random.Random(7)
    answer = lambda: BAD % draw.choice(STATUSES[:4]) if draw.random() < 0.2 else None  # noqa: E731
    path, digest = blob(tmp_path, 600)
    with TcpProxy(hub.port, answer=answer) as proxy, hub.client("uni", address=through(hub, proxy)) as uni:
        uni.send_blob(path, digest, run="fifth")
        for number in range(20):
            uni.line.close()  # each request has a connection of its own
            task = task_id("ab" * 32, number, "fifth", 0, "st-marys", "cd" * 32)
            uni.post([federation().written("task", "uni", "st-marys", run="fifth", task=task, round=number)])
    assert hub.box.store.totals()["open_tasks"] >= 20


def test_a_connect_proxy_is_used_with_and_without_a_password(hub: HubServer) -> None:
    with TcpProxy(connect=True) as proxy:
        address = replace(hub.address(), proxy=f"http://127.0.0.1:{proxy.port}")
        with hub.client("uni", address=address) as uni:
            assert uni.hello().roster
        assert proxy.targets == [f"127.0.0.1:{hub.port}"]
    with TcpProxy(connect=True, password="ward 7:p@ss") as proxy:
        address = replace(hub.address(), proxy=f"http://ward%207:p%40ss@127.0.0.1:{proxy.port}")
        with hub.client("uni", address=address) as uni:
            assert uni.hello().roster
        assert "p%40ss" not in repr(address)
        bare = replace(hub.address(), proxy=f"http://127.0.0.1:{proxy.port}")
        with (
            hub.client("uni", address=bare, pace=Pace(least=0.01, most=0.02, give_up=0.05)) as uni,
            pytest.raises(HubAwayError, match="407 Proxy Authentication Required"),
        ):
            uni.hello()


def test_a_bad_address_is_said_without_its_password() -> None:
    for url in ("ftp://hub", "https://", "https://hub:99999", "https://hub\n", "hub:8443"):
        with pytest.raises(ConfigError, match="is not a URL"):
            HubAddress(url, "hospitals")
    with pytest.raises(ConfigError) as error:
        HubAddress("https://hub", "hospitals", proxy="socks://me:secret@proxy:1")
    assert "secret" not in error.value.message


def test_a_client_follows_the_hub_to_another_address(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub, hub.client("uni", pace=Pace(0.01, 0.05, 10)) as uni:
        assert uni.hello().roster
        hub.stop()
        found: list[bytes] = []
        waiting = threading.Thread(target=lambda: found.append(uni.hello().roster))
        waiting.start()
        hub.port = 0
        hub.start()
        uni.address = hub.address()
        waiting.join(10)
        assert len(found) == 1


def test_a_full_disk_is_waited_for(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = blob(tmp_path, 700)
    said: list[str] = []
    monkeypatch.setattr(hub.box.blobs, "free", lambda: 1000)

    def say(sentence: str) -> None:
        said.append(sentence)
        monkeypatch.undo()  # somebody makes room

    with hub.client("uni", said=say) as uni:
        uni.send_blob(path, digest, run="full")
    assert "The hub's disk has 1,000 bytes free" in said[0]


def test_a_disk_that_fills_up_and_a_full_database_are_waited_for(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = blob(tmp_path, 800)
    said: list[str] = []
    write, full = BlobPart.write, []

    def fail(part: BlobPart, data: bytearray) -> None:
        if part.stored >= SEGMENT and not full:
            full.append(part.stored)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(part, data)

    monkeypatch.setattr(BlobPart, "write", fail)
    with hub.client("uni", said=said.append) as uni:
        uni.send_blob(path, digest, run="full")
        assert full
        assert hub.box.blobs.path(digest).read_bytes() == path.read_bytes()
        database = hub.box.store._db
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count={pages}")
        threading.Timer(0.2, lambda: database.execute("PRAGMA max_page_count=1000000")).start()
        notices = [federation().written("notice", "uni", "elm-street", run="full", body={"n": n}) for n in range(400)]
        uni.post(notices)
    assert "The hub cannot write: its disk may be full." in " ".join(said)
    with hub.client("elm-street") as site:
        assert set(notices) <= set(site.tasks(wait=0))


def test_an_upload_takes_over_from_one_whose_connection_is_dead(hub: HubServer, tmp_path: Path) -> None:
    path, digest = blob(tmp_path, 900)
    content_range = f"bytes 0-{SIZE - 1}/{SIZE}"
    header = {"Content-Range": content_range, "Content-Length": str(SIZE)}
    target = f"/1/blobs/{digest}?run=half-open"
    with socket.create_connection(("127.0.0.1", hub.port)) as dead, hub.client("uni") as uni:
        signed = body_digest(content_range.encode())
        dead.sendall(request(hub, "PUT", target, name="uni", digest=signed, headers=header) + bytes(1000))
        while not hub.box.receiving:
            time.sleep(0.01)
        uni.send_blob(path, digest, run="half-open")
    assert hub.box.blobs.path(digest).read_bytes() == path.read_bytes()


def test_a_hub_that_ends_answers_the_polls_that_wait(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub") as hub, hub.client("st-marys", pace=Pace(0.01, 0.05, 20)) as site:
        site.hello()
        found: list[list[bytes]] = []
        poll = threading.Thread(target=lambda: found.append(site.tasks(wait=25)))
        poll.start()
        while not len(hub.box.waiting):
            time.sleep(0.01)
        hub.stop()
        poll.join(5)
        assert found == [[]]
        hub.start()
        assert site.tasks(wait=0) == []


def test_a_clock_that_was_wrong_is_waited_for(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    behind = iter([3600.0, 3600.0])
    with hub.client("uni", said=said.append) as uni:
        uni.hello()
        now = time.time
        monkeypatch.setattr("flctl.federation.transport.line.time.time", lambda: now() - next(behind, 0.0))
        assert uni.hello().roster
    assert "the clocks differ" in said[0].lower()


def test_a_connection_that_the_hub_closed_while_idle_is_replaced_without_a_word(hub: HubServer) -> None:
    said: list[str] = []
    with TcpProxy(hub.port) as proxy, hub.client("uni", address=through(hub, proxy), said=said.append) as uni:
        uni.hello()
        uni.line._idle[0][2].sock.shutdown(socket.SHUT_RDWR)
        assert uni.hello().roster
        assert proxy.connections == 2
    assert said == []


def test_closing_the_client_ends_a_call_that_retries() -> None:
    client = HubClient(HubAddress("http://127.0.0.1:9", "hospitals"), federation().identities["uni"], "uni")
    threading.Timer(0.1, client.close).start()
    started = time.monotonic()
    with pytest.raises(HubAwayError, match="stopped"):
        client.hello()
    assert time.monotonic() - started < 20


def test_one_sentence_is_said_in_each_span_and_one_at_the_end() -> None:
    said: list[str] = []
    attempts = iter([OSError("first"), Interrupted("second"), TimeoutError(), None])

    def work() -> int:
        error = next(attempts)
        if error is not None:
            raise error
        return 3

    for every, sentences in ((60.0, 2), (0.0, 4)):
        attempts, said = iter([OSError("first"), Interrupted("second"), TimeoutError(), None]), []
        retries = Retries(Pace(0.0, 0.001, say_every=every), said.append, threading.Event())
        assert retries.run(work) == 3
        assert len(said) == sentences
        assert said[0] == "no connection to the hub (first); trying again"
        assert said[-1] == "the hub answers again"


def test_pauses_are_drawn_between_the_least_and_twice_the_former_bound() -> None:
    pauses = Pace(least=1.0, most=30.0).pauses(random.Random(1))
    found = [next(pauses) for _ in range(200)]
    assert all(1 <= pause <= bound for pause, bound in zip(found, (2, 4, 8, 16), strict=False))
    assert max(found) <= 30
    assert max(found[10:]) - min(found[10:]) > 20  # spread: callers do not return together


@pytest.mark.slow
def test_a_large_blob_passes_through_client_and_hub_in_constant_memory(hub: HubServer, tmp_path: Path) -> None:
    size = 48 << 20
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(size)
    digest = file_digest(path)
    tracemalloc.start()
    try:
        with hub.client("uni") as uni:
            uni.send_blob(path, digest, run="large")
            uni.fetch_blob(digest, size, tmp_path / "fetched")
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()
