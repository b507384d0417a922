"""One round over real and scripted engines: FedAvg exactly, order, failures, layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import Given, ScriptedEngine, make_run, toy_dataset, train_run

from flctl import hookimpl, wire
from flctl.algorithms.aggregator import Aggregator
from flctl.algorithms.transform import Transform
from flctl.engines.engine import Lost
from flctl.engines.inprocess import InProcessEngine
from flctl.errors import ConfigError, DivergenceError, FlctlError, IncompatibleError, RoundFailedError
from flctl.executors.batches import batches, local_keys
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.server.training import train
from flctl.testing.trial import Trial
from flctl.types import Failure


def never(seconds: float) -> bool:
    return False


def play(run, failures=None, backwards=False, rounds=1):
    engine = ScriptedEngine(InProcessEngine(), failures or {}, backwards)
    with engine.open(run):
        server = Rounds(run, engine)
        state = server.initial()
        for _ in range(rounds):
            state, report = server.play(state, last=never)
    return state, report


def logreg_gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of softmax regression's mean loss, in numpy and float64: an oracle of its own."""
    w, b = weights[: 3 * x.shape[1]].reshape(3, -1), weights[3 * x.shape[1] :]
    logits = x @ w.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True) - np.eye(3)[y]
    return np.concatenate([(p.T @ x / len(y)).ravel(), p.mean(0)])


def test_one_full_batch_step_is_the_textbook_gradient_step(toy, tmp_path):
    """w - eta sum_k (n_k / n) grad_k, to float precision (McMahan et al. 2017, section 2)."""
    run, _ = make_run(toy, tmp_path / "run", "local.batch_size=0", "local.lr=0.3", "cohort.sampling=all")
    start = run.build_model().read()["params"].astype(np.float64)
    shards = [toy.train(k) for k in range(toy.clients)]
    n = sum(len(y) for _, y in shards)
    gradient = sum(len(y) / n * logreg_gradient(start, x.astype(np.float64), y) for x, y in shards)
    state, _ = play(run)
    np.testing.assert_allclose(state.params["params"], start - 0.3 * gradient, rtol=2e-6, atol=2e-7)


def test_one_client_is_plain_centralised_training(tmp_path):
    """Rounds of one client are a plain torch loop with torch.optim over the same batches."""
    dataset = toy_dataset(60)
    one = write_partition(tmp_path / "p", dataset, Given([0] * 60), PartitionSpec(clients=1, test_fraction=0.2, seed=1))
    run, _ = make_run(
        one, tmp_path / "run", "cohort.clients=1", "local.batch_size=7", "local.epochs=2", "local.momentum=0"
    )
    state, _ = play(run, rounds=2)
    model = run.build_model()
    optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
    x, y = one.train(0)
    for number in (1, 2):
        work = Rounds(run, InProcessEngine()).plan(replace(state, round=number - 1)).work
        key = local_keys(run.config.seed, number, np.array(["0"]))[0]
        for rows in batches(len(y), work.local, key):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model.module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            loss.backward()
            optimizer.step()
    np.testing.assert_allclose(state.params["params"], model.read()["params"], rtol=1e-5, atol=1e-6)


