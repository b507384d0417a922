"""A hub that is killed at random instants loses nothing that it has acknowledged, and its clients go on."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_member import federation
from support.hub_process import HubProcess

from flctl.federation.transport.envelope import BlobRef, open_envelope
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.tasks import task_id

TASKS, KILLS, SEED = 20, 3, 11


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    made = HubProcess(tmp_path / "federation")
    made.start()
    yield made
    made.kill()


def ref(text: bytes) -> BlobRef:
    digest = hashlib.sha256(text).hexdigest()
    return BlobRef(digest, len(text), digest, "")


def coordinate(uni: HubClient, folder: Path, acknowledged: list[str]) -> None:
    """Posts tasks with a blob each, and notes those that the hub has acknowledged."""
    draw = random.Random(SEED)
    for number in range(TASKS):
        text = draw.randbytes(draw.randrange(1000, 1_500_000))
        path = folder / f"order-{number}"
        path.write_bytes(text)
        uni.send_blob(path, ref(text).sha256, run="r1")
        task = task_id("ab" * 32, number, "train", 0, "st-marys", ref(text).plaintext)
        fields = {"task": task, "round": number, "blobs": (ref(text),), "reply_bytes": 2_000_000}
        uni.post([federation().written("task", "uni", "st-marys", **fields)])
        acknowledged.append(task)


def answer(site: HubClient, folder: Path, acknowledged: list[str]) -> None:
    """Answers each task with its blob reversed, and notes the replies that the hub has acknowledged."""
    while len(acknowledged) < TASKS:
        for text in site.tasks(wait=1):
            order, _ = open_envelope(text)
            (blob,) = order.blobs
            path = folder / f"got-{order.round}"
            site.fetch_blob(blob.sha256, blob.bytes, path)
            back = path.read_bytes()[::-1]
            path.write_bytes(back)
            site.send_blob(path, ref(back).sha256, task=order.task)
            site.send_reply(
                order.task, federation().written("reply", "st-marys", "uni", task=order.task, blobs=(ref(back),))
            )
            acknowledged.append(order.task)


@pytest.mark.slow
def test_a_hub_that_is_killed_loses_nothing_that_it_acknowledged(hub: HubProcess, tmp_path: Path) -> None:
    posted: list[str] = []
    answered: list[str] = []
    with hub.client("uni") as uni, hub.client("st-marys") as site:
        threads = [
            threading.Thread(target=coordinate, args=(uni, tmp_path, posted)),
            threading.Thread(target=answer, args=(site, tmp_path, answered)),
        ]
        for thread in threads:
            thread.start()
        draw = random.Random(SEED)
        for _ in range(KILLS):
            time.sleep(draw.uniform(0.05, 0.4))
            hub.kill()
            before = list(answered)
            hub.start()
            with hub.client("uni") as other:
                there = {open_envelope(text)[0].task for _, text in replies(other)}
            assert set(before) <= there
        for thread in threads:
            thread.join(60)
        found = [open_envelope(text)[0] for _, text in replies(uni)]
        assert sorted(one.task for one in found) == sorted(posted) == sorted(answered)
        for number, one in enumerate(found):
            (blob,) = one.blobs
            uni.fetch_blob(blob.sha256, blob.bytes, tmp_path / f"back-{number}")


def replies(uni: HubClient) -> list[tuple[int, bytes]]:
    """All replies; none before the run's first order has arrived."""
    from flctl.federation.reasons import Refused

    try:
        return uni.replies("r1", wait=0)
    except Refused:
        return []
