"""Every sample config partitions, trains and evaluates: on data made in its format, and on a slice of the real data."""

import gzip
import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import slow_but
from support.data_files import idx_bytes

from flctl.cli import run as cli

CONFIGS = Path(__file__).parents[1] / "sample_configs"
SHORT = {
    "mnist": ["--rounds", "2"],
    "mnist-cnn": ["--rounds", "1", "-o", "local.schedule=constant", "-o", "local.epochs=1"],
    "mnist-non-iid": ["--rounds", "2"],
    "medicine": [],
    "finance": ["--rounds", "3"],
    "smart-city": ["--rounds", "3"],
    "keyboard": ["--rounds", "1", "--clients-per-round", "2"],
    "activity": ["--rounds", "5"],
    "activity-personal": ["--rounds", "2", "-o", "eval.every=1"],
    "mnist-label-skew": ["--rounds", "1", "-o", "local.epochs=1"],
    "stragglers": ["--rounds", "1"],
    "attacked": ["--rounds", "3"],
    "medicine-private": ["--rounds", "2", "-o", "transforms.dp-examples.noise_multiplier=2"],
    "mnist-private": ["--rounds", "2", "--sampling-rate", "0.5", "-o", "transforms.dp.noise_multiplier=2"],
}


def idx(path: Path, array: np.ndarray) -> None:
    path.write_bytes(gzip.compress(idx_bytes(array.astype(np.uint8))))