def test_the_order_of_replies_does_not_change_a_bit(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all")
    forwards, _ = play(run)
    backwards, _ = play(run, backwards=True)
    np.testing.assert_array_equal(forwards.params["params"], backwards.params["params"])


@pytest.mark.parametrize(
    "failure",
    [
        Failure("exception", "boom"),
        b"no frame",
        wire.pack("vector", arrays={"delta": np.zeros(3, np.float32), "weight": np.ones(1)}),
        wire.pack("vector", arrays={"delta": np.full(15, np.nan, np.float32), "weight": np.ones(1)}),
        wire.pack("vector", arrays={"delta": np.ones(15, np.float32), "weight": np.full(1, -1.0)}),
        wire.pack("vector", arrays={"delta": np.ones(15, np.float32), "weight": np.full(1, np.inf)}),
    ],
)
def test_a_failing_client_is_left_out_as_if_it_had_not_been_asked(toy, tmp_path, failure):
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all", "engine.max_failures=1")
    state, report = play(run, {"4": failure})
    assert list(report.failed) == ["4"]
    assert (report.asked, report.answered) == (10, 9)
    assert report.examples == sum(len(toy.train(k)[1]) for k in range(10) if k != 4)
    start = run.build_model().read()["params"]
    alone = {str(k): Failure("exception", "") for k in range(10) if k != 4}
    without, _ = play(replace_failures(run, 10), {"4": Failure("exception", "")})
    np.testing.assert_array_equal(state.params["params"], without.params["params"])
    nobody, _ = play(replace_failures(run, 10), {**alone, "4": failure})
    np.testing.assert_array_equal(nobody.params["params"], start)


def replace_failures(run, allowed: int):
    engine = run.config.engine.model_copy(update={"max_failures": allowed})
    return replace(run, config=run.config.model_copy(update={"engine": engine}))


def test_more_failures_than_allowed_stop_the_round_and_name_the_client(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all", "seed=11")
    with pytest.raises(RoundFailedError, match=r"round 1: client '7' failed .exception.: boom.*seed is 11") as caught:
        play(run, {"7": Failure("exception", "boom")})
    assert f"flctl runs replay {(tmp_path / 'run').as_posix()} --round 1 --client 7" in caught.value.hint


def test_a_learning_rate_that_diverges_is_named(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "local.lr=1e38", "local.epochs=5")
    with pytest.raises(DivergenceError, match="non-finite") as caught:
        play(run, rounds=3)
    assert "local.lr" in caught.value.hint


def test_an_engine_that_loses_an_answer_is_found_out(toy, tmp_path):
    class Losing(InProcessEngine):
        gathers = False

        def exchange(self, requests, deadline=None):
            answers = super().exchange(requests, deadline)
            next(answers)
            yield from answers

    run, _ = make_run(toy, tmp_path / "run")
    engine = Losing()
    with engine.open(run):
        server = Rounds(run, engine)
        with pytest.raises(FlctlError, match="of 4 answers"):
            server.play(server.initial(), last=never)


def test_an_empty_cohort_leaves_the_model_as_it_is(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=poisson", "cohort.rate=1e-9")
    state, report = play(run)
    assert (report.asked, report.answered, report.loss) == (0, 0, None)
    np.testing.assert_array_equal(state.params["params"], run.build_model().read()["params"])


def test_bytes_are_those_of_the_encoded_messages(toy, tmp_path):
    from flctl.wire import messages

    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all")
    _, report = play(run)
    engine = InProcessEngine()
    with engine.open(run):
        server = Rounds(run, engine)
        work = server.plan(server.initial()).work
    assert report.bytes_down == 10 * len(messages.pack_work(work))
    vector = {"delta": np.zeros(15, np.float32), "weight": np.zeros(1)}
    assert report.bytes_up == 10 * len(wire.pack("vector", arrays=vector))


def test_clipping_bounds_the_step(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "transforms.clip.norm=0.01", "local.epochs=5")
    state, _ = play(run)
    moved = np.linalg.norm(state.params["params"] - run.build_model().read()["params"])
    assert 0 < moved <= 0.01 * (1 + 1e-5)


class Log(Transform):
    """Notes where it ran."""

    class Config(Transform.Config):
        pass

    seen: list[str]

    def on_client(self, update, ctx):
        self.seen.append(f"{self.name} client")
        return update

    def on_arrival(self, update, ctx):
        self.seen.append(f"{self.name} arrival")
        return update

    def on_server(self, aggregate, state, ctx):
        self.seen.append(f"{self.name} server")
        return aggregate, {"rounds": state.get("rounds", np.zeros(1)) + 1}


def logging_registry(hides: bool = False) -> tuple[Registry, list[str]]:
    seen: list[str] = []

    class First(Log):
        name = "first"

    class Second(Log):
        name = "second"

    class Hidden(Aggregator):
        name = "hidden"
        hides = True

    First.seen = Second.seen = seen

    class Plugin:
        @hookimpl
        def flctl_transforms(self):
            return [First, Second]

        @hookimpl
        def flctl_aggregators(self):
            return [Hidden]

    registry = Registry()
    registry.add(Plugin(), "test")
    return registry, seen


def test_layers_run_in_order_on_the_client_and_in_reverse_on_the_server(toy, tmp_path):
    registry, seen = logging_registry()
    run, _ = make_run(
        toy, tmp_path / "run", "transforms.first={}", "transforms.second={}", "cohort.clients=1", registry=registry
    )
    state, _ = play(run, rounds=2)
    one_round = ["first client", "second client", "second arrival", "first arrival", "second server", "first server"]
    assert seen == one_round * 2
    assert state.transforms["first"]["rounds"] == 2


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("strategy=fedmedian", "strategy 'fedmedian' reads each"),
        ("transforms.first={}", "transform 'first' reads each"),
    ],
)
def test_parts_that_read_single_updates_are_refused_where_they_are_hidden(toy, tmp_path, part, says):
    registry, _ = logging_registry()
    with pytest.raises(IncompatibleError, match=says):
        make_run(toy, tmp_path / "run", "aggregator=hidden", part, registry=registry)


def test_more_clients_a_round_than_there_are_is_refused(toy, tmp_path):
    with pytest.raises(ConfigError, match=r"cohort\.clients is 11, and the partition has 10"):
        make_run(toy, tmp_path / "run", "cohort.clients=11")


def test_float_and_integer_buffers_travel(toy, tmp_path):
    model = tmp_path / "net.py"
    model.write_text(
        "import torch\n"
        "def build(data):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3))\n"
    )
    result = train_run(toy, tmp_path / "run", f"model.name={model.as_posix()}:build", "rounds=2", "local.batch_size=0")
    assert np.isfinite(result.summary["final"]["test_loss"])
    from safetensors.numpy import load_file

    saved = load_file(tmp_path / "run" / "checkpoints" / "round-00002" / "model.safetensors")
    assert saved["1.num_batches_tracked"].dtype == np.int64
    assert saved["1.num_batches_tracked"] > 0
    assert not np.array_equal(saved["1.running_mean"], np.zeros(8, np.float32))


class Cramped(InProcessEngine):
    """Has no memory for more than `most` clients at once."""

    most = 1

    def gather(self, work, chunks, keep_individual, deadline=None):
        for place, client_indices in enumerate(chunks):
            if len(client_indices) > self.most:
                yield place, Lost(Failure("memory", f"no memory for {len(client_indices)} clients at once"))
            else:
                ((_, gathered),) = super().gather(work, [client_indices], keep_individual, deadline)
                yield place, gathered


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_a_chunk_that_is_lost_is_asked_again_in_halves(toy, tmp_path, strategy):
    """10 clients in one chunk: halves of 5, 3 and 2, until 1 fits; the sum is the same but for rounding."""
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all", f"strategy={strategy}")
    assert [len(places) for places in run.execution.chunks(toy.counts[:, 0])] == [10]
    states, notes = {}, {}
    for engine in (InProcessEngine(), Cramped()):
        with engine.open(run):
            rounds = Rounds(run, engine)
            state, report = rounds.play(rounds.initial(), last=lambda seconds: False)
        states[type(engine)], notes[type(engine)] = state.params["params"], report.notes
        assert (report.answered, dict(report.failed)) == (10, {})
    np.testing.assert_allclose(states[Cramped], states[InProcessEngine], rtol=1e-4, atol=1e-6)
    assert notes[InProcessEngine] == ()
    assert notes[Cramped][0] == "10 clients asked again in two halves: no memory for 10 clients at once"
    assert len(notes[Cramped]) == 9


def test_a_client_that_fits_nowhere_is_the_one_that_failed(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "cohort.sampling=all", "engine.max_failures=10")
    engine = Cramped()
    engine.most = 0
    with engine.open(run):
        rounds = Rounds(run, engine)
        _, report = rounds.play(rounds.initial(), last=lambda seconds: False)
    assert {failure.kind for failure in report.failed.values()} == {"memory"}
    assert len(report.failed) == 10


BOUNDING = """
import flctl

class Bounding(flctl.Transform):
    name = "bounding"
    bounds_clients = True

class Noised(flctl.Transform):
    name = "noised"
    noised_by_clients = True
"""


DIVERGING = """
import torch

class Diverging(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) * (float("inf") if self.training else 1.0)

def net(data):
    return Diverging(4, 3)
"""


def test_a_diverging_client_counts_as_zeros_under_a_transform_that_bounds_clients(tmp_path):
    trial = Trial(tmp_path, "rounds=1", f"model={(tmp_path / 'net.py').as_posix()}:net")
    (tmp_path / "net.py").write_text(DIVERGING)
    (tmp_path / "bounding.py").write_text(BOUNDING)
    with pytest.raises(DivergenceError, match="failed"):
        trial.train()
    run, directory = trial.prepare(f"transforms=['{(tmp_path / 'bounding.py').as_posix()}:Bounding']")
    line = train(run, directory).directory.lines()[0]
    assert (line["answered"], line["loss"]) == (9, None)


def test_clients_send_no_metrics_under_a_transform_whose_noise_they_add(tmp_path):
    trial = Trial(tmp_path, "rounds=1")
    (tmp_path / "noised.py").write_text(BOUNDING)
    run, directory = trial.prepare(f"transforms=['{(tmp_path / 'noised.py').as_posix()}:Noised']")
    line = train(run, directory).directory.lines()[0]
    assert (line["loss"], line["examples"]) == (None, 0)
