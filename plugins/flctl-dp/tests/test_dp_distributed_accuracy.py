"""What it costs that nobody is trusted with the sum: accuracy at the same epsilon, beside the central mechanism."""

import json
import os
from pathlib import Path

import pytest
from flctl.cli import run as run_cli

SUM = Path(__file__).with_name("ring_sum.py").as_posix() + ":RingSum"
COMMON = ("cohort.sampling=all", "model=logreg", "rounds=20", "local.batch_size=50", "local.lr=0.1", "eval.every=20")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A hundred clients of 480 digits each."""
    if not os.environ.get("FLCTL_TEST_DATA"):
        pytest.skip("FLCTL_TEST_DATA does not name the folder of real data sets")
    path = tmp_path_factory.mktemp("accuracy") / "parts"
    source = Path(os.environ["FLCTL_TEST_DATA"]) / "mnist"
    assert run_cli(["partition", str(source), "--scheme", "iid", "--clients", "100", "--out", str(path)]) == 0
    return path


def accuracy(parts, capsys, transform, seed, *settings):
    """The test accuracy of a run that keeps to epsilon 16, and that epsilon."""
    run, ledger = parts.parent / f"{transform}-{seed}", parts.parent / f"{transform}-{seed}.jsonl"
    options = {"target_epsilon": 16, "clipping_norm": 0.5, "relation": "zero-out", "ledger": ledger.as_posix()}
    chosen = (f"transforms.{transform}={json.dumps(options)}", f"seed={seed}", *COMMON, *settings)
    capsys.readouterr()
    words = [word for setting in chosen for word in ("-o", setting)]
    assert run_cli(["train", str(parts), "--strategy", "fedavg", "--out", str(run), *words, "--yes", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    return told["final"]["accuracy"], told["transforms"][transform]["epsilon"]


@pytest.mark.slow
def test_it_is_within_a_point_of_the_central_mechanism_in_words_of_20_bits(parts, capsys):
    """Means of three runs each, on MNIST."""
    central = [accuracy(parts, capsys, "dp", seed) for seed in (1, 2, 3)]
    shared = [accuracy(parts, capsys, "dp-distributed", seed, f"aggregator={SUM}") for seed in (1, 2, 3)]
    assert all(15.9 < epsilon <= 16 for _, epsilon in (*central, *shared))
    means = [sum(one for one, _ in runs) / 3 for runs in (central, shared)]
    assert means[0] > 0.8
    assert means[1] > means[0] - 0.01, (central, shared)
