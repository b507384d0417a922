"""`flctl export`: a folder that predicts as the run does, without flctl, and a model card without rows."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from support import census, make_run, toy_partition, train_run

from flctl.cli import run as command
from flctl.export.folder import export_model
from flctl.plugins.registry import Registry
from flctl.prediction.predictor import load_predictor

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"flctl", "safetensors", "pydantic", "pyarrow", "sklearn", "typer"}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv.pop(1))
sys.argv[0] = "model.py"
import model
model.main()
"""


def predicted(folder, rows):
    """Rows that the folder's own command prints, with flctl and its dependencies blocked."""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", BLOCKED, str(folder), str(rows)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run on census rows, exported to `model`."""
    root = tmp_path_factory.mktemp("export")
    source = census.write(root / "train.csv", 300, 1)
    assert command(["partition", str(source), *census.PARTITION, "--out", str(root / "part")]) == 0
    assert command(["train", str(root / "part"), "--rounds", "2", "--lr", "0.1", "--out", str(root / "run")]) == 0
    assert command(["export", str(root / "run"), "--out", str(root / "model")]) == 0
    return root


def test_the_folder_predicts_as_flctl_does_without_flctl(home, capsys):
    new = census.write(home / "new.csv", 60, 9, ("hours", "sex", "occupation", "age"), ("clerk", "astronaut", "other"))
    alone = predicted(home / "model", new)
    capsys.readouterr()
    assert command(["predict", str(home / "run"), str(new)]) == 0
    mine = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["prediction"] for row in alone] == [row["prediction"] for row in mine]
    for name in ("p:<=50K", "p:>50K"):
        assert [float(row[name]) for row in alone] == pytest.approx([float(row[name]) for row in mine], rel=1e-5)


def test_the_card_has_data_skew_clients_privacy_versions_and_digests(home):
    card = (home / "model" / "MODEL_CARD.md").read_text()
    for part in ("240 training rows of 3 clients", "Jensen-Shannon", "| north |", "no differential privacy", "torch "):
        assert part in card
    run = json.loads((home / "run" / "run.json").read_text())
    assert run["partition_digest"] in card
    assert "(missing)" in card


def test_the_folder_holds_no_rows(home):
    texts = "".join(
        path.read_text(errors="replace") for path in (home / "model").iterdir() if path.suffix != ".safetensors"
    )
    lines = (home / "train.csv").read_text().splitlines()[1:]
    assert [line for line in lines if line in texts] == []
    assert sorted(path.name for path in (home / "model").iterdir()) == [
        "MODEL_CARD.md",
        "model.py",
        "model.safetensors",
        "network.py",
        "preprocessing.json",
        "requirements.txt",
    ]


def test_an_existing_folder_is_refused(home):
    assert command(["export", str(home / "run"), "--out", str(home / "model")]) == 2


def test_a_card_without_the_partition_says_so(home, tmp_path):
    (home / "part").rename(home / "away")
    try:
        assert command(["export", str(home / "run"), "--out", str(tmp_path / "model")]) == 0
    finally:
        (home / "away").rename(home / "part")
    assert "data is not described" in (tmp_path / "model" / "MODEL_CARD.md").read_text()


def test_arrays_and_text_run_alone_too(tmp_path):
    toy = toy_partition(tmp_path / "toy")
    train_run(toy, tmp_path / "run", "model=mlp")
    predictor = load_predictor(tmp_path / "run", "last", None, Registry())
    done = export_model(predictor, tmp_path / "model", "torch", Registry())
    assert done.differences["torch"] <= 1e-5
    rows = toy.read_raw("x", 0, 6)
    np.save(tmp_path / "new.npy", rows)
    found = [row["prediction"] for row in predicted(tmp_path / "model", tmp_path / "new.npy")]
    assert found == [toy.classes[code] for code in predictor.outputs(rows).argmax(axis=1)]


@pytest.mark.slow
def test_text_runs_alone(tmp_path, capsys):
    plays = "\n\n".join(f"{name}:\n{'abcab' * 20}" for name in ("ANN", "BOB"))
    (tmp_path / "plays.txt").write_text(plays + "\n")
    part, trained = str(tmp_path / "part"), str(tmp_path / "run")
    assert command(["partition", str(tmp_path / "plays.txt"), "--by", "speaker", "--window", "10", "--out", part]) == 0
    options = ["--model", "char-lstm", "-o", "model.hidden=16", "--rounds", "1", "--out", trained]
    assert command(["train", part, *options]) == 0
    assert command(["export", trained, "--out", str(tmp_path / "model")]) == 0
    (tmp_path / "lines.txt").write_text("abcab\nab\n")
    capsys.readouterr()
    assert command(["predict", trained, str(tmp_path / "lines.txt")]) == 0
    mine = [row["next"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [row["prediction"] for row in predicted(tmp_path / "model", tmp_path / "lines.txt")] == mine


@pytest.mark.slow
@pytest.mark.parametrize("model", ["logreg", "mlp"])
def test_onnx_gives_the_outputs_of_torch(tmp_path, model):
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    train_run(toy_partition(tmp_path / "toy"), tmp_path / "run", f"model={model}")
    predictor = load_predictor(tmp_path / "run", "last", None, Registry())
    done = export_model(predictor, tmp_path / "model", "onnx", Registry())
    assert done.differences["onnx"] <= 1e-5
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "model" / "model.onnx"))
    x = np.random.default_rng(1).normal(size=(17, 4)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    import torch

    with torch.no_grad():
        expected = predictor.model.module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


BRANCHING = """
from torch import nn

class Branching(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.layer = nn.Linear(shape[0], outputs)
    def forward(self, x):
        return self.layer(x if x.sum() > 0 else -x)

def make(data):
    return Branching(data.shape, data.outputs)
"""


@pytest.mark.slow
def test_a_forward_pass_with_branches_on_values_is_refused(tmp_path, capsys):
    (tmp_path / "net.py").write_text(BRANCHING)
    toy = toy_partition(tmp_path / "toy")
    _, directory = make_run(toy, tmp_path / "run", f"model={(tmp_path / 'net.py').as_posix()}:make")
    assert directory.preprocessing() is not None
    arguments = ["train", str(toy.path), "--model", f"{tmp_path / 'net.py'}:make", "--rounds", "1"]
    assert command([*arguments, "--out", str(tmp_path / "trained")]) == 0
    capsys.readouterr()
    assert command(["export", str(tmp_path / "trained"), "--out", str(tmp_path / "model")]) == 3
    assert "cannot be written as a graph" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "model").exists()
