"""Masked training costs no accuracy: MNIST, beside the same run in the clear."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FLCTL = [sys.executable, "-c", "from flctl.cli import main; main()"]
RUN = ("--strategy", "fedavg", "--sampling", "all", "--rounds", "8", "--lr", "0.1", "-o", "model=2nn", "--seed", "0")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    named = os.environ.get("FLCTL_TEST_DATA")
    if not named or not (Path(named) / "mnist").is_dir():
        pytest.skip("FLCTL_TEST_DATA does not name a folder with mnist")
    folder = tmp_path_factory.mktemp("mnist")
    flctl("partition", str(Path(named) / "mnist"), "--clients", "10", "--seed", "0", "--out", str(folder / "parts"))
    return folder / "parts"


def flctl(*words):
    subprocess.run([*FLCTL, *words], check=True, capture_output=True)


def accuracy(parts, name, *words):
    flctl("train", str(parts), *RUN, *words, "--out", str(parts.parent / name))
    return json.loads((parts.parent / name / "summary.json").read_text())["final"]["accuracy"]


@pytest.mark.slow
def test_words_of_twenty_bits_keep_the_accuracy_of_a_plain_run(parts):
    plain = accuracy(parts, "plain")
    masked = accuracy(parts, "masked", "--aggregator", "secagg", "-o", "aggregator.bits=20")
    assert plain > 0.9
    assert masked == pytest.approx(plain, abs=0.002)
