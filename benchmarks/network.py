"""The hub and its client on the loopback with mutual TLS, beside bare hashing, encryption and writing of equal bytes.

    python benchmarks/network.py [--quick] [--sites 500] [--upload-mb 400]

The hub runs in a process of its own, as `flctl federation serve`; envelopes are signed, blobs are sealed, hashed and
flushed to disk. Medians of 5. The limit beside each figure does in this process, without a network, the hashing,
encryption and flushed writes that the figure contains. Writes benchmarks/results/network.json and .md; `--quick` is a
small form of all measurements and writes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from harness.hub_federation import COORDINATOR, FEDERATION, HubFederation
from harness.measurement import machine
from harness.processes import environment, module_command
from harness.results import RESULTS, command

from flctl.federation.transport.envelope import BlobRef, Envelope, key_context, open_envelope, write_envelope
from flctl.federation.transport.hub_client import HubClient
from flctl.federation.transport.sealing import content_key, file_digest, open_file, seal_file
from flctl.federation.transport.tasks import task_id

REPEATS = 5
SECRET = bytes(range(32))
MB = 10**6
FLOATS = 1_000_000
UNTIL = "2099-01-01T00:00:00+00:00"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures everything and returns the exit code: 1 if a target is missed, but not in the quick form."""
    asked = _parse(arguments)
    started = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        sites = [f"site-{number}" for number in range(max(asked.sites, asked.uploads, 2))]
        federation = HubFederation(Path(name), sites)
        for measure in (upload, small_requests, echo_round, polling, memory):
            found = measure(federation, asked)
            rows += found
            print("\n".join(map(shown, found)), flush=True)
    if asked.quick:
        return 0
    facts: dict[str, Any] = {"command": command(), "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    facts |= {"load": round(os.getloadavg()[0], 1), "seconds": round(time.monotonic() - started)}
    write(facts, rows)
    return 0 if all(row["met"] for row in rows) else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small form of all measurements; writes nothing")
    parser.add_argument("--sites", type=int, default=500, help="sites that poll")
    parser.add_argument("--uploads", type=int, default=10, help="sites that upload at once")
    parser.add_argument("--upload-mb", type=int, default=400, help="MB that each of them uploads")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.sites, asked.uploads, asked.upload_mb = 20, 2, 20
    return asked


@contextmanager
def served(federation: HubFederation) -> Iterator[HubClient]:
    """The hub's process, new for each measurement, and the coordinator's client."""
    federation.start()
    try:
        with federation.client(COORDINATOR) as client:
            yield client
    finally:
        federation.stop()


def upload(federation: HubFederation, asked: argparse.Namespace) -> list[Row]:
    """40 MB of one member: sealed, sent, hashed and flushed by the hub."""
    size = 40 * MB // (10 if asked.quick else 1)
    plain, sealed = federation.folder / "plain", federation.folder / "sealed"
    times, limits = [], []
    with served(federation) as client:
        client.hello()
        for _ in range(REPEATS):
            plain.write_bytes(os.urandom(size))
            limits.append(timed(lambda: bare(plain, sealed)))
            times.append(timed(lambda: sent(client, plain, sealed, run="upload")))
    return [
        row(
            "40 MB up, sealed, hashed, flushed",
            "MB/s",
            [size / MB / t for t in times],
            100.0,
            limits=[size / MB / t for t in limits],
        )
    ]


def sent(client: HubClient, plain: Path, sealed: Path, *, run: str = "", task: str = "") -> BlobRef:
    """Seals a file and sends it."""
    digest = file_digest(plain)
    facts = seal_file(plain, sealed, content_key(SECRET, digest), digest)
    client.send_blob(sealed, facts.sha256, run=run, task=task)
    return BlobRef(facts.sha256, facts.bytes, facts.plaintext, "")


def bare(plain: Path, sealed: Path) -> None:
    """What any way of sending a sealed file does: both digests and the cipher, a flushed file, its digest and a flushed
    copy."""
    facts = seal_file(plain, sealed, content_key(SECRET, file_digest(plain)))
    copy = sealed.with_name("copy")
    with sealed.open("rb") as source, copy.open("wb") as target:
        digest = hashlib.sha256()
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    if digest.hexdigest() != facts.sha256:
        raise RuntimeError("the copy differs")


def small_requests(federation: HubFederation, asked: argparse.Namespace) -> list[Row]:
    """One signed request and its answer."""
    count = 20 if asked.quick else 200
    with served(federation) as client:
        client.hello()
        times = [1000 * timed(lambda: [client.hello() for _ in range(count)]) / count for _ in range(REPEATS)]
    return [row("a signed request and its answer", "ms", times, 5.0, smaller=True)]


def echo_round(federation: HubFederation, asked: argparse.Namespace) -> list[Row]:
    """A round of two sites with a model of 1M floats down and up, in threads of this process."""
    size = 4 * FLOATS // (10 if asked.quick else 1)
    plain, sealed = federation.folder / "plain", federation.folder / "sealed"
    times, limits = [], []
    with served(federation) as uni:
        sites = [federation.client(name) for name in federation.sites[:2]]
        for client in (uni, *sites):
            client.hello()
        for number in range(REPEATS):
            plain.write_bytes(os.urandom(size))
            times.append(timed(partial(play, federation, uni, sites, plain, number)))
            limits.append(3 * timed(lambda: bare(plain, sealed)))
    return [row("echo round, 2 sites, 1M floats down and up", "s", times, 0.25, smaller=True, limits=limits)]


def play(federation: HubFederation, uni: HubClient, sites: Sequence[HubClient], plain: Path, number: int) -> None:
    """Posts the model to all sites and fetches their replies."""
    model = sent(uni, plain, plain.with_name("model"), run="echo")
    names = [site.line.name for site in sites]
    tasks = {name: task_id("ab" * 32, number, "train", 0, name, model.plaintext) for name in names}
    size = plain.stat().st_size
    for_each = [keyed(federation, name, model) for name in names]
    uni.post([
        signed(federation, COORDINATOR, name, "task", task=task, round=number, blobs=(blob,), reply_bytes=2 * size)
        for (name, task), blob in zip(tasks.items(), for_each, strict=True)
    ])  # fmt: skip
    threads = [threading.Thread(target=reply, args=(federation, site, plain.parent)) for site in sites]
    for thread in threads:
        thread.start()
    after, missing = 0, len(sites)
    while missing:
        for position, text in uni.replies("echo", after):
            after, envelope = position, open_envelope(text)[0]
            if envelope.round == number:
                fetch_and_open(federation, uni, envelope, plain.with_name("back"))
                missing -= 1
    for thread in threads:
        thread.join()


def reply(federation: HubFederation, site: HubClient, folder: Path) -> None:
    """Fetches the model of the next task, opens it, and sends it back sealed."""
    name = site.line.name
    (text,) = site.tasks(25)
    order = open_envelope(text)[0]
    path = fetch_and_open(federation, site, order, folder / f"opened-{name}")
    back = keyed(federation, COORDINATOR, sent(site, path, folder / f"sealed-{name}", task=order.task))
    site.send_reply(
        order.task,
        signed(federation, name, COORDINATOR, "reply", task=order.task, round=order.round, blobs=(back,)),
    )


def keyed(federation: HubFederation, recipient: str, blob: BlobRef) -> BlobRef:
    """The blob with its key sealed to a recipient."""
    key = content_key(SECRET, blob.plaintext)
    box = federation.identities[recipient].public.seal(key, key_context("echo", blob.sha256))
    return BlobRef(blob.sha256, blob.bytes, blob.plaintext, box.hex())


def fetch_and_open(federation: HubFederation, client: HubClient, envelope: Envelope, target: Path) -> Path:
    """Fetches and opens the first blob of an envelope."""
    (blob,) = envelope.blobs
    sealed = target.with_name(target.name + ".sealed")
    sealed.unlink(missing_ok=True)
    client.fetch_blob(blob.sha256, blob.bytes, sealed)
    key = federation.identities[client.line.name].unseal(bytes.fromhex(blob.key), key_context("echo", blob.sha256))
    open_file(sealed, target, key, blob.plaintext)
    return target


def signed(federation: HubFederation, sender: str, recipient: str, kind: Any, **fields: Any) -> bytes:
    """A signed envelope of the run `echo`."""
    values = {"run": "echo", "plan": "ab" * 32, "until": UNTIL} | fields
    return write_envelope(
        federation.identities[sender],
        Envelope(federation=FEDERATION, sender=sender, recipient=recipient, kind=kind, **values),
    )


def polling(federation: HubFederation, asked: argparse.Namespace) -> list[Row]:
    """Latency of one site's order while all sites poll, CPU share of the hub meanwhile, and its memory."""
    names = list(federation.sites[: asked.sites])
    with served(federation) as uni:
        words = module_command("hub_pollers", str(federation.folder), str(federation.port), *names)
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
        ) as pollers:
            try:
                lines = iter(pollers.stdout or ())
                next(line for line in lines if line == "ready\n")
                times = [order_latency(federation, uni, names[n % len(names)], n, lines) for n in range(40)]
                before, begun = federation.hub_cpu(), time.monotonic()
                time.sleep(2 if asked.quick else 26)
                share = (federation.hub_cpu() - before) / (time.monotonic() - begun)
                memory = federation.hub_memory()["now"]
                federation.stop()
                federation.start()
                back = timed(lambda: all_back(uni, len(names)))
            finally:
                pollers.kill()
    p95 = sorted(times)[int(0.95 * len(times))]
    return [
        row(f"{len(names)} sites poll: CPU share of the hub", "%", [100 * share], 50.0, smaller=True),
        row(f"{len(names)} sites poll: memory of the hub", "MB", [memory], 60 + 0.4 * len(names), smaller=True),
        row(f"{len(names)} sites poll: seconds after a restart until all are back", "s", [back], 60.0, smaller=True),
        row(f"{len(names)} sites poll: latency of an order, 95th percentile", "s", [p95], 1.0, smaller=True),
    ]


