"""Runs an exported model with torch and numpy alone.

    from model import load_model

    model = load_model()
    model.predict([{"age": "40", "occupation": "clerk"}])   # tables: rows as mappings, or model.read_csv("new.csv")
    model.predict(x)                                         # arrays [n, ...] as the training examples were, raw
    model.predict(["Some text"])                             # text: the next character

From a shell: python model.py new.csv > predictions.csv
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

FOLDER = os.path.dirname(os.path.abspath(__file__))
ABSENT = "(missing)"
BATCH = 1000
EPOCH = datetime(1970, 1, 1)
PARTS = {
    "time": lambda date: (date - EPOCH).total_seconds(),
    "year": lambda date: date.year,
    "quarter": lambda date: (date.month + 2) // 3,
    "month": lambda date: date.month,
    "week": lambda date: date.isocalendar()[1],
    "day": lambda date: date.day,
    "weekday": lambda date: date.weekday(),
    "yearday": lambda date: date.timetuple().tm_yday,
    "hour": lambda date: date.hour,
    "minute": lambda date: date.minute,
    "second": lambda date: date.second,
}
DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_}


def load_model(folder: str = FOLDER) -> ExportedModel:
    """Returns the model of an exported folder."""
    with open(os.path.join(folder, "preprocessing.json"), encoding="utf-8") as file:
        fitted = json.load(file)
    with open(os.path.join(folder, "network.py"), encoding="utf-8") as file:
        names: dict[str, Any] = {}
        exec(compile(file.read(), "network.py", "exec"), names)
    return ExportedModel(fitted, names["forward"], read_tensors(os.path.join(folder, "model.safetensors")))


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file: a length, a JSON header, and raw little-endian values."""
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    result = {}
    for name, entry in header.items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[start:stop], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        result[name] = torch.from_numpy(values.copy())
    return result


class ExportedModel:
    """The network with the preprocessing that was fitted in training; `unseen` counts categories it never had."""

    def __init__(self, fitted: dict[str, Any], forward: Any, weights: dict[str, torch.Tensor]) -> None:
        self.fitted, self.unseen = fitted, 0
        self.task, self.classes = fitted["task"], fitted["classes"]
        self.columns = (fitted["inputs"] or {}).get("columns", [])
        self._forward, self._weights = forward, weights

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        """Returns for each row its `prediction`, and of classes the `probability` of each by name."""
        if self.task == "next-character":
            logits = [self.outputs(self.encode_text(text)[None])[0, -1] for text in rows]
            return [self._classes(row[None])[0] for row in logits]
        outputs = self.outputs(self.encode(rows))
        if self.task == "regression":
            target = self.fitted["standardisation"]["target"] or {"shift": 0.0, "scale": 1.0}
            values = outputs.reshape(len(outputs)).astype(np.float64) * target["scale"] + target["shift"]
            return [{"prediction": value} for value in values.tolist()]
        return self._classes(outputs)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Returns the network's outputs for encoded rows."""
        with torch.no_grad():
            parts = [self._forward(self._weights, torch.from_numpy(x[i : i + BATCH])) for i in range(0, len(x), BATCH)]
        return torch.cat(parts).numpy()

    def encode(self, rows: Any) -> np.ndarray:
        """Returns float32 [n, ...] as the network takes it: raw rows encoded and standardised."""
        x = rows if isinstance(rows, np.ndarray) else self._table(list(rows))
        if list(x.shape[1:]) != list(self.fitted["shape"]):
            raise ValueError(f"rows have shape {list(x.shape[1:])}, expected {list(self.fitted['shape'])}")
        if isinstance(rows, np.ndarray) and self.columns:
            x = self._filled(x)
        done = self.fitted["standardisation"]
        result = x.astype(np.float32)
        if done["kind"] != "none":
            entry = self.fitted["shape"] if done["kind"] == "feature" else (-1, 1, 1)
            result -= np.array(done["shift"], np.float32).reshape(entry)
            result /= np.array(done["scale"], np.float32).reshape(entry)
        return np.nan_to_num(result, copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)

    def encode_text(self, text: str) -> np.ndarray:
        """Returns the codes of a text's last characters; those outside the vocabulary are left out and counted."""
        codes = {character: code for code, character in enumerate(self.classes)}
        kept = [codes[character] for character in text if character in codes]
        self.unseen += len(text) - len(kept)
        if not kept:
            raise ValueError("the text has no character that the model knows")
        return np.array(kept[-self.fitted["shape"][0] :], np.int64)

    def read_csv(self, path: str, delimiter: str = ",") -> list[dict[str, str]]:
        """Returns the rows of a CSV whose first line names its columns."""
        with open(path, encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file, delimiter=delimiter, skipinitialspace=True))

    def _filled(self, x: np.ndarray) -> np.ndarray:
        """Returns rows as arrays with each number's offset subtracted and its fill in place of NaN."""
        x, start = x.astype(np.float64), 0
        for column in self.columns:
            if column["kind"] != "category":
                x[:, start] -= column["offset"]
                if column["fill"] is not None:
                    x[np.isnan(x[:, start]), start] = column["fill"]
            start += len(_features(column))
        return x

    def _table(self, rows: list[dict[str, Any]]) -> np.ndarray:
        if not self.columns:
            raise ValueError("this model takes arrays, not rows with named columns")
        x = np.zeros((len(rows), sum(len(_features(column)) for column in self.columns)))
        start = 0
        for column in self.columns:
            for row_index, row in enumerate(rows):
                if column["name"] not in row:
                    raise ValueError(f"row {row_index} has no column '{column['name']}'")
                self._cell(x[row_index], start, column, row[column["name"]], row_index)
            start += len(_features(column))
        return x

    def _cell(self, row: np.ndarray, start: int, column: dict[str, Any], cell: Any, row_index: int) -> None:
        word = (
            None if cell is None or str(cell).strip() in ("", *self.fitted["inputs"]["missing"]) else str(cell).strip()
        )
        if column["kind"] != "category":
            value = self._number(word, column, row_index)
            row[start] = column["fill"] if math.isnan(value) and column["fill"] is not None else value
            if column["indicator"]:
                row[start + 1] = math.isnan(value)
            return
        level = ABSENT if word is None else word
        if level in column["levels"] and (word is None or word != ABSENT):
            row[start + column["levels"].index(level)] = 1
        elif word is not None:
            self.unseen += 1

    def _number(self, word: str | None, column: dict[str, Any], row_index: int) -> float:
        if word is None:
            return math.nan
        booleans = {"true": "1", "false": "0"}
        try:
            raw = _date(word, column) if column["kind"] == "date" else float(booleans.get(word.lower(), word))
            value = float(raw - column["offset"])
        except ValueError:
            raise ValueError(
                f"row {row_index}, column '{column['name']}': '{word}' is not a {column['kind']}"
            ) from None
        if not math.isfinite(value):
            raise ValueError(f"row {row_index}, column '{column['name']}': {word} is not a finite number")
        return value

    def _classes(self, outputs: np.ndarray) -> list[dict[str, Any]]:
        logits = outputs.reshape(len(outputs), -1).astype(np.float64)
        if self.task == "binary":
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        return [
            {"prediction": self.classes[row.argmax()], "probability": dict(zip(self.classes, row.tolist()))}
            for row in shares
        ]


