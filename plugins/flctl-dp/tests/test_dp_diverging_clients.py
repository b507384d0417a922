"""A client whose training diverges counts as zeros: ending the run would name it, without any noise."""

import json

import numpy as np
import pytest
from flctl import DivergenceError
from flctl.server.training import train
from flctl.testing.trial import Trial

DIVERGING = """
import torch

class Diverging(torch.nn.Module):
    # Outputs are infinite where a value of one client's rows comes in: that client diverges, and no other.
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x) * torch.where(x[..., :1] == VALUE, float("inf"), 1.0)

def net(data):
    return Diverging()
"""


DIVIDING = """
import numpy as np
from flctl import Strategy

class Dividing(Strategy):
    name = "dividing"

    def report(self, trained, work, memory):
        delta = trained.delta["params"]
        return {"delta": delta * np.float32("nan") if trained.examples == ROWS else delta}, 1.0, {}
"""


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=1", "local.batch_size=0", "cohort.sampling=all")


def diverging(trial, client):
    """The model under which the training of one client diverges."""
    rows, _ = trial.partition.train(client)
    path = trial.directory / f"net{client}.py"
    path.write_text(DIVERGING.replace("VALUE", repr(float(rows[0, 0]))))
    return f"model={path.as_posix()}:net"


def seeded(name, **options):
    given = {"insecure_seed": 7, "noise_multiplier": 1e-3, "clipping_norm": 1.0, **options}
    if name == "dp-adaptive":
        given["noise_multiplier"] = 1e-2
    return f"transforms.{name}={json.dumps(given)}"


@pytest.mark.parametrize("name", ["dp", "dp-adaptive", "dp-ftrl", "dp-local", "dp-distributed"])
def test_a_diverging_client_counts_as_zeros_and_is_not_named(trial, name):
    result = train(*trial.prepare(seeded(name), diverging(trial, 3)))
    assert result.status == "finished"
    line = json.dumps(result.directory.lines())
    assert "failed" not in json.loads(line)[0] or not json.loads(line)[0]["failed"]
    assert f"'{trial.partition.client_ids[3]}'" not in line


@pytest.mark.parametrize("executor", ["auto", "sequential", "vmap"])
def test_its_zeros_are_those_of_a_client_that_did_not_move(trial, executor):
    """The sum without the client, divided by all nine that are expected."""
    options = seeded("dp", noise_multiplier=1e-6, clipping_norm=100.0)
    weights = []
    for model in (diverging(trial, 3), diverging(trial, 8)):
        result = train(*trial.prepare(options, model, f"engine.executor={executor}", "local.lr=0.5"))
        weights.append(_weights(result.directory.path))
    assert all(np.isfinite(w).all() for w in weights)
    # 100 / 9 is the most that a client moves the mean; each run lacks one client's share only
    assert 0 < np.abs(weights[0] - weights[1]).max() < 1


def test_its_zeros_are_multiplied_by_the_same_weight_over_secure_aggregation(trial):
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
    result = train(*trial.prepare(seeded("dp"), diverging(trial, 3), "aggregator=secagg"))
    assert result.status == "finished"


def test_a_report_that_is_not_finite_counts_as_zeros_too(trial):
    """A strategy that divides by what a client sent, and gets no number."""
    rows = str(int(trial.partition.counts[4, 0]))
    (trial.directory / "strategy.py").write_text(DIVIDING.replace("ROWS", rows))
    strategy = f"strategy={(trial.directory / 'strategy.py').as_posix()}:Dividing"
    result = train(*trial.prepare(seeded("dp"), strategy))
    assert result.status == "finished"


def test_without_privacy_a_diverging_client_ends_the_run_with_its_name(trial):
    with pytest.raises(DivergenceError, match=f"client '{trial.partition.client_ids[3]}' failed"):
        train(*trial.prepare(diverging(trial, 3)))


def test_the_server_of_dp_local_gets_no_loss_rows_or_steps(trial):
    """It is not trusted, and no noise covers them: metrics are withheld as an aggregator that hides does."""
    for name, withheld in (("dp-local", True), ("dp", False)):
        line = train(*trial.prepare(seeded(name))).directory.lines()[0]
        assert (line["loss"] is None) == withheld
        assert (line["examples"] == 0) == withheld


def _weights(path):
    from flctl.testing.trial import _result

    return _result(path).weights
