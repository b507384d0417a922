"""Class weights: by hand, the same with every executor, and refused where they would disclose label counts."""

import numpy as np
import pytest
import torch
from support import Given, Hidden, make_run, played, toy_partition
from torch.nn import functional

import flctl
from flctl.config.config import digest
from flctl.config.load import load
from flctl.data.dataset import Dataset
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, IncompatibleError
from flctl.models.tasks import task_for
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.run.class_weights import ClassWeights, balanced
from flctl.server.rounds import Rounds


class Plugin:
    @staticmethod
    @flctl.hookimpl
    def flctl_aggregators():
        return [Hidden]


EXECUTORS = ("fused", "stacked", "shared", "vmap")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_partition(tmp_path_factory.mktemp("weights") / "toy", clients=4)


@pytest.fixture(scope="module")
def skewed(tmp_path_factory):
    """Two clients: 3 rows of a and 1 of b, and 4 of a alone; all rows for training."""
    y = np.array([0, 0, 0, 1, 0, 0, 0, 0])
    x = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    dataset = Dataset("skewed", "binary", x, y, ("a", "b"), ("p", "q"))
    path = tmp_path_factory.mktemp("weights") / "skewed"
    return write_partition(
        path, dataset, Given(np.repeat([0, 1], 4)), PartitionSpec(clients=2, test_fraction=0.0, seed=0)
    )


def model_after(partition, path, *overrides):
    run, _ = make_run(partition, path, "cohort.sampling=all", *overrides)
    return played(run, 2)[1].params["params"]


def test_balanced_weights_by_hand():
    assert balanced(np.array([3, 1])).tolist() == [4 / 6, 2.0]
    assert balanced(np.array([4, 0])).tolist() == [1.0, 1.0]


def test_balanced_counts_all_clients_and_per_client_each_one(skewed):
    both = np.array([0, 1])
    assert ClassWeights(skewed, "balanced").of(both) == pytest.approx(np.array([[8 / 14, 4.0]] * 2))
    assert ClassWeights(skewed, "balanced-per-client").of(both) == pytest.approx(np.array([[4 / 6, 2.0], [1, 1]]))
    assert ClassWeights(skewed, {"b": 3.0}).of(both[:1]).tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize("kind", ["classification", "binary"])
def test_a_weighted_loss_is_the_mean_of_weighted_rows(kind):
    torch.manual_seed(0)
    y, weights = torch.tensor([0, 1, 1]), torch.tensor([0.5, 2.0])
    outputs = torch.randn(3, 2 if kind == "classification" else 1)
    if kind == "classification":
        rows = functional.cross_entropy(outputs, y, reduction="none")
    else:
        rows = functional.binary_cross_entropy_with_logits(outputs[:, 0], y.float(), reduction="none")
    expected = (0.5 * rows[0] + 2 * rows[1] + 2 * rows[2]) / 3
    assert torch.allclose(task_for(kind).weighted(weights).loss(outputs, y), expected)


@pytest.mark.parametrize("setting", ["balanced-per-client", "{a: 3, c: 0}"])
def test_every_executor_trains_the_same_weighted_model(toy, tmp_path, setting):
    weights = f"local.class_weights={setting}"
    expected = model_after(toy, tmp_path / "sequential", weights, "engine.executor=sequential")
    plain = model_after(toy, tmp_path / "plain", "engine.executor=sequential")
    assert np.abs(expected - plain).max() > 1e-3
    for name in EXECUTORS:
        found = model_after(toy, tmp_path / name, weights, f"engine.executor={name}")
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_executors_report_the_same_weighted_loss(toy, tmp_path):
    losses = []
    for name in ("sequential", *EXECUTORS):
        options = ("local.class_weights={b: 5}", f"engine.executor={name}", "cohort.sampling=all")
        run, _ = make_run(toy, tmp_path / name, *options)
        with InProcessEngine().open(run) as engine:
            rounds = Rounds(run, engine)
            losses.append(rounds.play(rounds.initial(), last=lambda _: False)[1].loss)
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-4)


def test_a_strategy_that_measures_gradients_sees_weighted_ones(toy, tmp_path):
    options = ("local.class_weights=balanced-per-client", "strategy=mime-lite")
    one, other = (
        model_after(toy, tmp_path / name, *options, f"engine.executor={name}") for name in ("sequential", "stacked")
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_weights_of_one_leave_the_model(toy, tmp_path):
    one = model_after(toy, tmp_path / "one", "local.class_weights={a: 1}", "engine.executor=sequential")
    np.testing.assert_allclose(one, model_after(toy, tmp_path / "none", "engine.executor=sequential"), atol=1e-6)


def test_label_counts_that_an_aggregator_hides_are_not_summed(toy, tmp_path):
    registry = Registry()
    registry.add(Plugin(), "hidden")
    with pytest.raises(IncompatibleError, match="label counts of all clients") as caught:
        make_run(toy, tmp_path / "run", "local.class_weights=balanced", "aggregator=hidden", registry=registry)
    assert "balanced-per-client" in caught.value.hint
    make_run(toy, tmp_path / "own", "local.class_weights=balanced-per-client", "aggregator=hidden", registry=registry)


@pytest.mark.parametrize(
    ("setting", "found"),
    [("{d: 2}", "'d' is not a class"), ("{a: 0, b: 0, c: 0}", "0 for every class")],
)
def test_weights_that_fit_no_class_are_refused(toy, tmp_path, setting, found):
    with pytest.raises(ConfigError, match=found):
        make_run(toy, tmp_path / "run", f"local.class_weights={setting}")


def test_the_digest_of_a_run_without_weights_is_what_it_was():
    without = "sha256:225e85e7e6ca4760149dc888e581c82b6700d157ee6b5763e416a7918f6edfcf"
    assert digest(load(Registry(), overrides=["local.class_weights=none"]).config) == without
    weighted = load(Registry(), overrides=["local.class_weights.yes=3"]).config
    assert weighted.local.class_weights == {"yes": 3.0}
    assert digest(weighted) != without