def made_mnist(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for prefix, rows in (("train", 400), ("t10k", 50)):
        labels = np.arange(rows) % 10
        images = rng.integers(0, 60, (rows, 28, 28))
        images[np.arange(rows), labels * 2 + 4] += 150
        idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def made_census(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    words = {1: ["Private", "State-gov", "?"], 3: ["HS", "BSc"], 5: ["Single", "Wed"], 6: ["Sales", "Tech", "?"]}
    words |= {7: ["Wife", "Own"], 8: ["A", "B"], 9: ["Male", "Female"], 13: ["US", "?"], 14: ["<=50K", ">50K"]}
    rows = [
        ", ".join(str(rng.choice(words[c]) if c in words else rng.integers(0, 90)) for c in range(15))
        for _ in range(300)
    ]
    path = folder / "adult.data.gz"
    path.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    return path


def made_air(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    names = ["No", "PM2.5", "SO2", "NO2", "CO", "O3", "TEMP", "PRES", "DEWP", "RAIN", "wd", "WSPM", "station"]
    for station in ("Dongsi", "Gucheng"):
        lines = [",".join(names)]
        for number in range(200):
            values = rng.normal(10, 3, 11).round(2).tolist()
            cells = [number, "NA" if number % 50 == 9 else values[1] * 3, *values[1:9], "NNW", values[10], station]
            lines.append(",".join(str(cell) for cell in cells))
        (folder / f"PRSA_Data_{station}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def made_plays(folder: Path) -> Path:
    line = "the quick brown fox jumps over the lazy dog, and so to bed\n"
    speeches = [f"{name}:\n{line * 3}" for _ in range(12) for name in ("ROMEO", "JULIET", "NURSE")]
    path = folder / "input.txt"
    path.write_text("\n".join(speeches))
    return path


def made_activity(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    names = ["UNIQUE_ID", "user", *(f"F{n}" for n in range(43)), "class"]
    kinds = ["numeric", "", *["numeric"] * 43, "{Walking, Sitting}"]
    lines = ["@relation activity", *(f'@attribute "{n}" {k}' for n, k in zip(names, kinds, strict=True)), "@data"]
    for row in range(120):
        cells = ["?" if n == 7 and row % 9 == 0 else f"{v:.2f}" for n, v in enumerate(rng.normal(row % 2, 1, 43))]
        lines.append(",".join([str(row), str(row % 4), *cells, ("Walking", "Sitting")[row % 2]]))
    path = folder / "activity.arff"
    path.write_text("\n".join(lines) + "\n")
    return path


MADE = {
    "mnist": made_mnist,
    "mnist-cnn": made_mnist,
    "mnist-non-iid": made_mnist,
    "medicine": lambda folder: "breast_cancer",
    "finance": made_census,
    "smart-city": made_air,
    "keyboard": made_plays,
    "activity": made_activity,
    "activity-personal": made_activity,
    "mnist-label-skew": made_mnist,
    "stragglers": lambda folder: "synthetic(1,1,12)",
    "attacked": lambda folder: "digits",
    "medicine-private": lambda folder: "breast_cancer",
    "mnist-private": made_mnist,
}


def head(source: Path, target: Path, lines: int) -> Path:
    with gzip.open(source, "rt") as file:
        target.write_bytes(gzip.compress("".join(islice(file, lines)).encode()))
    return target


def slice_of(name: str, data: Path, folder: Path) -> Path | str:
    """A small part of the real data that a config is for."""
    if name.startswith("mnist"):
        for prefix, rows in (("train", 2000), ("t10k", 200)):
            for kind, size, shape in (("images-idx3", 784, (28, 28)), ("labels-idx1", 1, ())):
                with gzip.open(data / "mnist" / f"{prefix}-{kind}-ubyte.gz") as file:
                    body = file.read()[16 if shape else 8 :][: rows * size]
                idx(folder / f"{prefix}-{kind}-ubyte.gz", np.frombuffer(body, np.uint8).reshape(rows, *shape))
        return folder
    if name == "finance":
        return head(data / "adult" / "adult.data.gz", folder / "adult.data.gz", 3000)
    if name == "smart-city":
        for file in sorted((data / "beijing_air").glob("*.csv.gz"))[:3]:
            head(file, folder / file.name, 1500)
        return folder
    if name == "keyboard":
        text = (data / "tinyshakespeare" / "input.txt").read_text()[:60_000]
        (folder / "input.txt").write_text(text[: text.rindex("\n\n") + 1])
        return folder / "input.txt"
    if name.startswith("activity"):
        return Path(shutil.copy(data / "wisdm" / "WISDM_ar_v1.1_transformed.arff", folder))
    return {"stragglers": "synthetic(1,1)", "attacked": "digits"}.get(name, "breast_cancer")


def three_commands(name: str, source: Path | str, capsys: pytest.CaptureFixture[str]) -> dict:
    """What the config's own comment says to type; the evaluation."""
    config = str(CONFIGS / f"{name}.yaml")
    parts = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["data"]
    fewer = ["--clients", "10"] if name.startswith("mnist") else []
    assert cli(["partition", str(source), "--config", config, *fewer, "--out", parts]) == 0
    few = ["--clients-per-round", "5"] if name.startswith("mnist") and "--sampling-rate" not in SHORT[name] else []
    assert cli(["train", "--config", config, *few, *SHORT[name], "--out", "runs/x"]) == 0
    capsys.readouterr()
    assert cli(["eval", "runs/x", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["data"]


def test_every_config_is_tried():
    assert sorted(SHORT) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", slow_but(sorted(SHORT), "activity", "finance", "medicine"))
def test_a_config_runs_on_data_made_in_its_format(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "keyboard":
        monkeypatch.setitem(SHORT, name, ["--rounds", "1", "--clients-per-round", "2", "-o", "model.hidden=16"])
    folder = tmp_path / "source"
    folder.mkdir()
    assert three_commands(name, MADE[name](folder), capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_config_runs_on_a_slice_of_its_data(name, data_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    folder.mkdir()
    assert three_commands(name, slice_of(name, data_root, folder), capsys)


@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_config_says_what_to_expect_and_is_valid(name, capsys):
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "Expect" in text.split("partition:")[0]
    assert cli(["config", "validate", str(CONFIGS / f"{name}.yaml")]) == 0
