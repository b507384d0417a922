"""Next-character windows from plays and from LEAF, and LEAF's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data_files import read

from flctl.data.windows import Vocabulary, windows
from flctl.errors import DataError

PLAY = "ANN:\nabcde\n\nBOB:\nxy\nz\n\nANN:\nab\n\nMUTE:\n\n"


def test_windows_by_hand(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text(PLAY)
    data = read("text", tmp_path / "play.txt", window=3, by="speaker")
    assert data.task == "next-character"
    assert data.time_ordered
    assert data.classes == tuple(sorted(set(PLAY)))
    code = {character: index for index, character in enumerate(data.classes)}
    # ANN says "abcde\nab": eight characters, seven pairs, three rows.
    assert ["".join(data.classes[c] for c in row) for row in data.x[:2]] == ["abc", "de\n"]
    assert data.x[2].tolist() == [code["a"], 0, 0]
    assert data.y[2].tolist() == [code["b"], -1, -1]
    assert ["".join(data.classes[c] for c in row) for row in data.y[:2]] == ["bcd", "e\na"]
    assert data.groups["speaker"].tolist() == ["ANN"] * 3 + ["BOB"]
    assert (data.x.dtype, data.y.dtype) == (np.uint8, np.int32)
    assert data.notes == ("1 of 3 speakers with fewer than 2 characters (0 in all) left out",)


def test_quiet_speakers_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text(PLAY)
    data = read("text", tmp_path / "play.txt", min_characters=7)
    assert set(data.groups["speaker"]) == {"ANN"}
    assert data.notes == ("2 of 3 speakers with fewer than 7 characters (4 in all) left out",)
    with pytest.raises(DataError, match="no speaker of 3 has enough characters"):
        read("text", tmp_path / "play.txt", min_characters=8)


@settings(deadline=None, max_examples=80)
@given(text=st.text(min_size=2, max_size=60), length=st.integers(1, 20))
def test_windows_hold_every_pair_of_neighbours_once_and_in_order(text: str, length: int) -> None:
    vocabulary = Vocabulary.of(text)
    x, y = windows(vocabulary.encode(text), length)
    kept = y.reshape(-1) != -1
    word = vocabulary.characters
    assert "".join(word[c] for c in x.reshape(-1)[kept]) == text[:-1]
    assert "".join(word[c] for c in y.reshape(-1)[kept]) == text[1:]
    assert (x.reshape(-1)[~kept] == 0).all()
    assert len(x) == -(-(len(text) - 1) // length)


def test_more_than_256_characters_need_wider_codes(tmp_path: Path) -> None:
    speech = "".join(chr(0x4E00 + i) for i in range(300))
    (tmp_path / "play.txt").write_text(f"ANN:\n{speech}\n")
    data = read("text", tmp_path / "play.txt")
    assert data.x.dtype == np.int32
    assert data.x.max() > 255


def _leaf(users: dict[str, tuple[list[Any], list[Any]]]) -> str:
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {name: {"x": x, "y": y} for name, (x, y) in users.items()},
    }
    return json.dumps(content)


def test_leaf_numbers_with_a_test_folder(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    (tmp_path / "train" / "a.json").write_text(_leaf({"u2": ([[1, 2], [3, 4]], [7, 9]), "u1": ([[5, 6]], [7])}))
    (tmp_path / "train" / "b.json").write_text(_leaf({"u3": ([[0, 0]], [8]), "empty": ([], [])}))
    (tmp_path / "test" / "a.json").write_text(_leaf({"u1": ([[9, 9]], [9])}))
    data = read("leaf", tmp_path, by="user")
    np.testing.assert_array_equal(data.x, [[1, 2], [3, 4], [5, 6], [0, 0]])
    assert data.classes == ("7", "8", "9")
    assert data.y.tolist() == [0, 2, 0, 1]
    assert data.groups["user"].tolist() == ["u2", "u2", "u1", "u3"]
    assert data.test is not None
    np.testing.assert_array_equal(data.test.x, [[9, 9]])
    assert data.test.y.tolist() == [2]


def test_leaf_pictures_and_regression(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(_leaf({"u": ([list(range(6)), list(range(6))], [0.5, 1])}))
    data = read("leaf", path, image_size="2x3")
    assert data.task == "regression"
    np.testing.assert_array_equal(data.x[0, 0], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(DataError, match="not pictures of 4x4"):
        read("leaf", path, image_size=4)


def test_leaf_text_counts_only_the_character_after_the_string(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(_leaf({"u": (["abc", "bc"], ["d", "a"]), "v": (["ddd"], ["b"])}))
    data = read("leaf", path)
    assert data.task == "next-character"
    assert data.classes == tuple("abcd")
    assert data.x.tolist() == [[0, 1, 2], [1, 2, 0], [3, 3, 3]]
    assert data.y.tolist() == [[-1, -1, 3], [-1, 0, -1], [-1, -1, 1]]
    assert data.groups["user"].tolist() == ["u", "u", "v"]
