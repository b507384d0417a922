"""What the hub refuses: each with its reason code and status, nothing stored, and the hub goes on."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.hub_member import FEDERATION, federation
from support.hub_server import HubServer, Raw, exchange, raw

from flctl.federation.hub.blobs import BlobFolder
from flctl.federation.hub.door import Door
from flctl.federation.hub.limits import HubLimits
from flctl.federation.identity.roster import Member
from flctl.federation.reasons import Refused
from flctl.federation.transport.envelope import BlobRef
from flctl.federation.transport.tasks import task_id

LIMITS = HubLimits(run_bytes=1000, blob_bytes=10_000, free_bytes=1, notes=2, requests_a_minute=10_000)
TEXT = b"sealed bytes"
SHA = hashlib.sha256(TEXT).hexdigest()
RANGE = f"bytes 0-{len(TEXT) - 1}/{len(TEXT)}"


def named(run: str, site: str = "st-marys") -> str:
    return task_id("ab" * 32, 1, run, 0, site, "cd" * 32)


TASK, ELM_TASK, LAB_TASK = named("r1"), named("r1", "elm-street"), named("r2")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with run r1 of uni (a task for each site) and run r2 of lab (a task with a blob for st-marys)."""
    folder = tmp_path_factory.mktemp("refusing")
    with HubServer(folder / "hub", limits=LIMITS) as running:
        with running.client("uni") as uni, running.client("lab") as lab:
            uni.post([written("task", "uni", "st-marys", task=TASK, reply_bytes=100)])
            uni.post([written("task", "uni", "elm-street", task=ELM_TASK, reply_bytes=100)])
            path = folder / "blob"
            path.write_bytes(b"lab's model")
            digest = hashlib.sha256(b"lab's model").hexdigest()
            lab.send_blob(path, digest, run="r2")
            ref = BlobRef(digest, 11, "cd" * 32, "")
            lab.post([written("task", "lab", "elm-street", run="r2", task=LAB_TASK, blobs=(ref,), reply_bytes=100)])
        yield running
        assert raw(running, "GET", "/1/health").status == 200


def written(kind: str, sender: str, recipient: str, **fields: Any) -> bytes:
    return federation().written(kind, sender, recipient, **fields)


def reply(**fields: Any) -> bytes:
    return written("reply", "st-marys", "uni", **{"task": TASK} | fields)


def put(hub: HubServer, **changes: Any) -> Raw:
    """Uploads TEXT for a reply to TASK, with changes."""
    content_range = changes.pop("content_range", RANGE)
    path = changes.pop("path", f"/1/blobs/{SHA}?task={TASK}")
    values = {"body": TEXT, "digest": hashlib.sha256(content_range.encode()).hexdigest()} | changes
    headers = {"Content-Range": content_range} | values.pop("headers", {})
    return raw(hub, "PUT", path, headers=headers, **values)


def hello(hub: HubServer, **changes: Any) -> Raw:
    return raw(hub, "GET", "/1/hello", **changes)


def send_reply(hub: HubServer, text: bytes, task: str = TASK, **changes: Any) -> Raw:
    return raw(hub, "PUT", f"/1/replies/{task}", body=text, **changes)


def post(hub: HubServer, *envelopes: bytes, **changes: Any) -> Raw:
    import json

    body = json.dumps([one.decode() for one in envelopes]).encode()
    return raw(hub, "POST", "/1/orders", **{"name": "uni", "body": body} | changes)


def order(**fields: Any) -> bytes:
    return written("task", "uni", "st-marys", **{"task": named("r9"), "reply_bytes": 10} | fields)