def _features(column: dict[str, Any]) -> list[str]:
    if column["kind"] == "category":
        return list(column["levels"])
    return [column["name"], "missing"] if column["indicator"] else [column["name"]]


def _date(word: str, column: dict[str, Any]) -> float:
    """Returns the column's part of a date; dates with an offset are taken in UTC."""
    date, form = None, column["format"]
    try:
        if form == "unix":
            seconds = float(word)
            date = datetime.fromtimestamp(seconds / (1000 if abs(seconds) > 1e11 else 1), UTC)
        elif form != "iso":
            date = datetime.strptime(word, form)
    except ValueError:
        pass
    date = date or datetime.fromisoformat(word)
    date = date if date.tzinfo is None else date.astimezone(UTC).replace(tzinfo=None)
    return float(PARTS[column["part"]](date))


def main() -> None:
    """Prints predictions of a CSV, an .npy file of raw examples, or a text file's lines, as CSV."""
    if len(sys.argv) != 2:
        sys.exit("usage: python model.py ROWS.csv|ROWS.npy|LINES.txt > predictions.csv")
    model, path = load_model(), sys.argv[1]
    if model.task == "next-character":
        with open(path, encoding="utf-8") as file:
            rows: Any = [line for line in file.read().split("\n") if line.strip()]
    else:
        rows = np.load(path, allow_pickle=False) if path.endswith(".npy") else model.read_csv(path)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    classes = [] if model.task == "regression" else model.classes
    writer.writerow(["row", "prediction", *(f"p:{name}" for name in classes)])
    for row_index, found in enumerate(model.predict(rows)):
        shares = found.get("probability", {})
        writer.writerow([row_index, found["prediction"], *(f"{shares[name]:.9g}" for name in classes)])
    if model.unseen:
        print(f"{model.unseen} cells or characters that training never had", file=sys.stderr)


if __name__ == "__main__":
    main()