def all_back(uni: HubClient, count: int) -> None:
    """Waits until a hub that has restarted has seen as many sites."""
    while sum(state.seen is not None for state in uni.sites().values()) < count:
        time.sleep(0.1)


def order_latency(federation: HubFederation, uni: HubClient, name: str, number: int, lines: Iterator[str]) -> float:
    """Seconds from the moment before an order is posted to its arrival."""
    text = signed(federation, COORDINATOR, name, "notice", round=number, body={"at": time.time()})
    uni.post([text])
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def memory(federation: HubFederation, asked: argparse.Namespace) -> list[Row]:
    """Peak memory of the hub while sites upload large files at once."""
    size = asked.upload_mb * MB
    names = federation.sites[: asked.uploads]
    with served(federation) as uni:
        uni.hello()
        idle = federation.hub_memory()["now"]
        tasks = {name: task_id("cd" * 32, 0, "train", 0, name, "ab" * 32) for name in names}
        uni.post([signed(federation, COORDINATOR, n, "task", task=t, reply_bytes=size) for n, t in tasks.items()])
        path = federation.folder / "large"
        with path.open("wb") as file:
            file.truncate(size)
        digest = file_digest(path)
        threads = [
            threading.Thread(target=federation.client(n).send_blob, args=(path, digest), kwargs={"task": t})
            for n, t in tasks.items()
        ]
        seconds = timed(partial(run_all, threads))
        peak = federation.hub_memory()["peak"]
    title = f"{len(names)} sites upload {asked.upload_mb} MB each: peak memory of the hub"
    details = {"idle MB": round(idle, 1), "MB/s": round(len(names) * size / MB / seconds)}
    return [row(title, "MB", [peak], 150.0, smaller=True, details=details)]