Case = tuple[Callable[[HubServer], Raw], int, str]
DOOR: dict[str, Case] = {
    "no signature": (lambda h: hello(h, headers={"Authorization": ""}), 401, "door-signature"),
    "another scheme": (lambda h: hello(h, headers={"Authorization": "Basic dTpw"}), 401, "door-signature"),
    "no base64": (lambda h: hello(h, headers={"Authorization": "Flctl \xff\xfe"}), 401, "door-signature"),
    "a header above its cap": (
        lambda h: hello(h, headers={"Authorization": "Flctl " + "A" * 5000}),
        401,
        "door-signature",
    ),
    "another site's key": (lambda h: hello(h, signer="elm-street"), 401, "door-signature"),
    "the hub's key": (lambda h: hello(h, signer="hub"), 401, "door-signature"),
    "a name that is not listed": (lambda h: hello(h, name="stranger"), 403, "roster-member"),
    "a name with a line break": (lambda h: hello(h, name="st\nmarys", signer="st-marys"), 403, "roster-member"),
    "a name with a bidirectional mark": (
        lambda h: hello(h, name="st-\u202emarys", signer="st-marys"),
        403,
        "roster-member",
    ),
    "a case twin of a name": (lambda h: hello(h, name="St-Marys", signer="st-marys"), 403, "roster-member"),
    "a name of 2,000 letters": (lambda h: hello(h, name="a" * 2000, signer="st-marys"), 403, "roster-member"),
    "signed for another method": (lambda h: hello(h, method_="PUT"), 401, "door-signature"),
    "signed for another path": (lambda h: hello(h, signed_path="/1/tasks"), 401, "door-signature"),
    "signed for another federation": (lambda h: hello(h, federation="banks"), 401, "door-signature"),
    "signed for another body": (lambda h: send_reply(h, reply(), digest="00" * 32), 401, "door-signature"),
    "signed before a restart of the hub": (lambda h: hello(h, epoch="0" * 32), 401, "door-epoch"),
    "a time of another type": (lambda h: hello(h, time="now"), 401, "door-signature"),
}
MEMBERS: dict[str, Case] = {
    "a task of another site": (lambda h: send_reply(h, reply(task=ELM_TASK), ELM_TASK), 404, "task-unknown"),
    "an unknown task": (lambda h: send_reply(h, reply(task=named("no")), named("no")), 404, "task-unknown"),
    "a reply under another task's name": (lambda h: send_reply(h, reply(), ELM_TASK), 404, "task-unknown"),
    "a reply in another run": (lambda h: send_reply(h, reply(run="r2")), 404, "task-unknown"),
    "another site's envelope": (
        lambda h: send_reply(h, written("reply", "elm-street", "uni", task=TASK)), 422, "envelope-sender"),
    "an envelope that another key signed": (
        lambda h: send_reply(h, forged("reply", "st-marys", "uni", task=TASK)), 422, "envelope-sender"),
    "an order in a reply's place": (
        lambda h: send_reply(h, written("notice", "st-marys", "uni", task=TASK)), 422, "envelope-kind"),
    "an envelope of another federation": (
        lambda h: send_reply(h, other_federation()), 422, "envelope-federation"),
    "an envelope that has expired": (
        lambda h: send_reply(h, reply(until="2020-01-01T00:00:00+00:00")), 422, "envelope-expired"),
    "no envelope": (lambda h: send_reply(h, b"{}"), 422, "envelope-form"),
    "an envelope above its cap": (lambda h: send_reply(h, b"x" * (65 << 10)), 413, "envelope-size"),
    "a reply with a blob that is not there": (
        lambda h: send_reply(h, reply(blobs=(BlobRef("ef" * 32, 5, "cd" * 32, ""),))), 422, "blob-missing"),
    "a reply with blobs above the task's size": (
        lambda h: send_reply(h, reply(blobs=(BlobRef("ef" * 32, 101, "cd" * 32, ""),))), 413, "reply-size"),
    "a site that posts orders": (lambda h: post(h, order(), name="st-marys"), 403, "run-other"),
    "a site that reads replies": (lambda h: raw(h, "GET", "/1/runs/r1/replies"), 403, "run-other"),
    "a site that reads the others' states": (lambda h: raw(h, "GET", "/1/sites"), 403, "run-other"),
    "a coordinator that polls for tasks": (
        lambda h: raw(h, "GET", "/1/tasks?boot=b", name="uni"), 404, "task-unknown"),
    "replies of another coordinator's run": (
        lambda h: raw(h, "GET", "/1/runs/r2/replies", name="uni"), 403, "run-other"),
    "notes of another coordinator's run": (
        lambda h: raw(h, "GET", "/1/runs/r2/notes", name="uni"), 403, "run-other"),
    "replies of an unknown run": (lambda h: raw(h, "GET", "/1/runs/none/replies", name="uni"), 403, "run-other"),
    "orders in another coordinator's run": (lambda h: post(h, order(run="r2")), 403, "run-other"),
    "a task of another coordinator's run": (lambda h: post(h, order(task=LAB_TASK)), 403, "run-other"),
    "an end of another coordinator's run": (
        lambda h: raw(h, "DELETE", "/1/runs/r2", name="uni"), 403, "run-other"),
    "withdrawing another coordinator's tasks": (
        lambda h: raw(h, "POST", "/1/runs/r2/cancel", name="uni", body=b'{"tasks":[]}'), 403, "run-other"),
    "orders for a stranger": (
        lambda h: post(h, written("task", "uni", "stranger", task=named("r9"))), 403, "roster-member"),
    "orders that another coordinator signed": (
        lambda h: post(h, written("task", "lab", "st-marys", task=named("r9"))), 422, "envelope-sender"),
    "orders with a blob that is not there": (
        lambda h: post(h, order(blobs=(BlobRef("ef" * 32, 5, "cd" * 32, ""),))), 422, "blob-missing"),
    "orders that are no list": (lambda h: post(h, body=b'{"a":1}'), 400, "request-form"),
    "orders nested 10^5 deep": (lambda h: post(h, body=b"[" * 100_000), 400, "request-form"),
    "orders above the body's cap": (lambda h: post(h, body=b"x" * (3 << 20)), 413, "envelope-size"),
    "a cancel of what is no task": (
        lambda h: raw(h, "POST", "/1/runs/r1/cancel", name="uni", body=b'{"tasks":["../x"]}'), 400, "request-form"),
    "a settle of a round that is no number": (
        lambda h: raw(h, "POST", "/1/runs/r1/settle", name="uni", body=b'{"round":"1"}'), 400, "request-form"),
    "a note to another coordinator than the run's": (
        lambda h: raw(h, "POST", "/1/notes", body=written("notice", "st-marys", "lab")), 403, "run-other"),
    "a poll without an agent's id": (lambda h: raw(h, "GET", "/1/tasks"), 400, "request-form"),
    "a poll after a number that is none": (lambda h: raw(h, "GET", "/1/tasks?boot=b&after=-1"), 400, "request-form"),
    "a poll with a wait that is none": (lambda h: raw(h, "GET", "/1/tasks?boot=b&wait=x"), 400, "request-form"),
    "an unknown path": (lambda h: raw(h, "GET", "/1/else"), 404, "request-form"),
    "an unknown method": (lambda h: raw(h, "PATCH", "/1/orders"), 405, "request-form"),
}  # fmt: skip
BLOBS: dict[str, Case] = {
    "a name that is no digest": (lambda h: raw(h, "GET", "/1/blobs/..%2f..%2fhub.sqlite"), 404, "blob-name"),
    "a name in capitals": (lambda h: put(h, path=f"/1/blobs/{SHA.upper()}?task={TASK}"), 404, "blob-name"),
    "a blob of another site": (lambda h: raw(h, "GET", f"/1/blobs/{lab_blob()}"), 404, "blob-name"),
    "a blob of another coordinator": (lambda h: raw(h, "GET", f"/1/blobs/{lab_blob()}", name="uni"), 404, "blob-name"),
    "an upload to another site's task": (
        lambda h: put(h, path=f"/1/blobs/{SHA}?task={ELM_TASK}"), 404, "task-unknown"),
    "an upload to no task": (lambda h: put(h, path=f"/1/blobs/{SHA}"), 404, "task-unknown"),
    "an upload to a run by a site": (lambda h: put(h, path=f"/1/blobs/{SHA}?run=r1"), 404, "task-unknown"),
    "an upload to another coordinator's run": (
        lambda h: put(h, path=f"/1/blobs/{SHA}?run=r2", name="uni"), 403, "run-other"),
    "other bytes than the digest's": (lambda h: put(h, body=b"other bytes."), 422, "blob-digest"),
    "more bytes than the reply may have": (
        lambda h: put(h, body=b"x" * 101, content_range="bytes 0-100/101"), 413, "reply-size"),
    "a blob above the hub's cap": (
        lambda h: put(h, content_range="bytes 0-19999/20000", body=b"x" * 20_000), 413, "blob-size"),
    "more than the run's quota": (
        lambda h: put(h, path=f"/1/blobs/{SHA}?run=r1", name="uni", body=b"x" * 2000,
                      content_range="bytes 0-1999/2000"), 507, "quota"),
    "no range": (lambda h: put(h, content_range=""), 416, "blob-range"),
    "a range of words": (lambda h: put(h, content_range="bytes all"), 416, "blob-range"),
    "a range that ends before the blob": (lambda h: put(h, content_range="bytes 0-11/50"), 416, "blob-range"),
    "a range longer than the body": (lambda h: put(h, content_range="bytes 0-49/50"), 416, "blob-range"),
    "a range of 2^63 bytes": (
        lambda h: put(h, content_range=f"bytes 0-{(1 << 63) - 1}/{1 << 63}"), 416, "blob-range"),
    "a range that begins after what is there": (
        lambda h: put(h, content_range=f"bytes 50-{49 + len(TEXT)}/{50 + len(TEXT)}"), 416, "blob-range"),
    "a state of a size that is none": (
        lambda h: raw(h, "GET", f"/1/blobs/{SHA}/state?task={TASK}&bytes=-1"), 413, "blob-size"),
    **{
        f"reading {asked}": (
            lambda h, asked=asked: raw(h, "GET", f"/1/blobs/{lab_blob()}", name="lab", headers={"Range": asked}),
            416,
            "blob-range",
        )
        for asked in ("bytes=11-", "bytes=5-2", "bytes=-5", "bytes=0-1,3-4", "bytes=0-99", "lines=1-2", "bytes=a-")
    },
}  # fmt: skip
TRICKS: dict[str, Case] = {
    "a compressed body": (lambda h: put(h, headers={"Content-Encoding": "gzip"}), 400, "request-form"),
    "a chunked body": (
        lambda h: exchange(h, b"POST /1/notes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
                              b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, "request-form"),
    "a body whose end is to be found": (
        lambda h: exchange(h, b"POST /1/notes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), 400, "request-form"),
    "an expectation": (lambda h: put(h, headers={"Expect": "100-continue"}), 400, "request-form"),
    "an upgrade": (
        lambda h: hello(h, headers={"Upgrade": "websocket"}), 400, "request-form"),
    "a range twice": (lambda h: hello(h, headers={"Range": "bytes=0-1", "range": "bytes=0-2"}), 400, "request-form"),
}  # fmt: skip
SMUGGLED: dict[str, bytes] = {
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hidden encoding": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"Content-Length : 5\r\n\r\nhello",
    "a negative length": b"Content-Length: -5\r\n\r\nhello",
    "a length of 2^64": b"Content-Length: 18446744073709551616\r\n\r\nhello",
    "a folded header": b"Content-Length: 5\r\n X: y\r\n\r\nhello",
    "a bare line feed": b"Content-Length: 5\nX: y\r\n\r\nhello",
    "a null byte": b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "headers without end": b"X: " + b"y" * 100_000 + b"\r\n\r\n",
}


def lab_blob() -> str:
    return hashlib.sha256(b"lab's model").hexdigest()


def forged(kind: str, sender: str, recipient: str, **fields: Any) -> bytes:
    from flctl.federation.transport.envelope import write_envelope

    return write_envelope(federation().identities["hub"], federation().envelope(kind, sender, recipient, **fields))


def other_federation() -> bytes:
    from dataclasses import replace

    from flctl.federation.transport.envelope import write_envelope

    envelope = replace(federation().envelope("reply", "st-marys", "uni", task=TASK), federation="banks")
    return write_envelope(federation().identities["st-marys"], envelope)


def check(hub: HubServer, case: Case) -> None:
    send, status, reason = case
    before = hub.box.store.totals()
    found = send(hub)
    assert (found.status, found.reason) == (status, reason), found
    assert found.sentence
    assert hub.box.store.totals() == before  # nothing was stored


@pytest.mark.parametrize("case", DOOR)
def test_the_door_refuses(hub: HubServer, case: str) -> None:
    check(hub, DOOR[case])


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_cannot_send(hub: HubServer, case: str) -> None:
    check(hub, MEMBERS[case])


@pytest.mark.parametrize("case", BLOBS)
def test_blobs_are_refused_for(hub: HubServer, case: str) -> None:
    check(hub, BLOBS[case])


@pytest.mark.parametrize("case", TRICKS)
def test_requests_are_refused_for(hub: HubServer, case: str) -> None:
    check(hub, TRICKS[case])


@pytest.mark.parametrize("case", SMUGGLED)
def test_a_smuggled_request_is_not_read(hub: HubServer, case: str) -> None:
    smuggled = b"POST /1/notes HTTP/1.1\r\nHost: h\r\n" + SMUGGLED[case]
    after = b"GET /1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as line:
        line.sendall(smuggled + after)
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer[:12] in (b"HTTP/1.0 400", b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.") == 1  # the request behind it was not taken for one


def test_a_request_is_accepted_once(hub: HubServer) -> None:
    assert hello(hub, nonce="ab" * 16).status == 200
    found = hello(hub, nonce="ab" * 16)
    assert (found.status, found.reason) == (401, "door-replay")


def test_strangers_cannot_use_up_the_memory_for_nonces(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    door = hub.box.door
    monkeypatch.setattr("flctl.federation.hub.door.MOST_NONCES", len(door._nonces) + 1)
    for _ in range(3):
        assert hello(hub, signer="stranger").reason == "door-signature"
    assert hello(hub).status == 200


@pytest.mark.parametrize("minutes", [-6, 6])
def test_a_clock_that_is_off_is_said_with_both_times(hub: HubServer, minutes: int) -> None:
    at = int(time.time()) + 60 * minutes
    found = hello(hub, time=at)
    assert (found.status, found.reason) == (401, "door-clock")
    there = datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")
    assert f"the caller's {there}" in found.sentence
    assert "the hub's is 20" in found.sentence


def test_a_removed_or_expired_member_is_refused_and_nothing_else(tmp_path: Path) -> None:
    members = federation()
    listed = dict(members.roster.sites)
    with HubServer(tmp_path / "hub") as hub:
        assert hello(hub).status == 200
        changed = {**listed, "st-marys": Member(listed["st-marys"].identity, "2020-01-01")}
        for sites in (changed, {"elm-street": listed["elm-street"]}):
            hub.roster_now = _with_sites(sites)
            assert (hello(hub).status, hello(hub).reason) == (403, "roster-member")
            assert hello(hub, name="elm-street").status == 200


def _with_sites(sites: dict[str, Member]) -> Any:
    from dataclasses import replace

    return replace(federation().roster, sites=sites)


def test_two_agents_of_one_identity_are_noticed(hub: HubServer) -> None:
    hub.box.presence = type(hub.box.presence)()
    with hub.client("st-marys") as first, hub.client("st-marys") as second:
        first.tasks(wait=0)
        with pytest.raises(Refused) as refused:
            second.tasks(wait=0)
        assert refused.value.reason == "door-twice"
        first.tasks(wait=0)


def test_notes_have_a_limit_per_site_and_run(hub: HubServer) -> None:
    notes = [written("notice", "elm-street", "uni", body={"n": n}) for n in range(3)]
    found = [raw(hub, "POST", "/1/notes", name="elm-street", body=note) for note in notes]
    assert [(one.status, one.reason) for one in found] == [(200, ""), (200, ""), (507, "quota")]


def test_behind_a_terminator_the_loopback_does_not_open_the_metrics(hub: HubServer) -> None:
    found = raw(hub, "GET", "/metrics")
    assert (found.status, found.reason) == (401, "door-signature")


def test_idle_sockets_make_room_even_after_a_request(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", limits=HubLimits(sockets=8)) as hub:
        idle = [socket.create_connection(("127.0.0.1", hub.port), timeout=10) for _ in range(8)]
        for line in idle:
            line.sendall(b"GET /1/health HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += line.recv(65536)
        assert hello(hub).status == 200
        assert idle[0].recv(1) == b""
        for line in idle:
            line.close()


def test_requests_have_a_rate() -> None:
    door = Door(lambda: federation().roster, certificates=False, requests_a_minute=2)
    for _ in range(2):
        door._rate.count("st-marys")
    with pytest.raises(Refused) as refused:
        door._rate.count("st-marys")
    assert refused.value.reason == "door-rate"
    door._rate.count("elm-street")


def test_a_slow_body_is_cut_and_the_hub_goes_on(tmp_path: Path) -> None:
    limits = HubLimits(body_grace=0.2, stall=0.2)
    with HubServer(tmp_path / "hub", limits=limits) as hub:
        head = raw_head(hub, "PUT", f"/1/replies/{TASK}", length=50)
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as line:
            line.sendall(head + b"x")
            answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert hello(hub).status == 200


@pytest.mark.parametrize("sent", [b"", b"x"])
def test_a_slow_upload_is_cut_and_keeps_what_arrived(tmp_path: Path, sent: bytes) -> None:
    limits = HubLimits(body_grace=0.2, stall=0.2, free_bytes=1)
    with HubServer(tmp_path / "hub", limits=limits) as hub, hub.client("uni") as uni:
        uni.post([written("task", "uni", "st-marys", task=TASK, reply_bytes=100)])
        path = f"/1/blobs/{SHA}?task={TASK}"
        head = raw_head(hub, "PUT", path, len(TEXT), digest=hashlib.sha256(RANGE.encode()).hexdigest())
        head = head.replace(b"Host: h", f"Host: h\r\nContent-Range: {RANGE}".encode())
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as line:
            line.sendall(head + sent)
            assert line.recv(65536).startswith(b"HTTP/1.1 408")
        assert hub.box.blobs.stored(SHA, "st-marys") == len(sent)
        assert hello(hub).status == 200


def test_an_uploader_cannot_fill_the_disk_with_parts(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path)
    names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(20)]
    for name in names:
        part = blobs.open_part(name, "st-marys", 0)
        part.write(b"x")
        part.close()
    assert len(list(blobs.parts.iterdir())) == 8
    assert blobs.stored(names[-1], "st-marys") == 1
    other = blobs.open_part(names[0], "elm-street", 0)
    other.close()
    assert len(list(blobs.parts.iterdir())) == 9


def raw_head(hub: HubServer, method: str, path: str, length: int, digest: str = "00" * 32) -> bytes:
    from flctl.federation.transport.request_signing import SignedRequest, authorization, new_nonce

    request = SignedRequest(
        FEDERATION, "st-marys", method, path, digest, int(time.time()), new_nonce(), hub.box.door.epoch
    )
    header = authorization(federation().identities["st-marys"], request)
    return (
        f"{method} {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {header}\r\nContent-Length: {length}\r\n\r\n".encode()
    )


def test_sockets_without_a_request_are_closed_and_make_room(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", limits=HubLimits(sockets=8, first_request=0.2)) as hub:
        idle = [socket.create_connection(("127.0.0.1", hub.port), timeout=10) for _ in range(40)]
        idle[-1].sendall(b"GET /1/health HT")  # one that never ends its first request
        assert hello(hub).status == 200
        assert [line.recv(1) for line in idle] == [b""] * 40
        for line in idle:
            line.close()
        assert hello(hub).status == 200
