"""What test_memory_store.py runs in processes of its own: one that is killed, several at once, one that is measured.

`train FOLDER ROUNDS`: goes on from the folder's checkpoint, and prints each round when it starts it.
`share FOLDER ROUNDS PART PARTS`: writes its own clients in each round, beside processes that write the others.
`measure FOLDER CLIENTS LENGTH COHORT ROUNDS`: prints by how many KiB the process grew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flctl import atomic
from flctl.client.memory_store import MemoryStore

CLIENTS, LAYOUT, EVERY = 60, {"a": 4000, "b": 500}, 3


def cohort(number: int) -> np.ndarray:
    return np.sort(np.random.default_rng([7, number]).choice(CLIENTS, 40, replace=False))


def following(past: dict[str, np.ndarray], clients: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """What the clients remember after round `number`: half the past, so that a lost round shows in every later one."""
    fresh = (1000 * clients[:, None] + number).astype(np.float32)
    return {name: np.float32(0.5) * values + fresh for name, values in past.items()}


def expected(number: int) -> dict[int, tuple[int, dict[str, np.ndarray]]]:
    """Client -> (its newest round up to `number`, what it remembers of it)."""
    zeros = {name: np.zeros((1, length), np.float32) for name, length in LAYOUT.items()}
    known: dict[int, tuple[int, dict[str, np.ndarray]]] = {}
    for played in range(1, number + 1):
        for client in cohort(played).tolist():
            past = known.get(client, (0, zeros))[1]
            known[client] = (played, following(past, np.array([client]), played))
    return {client: (played, {n: v[0] for n, v in values.items()}) for client, (played, values) in known.items()}


def checkpoint(folder: Path) -> int:
    path = folder / "checkpoint"
    return int(path.read_text()) if path.exists() else 0


def train(folder: Path, rounds: int) -> None:
    done = checkpoint(folder)
    store = MemoryStore(folder / "memory", CLIENTS, LAYOUT)
    store.forget_after(done)
    for number in range(done + 1, rounds + 1):
        print(number, flush=True)
        clients = cohort(number)
        for part in (clients[:25], clients[25:]):
            store.write(part, number, following(store.read(part, number)[0], part, number))
        if number % EVERY == 0:
            store.sync()
            atomic.write_file(folder / "checkpoint", str(number).encode())
            store.settle(number)


def share(folder: Path, rounds: int, part: int, parts: int) -> None:
    store = MemoryStore(folder / "memory", CLIENTS, LAYOUT)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1, rounds + 1):
        clients = cohort(number)
        clients = clients[clients % parts == part]
        store.write(clients, number, following(store.read(clients, number)[0], clients, number))


def measure(folder: Path, clients: int, length: int, size: int, rounds: int) -> None:
    import resource

    store, rng = MemoryStore(folder / "memory", clients, {"c": length}), np.random.default_rng(3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(1, rounds + 1):
        drawn = np.sort(rng.choice(clients, size, replace=False))
        store.write(drawn, number, store.read(drawn, number)[0])
        store.settle(number)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def numbers(words: list[str]) -> Iterator[int]:
    return (int(word) for word in words)


if __name__ == "__main__":
    {"train": train, "share": share, "measure": measure}[sys.argv[1]](Path(sys.argv[2]), *numbers(sys.argv[3:]))