def run_all(threads: Sequence[threading.Thread]) -> None:
    """Runs all threads to their ends."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def row(
    title: str,
    unit: str,
    values: Sequence[float],
    target: float,
    *,
    smaller: bool = False,
    limits: Sequence[float] = (),
    details: Mapping[str, Any] | None = None,
) -> Row:
    """One figure: its median and range, the target, and the limit measured beside it."""
    median = statistics.median(values)
    return {
        "title": title,
        "unit": unit,
        "median": round(median, 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
        "target": target,
        "met": median <= target if smaller else median >= target,
        "smaller": smaller,
        "limit": round(statistics.median(limits), 3) if limits else None,
        "details": dict(details or {}),
    }


def shown(one: Row) -> str:
    """A figure on one line."""
    spread = f" ({one['least']:g} to {one['most']:g})" if one["least"] != one["most"] else ""
    limit = f"; without the network {one['limit']:g} {one['unit']}" if one["limit"] else ""
    details = "".join(f"; {value:g} {name}" for name, value in one["details"].items())
    bound = f"{'at most' if one['smaller'] else 'at least'} {one['target']:g}: {'met' if one['met'] else 'NOT met'}"
    return f"{one['title']}: {one['median']:g} {one['unit']}{spread}{limit}{details}; {bound}"


def write(facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes the results."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**facts, "rows": rows}, indent=1)
    (RESULTS / "network.json").write_text(text + "\n", encoding="utf-8")
    told = f"Measured by `{facts['command']}` on {facts['machine']}, {facts['date']}, load {facts['load']}."
    lines = ["# Hub and client", "", told, "", *(f"- {shown(one)}" for one in rows), ""]
    (RESULTS / "network.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
