"""A seeded table like a census: numbers with gaps, categories, sites, and an income that follows from them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OCCUPATIONS = ("clerk", "driver", "farmer", "nurse", "other", "teacher")
COLUMNS = ("age", "hours", "occupation", "sex", "site", "income")


def rows(count: int, seed: int, occupations: Sequence[str] = OCCUPATIONS) -> Iterator[dict[str, Any]]:
    """Rows as they stand in a file."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        age, hours = int(rng.integers(17, 90)), int(rng.integers(1, 99))
        occupation = str(rng.choice(occupations))
        score = 0.08 * (age - 45) + 0.05 * (hours - 40) + (occupation == "teacher") - (occupation == "farmer")
        yield {
            "age": "" if rng.random() < 0.02 else age,
            "hours": hours,
            "occupation": "?" if rng.random() < 0.02 else occupation,
            "sex": str(rng.choice(["female", "male"])),
            "site": str(rng.choice(["north", "south", "east"])),
            "income": ">50K" if score + rng.normal() > 0 else "<=50K",
        }


def write(
    path: Path, count: int, seed: int, columns: Sequence[str] = COLUMNS, occupations: Sequence[str] = OCCUPATIONS
) -> Path:
    """A CSV of such rows with these columns, in this order; `id` numbers the rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "id": f"p{number}"} for number, row in enumerate(rows(count, seed, occupations)))
    return path


PARTITION = ("--target", "income", "--categorical", "occupation,sex", "--na", "?", "--by", "site")
