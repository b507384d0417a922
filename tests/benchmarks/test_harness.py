"""The benchmarks' own arithmetic: the floor computes what it says, and a difference or a missed target is seen."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import floor_worker, measurement, peer_environments, results, speedup_rows, workloads
from harness.floor import Floor

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZES, BATCH, LR, FEATURES, CLASSES = (5, 7, 12), 4, 0.5, 60, 10
ROUNDS = ((0, 2), (1, 2))
"""Two rounds of two clients each; client 2 is in both, so that SCAFFOLD's memory counts."""


@pytest.fixture(scope="module")
def floor():
    with Floor(2) as processes:
        yield processes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows, and the two rounds in an order of rows that is not theirs."""
    folder, rng = tmp_path_factory.mktemp("floor"), np.random.default_rng(3)
    bounds = np.r_[0, np.cumsum(SIZES)]
    np.save(folder / "x.npy", rng.standard_normal((bounds[-1], FEATURES), np.float32))
    np.save(folder / "y.npy", rng.integers(0, CLASSES, bounds[-1]))
    for number, clients in enumerate(ROUNDS, 1):
        orders = [bounds[client] + rng.permutation(SIZES[client]) for client in clients]
        sizes = np.array([len(order) for order in orders])
        plan = {"rows": np.concatenate(orders), "offsets": np.r_[0, np.cumsum(sizes)]}
        np.savez(folder / f"round-{number}.npz", **plan, weights=sizes / sizes.sum(), clients=np.array(clients))
    return folder


def _gradient(model, x, y):
    """The gradient of softmax regression's mean cross-entropy, by hand; the model is [W.ravel(), b]."""
    weight, bias = model[: FEATURES * CLASSES].reshape(CLASSES, FEATURES), model[FEATURES * CLASSES :]
    logits = x @ weight.T + bias
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    share[np.arange(len(y)), y] -= 1
    return np.concatenate([(share.T @ x).ravel(), share.sum(axis=0)]) / len(y)


def _client(start, x, y, momentum=0.0, mu=0.0, term=0.0):
    model, velocity, steps = start.copy(), 0.0, 0
    for first in range(0, len(y), BATCH):
        part = slice(first, first + BATCH)
        velocity = momentum * velocity + _gradient(model, x[part], y[part]) + mu * (model - start) + term
        model -= LR * velocity
        steps += 1
    return model, steps


def _expected(data, start, clip=None, scaffold=False, kind="ordinary", **local):
    """The global model after both rounds in float64 (McMahan et al. 2017, Algorithm 1; Karimireddy et al. 2020)."""
    x, y = np.load(data / "x.npy").astype(np.float64), np.load(data / "y.npy")
    model, control, own = start.astype(np.float64), np.zeros(start.size), np.zeros((len(SIZES), start.size))
    for number in (1, 2):
        plan = np.load(data / f"round-{number}.npz")
        total, change = np.zeros(start.size), np.zeros(start.size)
        for k, client in enumerate(plan["clients"]):
            rows = plan["rows"][plan["offsets"][k] : plan["offsets"][k + 1]]
            term = control - own[client] if scaffold else 0.0
            trained, steps = _client(model, x[rows], y[rows], term=term, **local)
            delta = trained - model
            delta *= min(1.0, clip / np.linalg.norm(delta)) if clip else 1.0
            total += plan["weights"][k] * delta
            new = own[client] - control + (model - trained) / (steps * LR)
            change, own[client] = change + new - own[client], new if scaffold else own[client]
        model = model + total
        control = control + change / len(SIZES) if scaffold else control
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [{}, {"kind": "lean"}, {"mu": 0.3}, {"momentum": 0.9}, {"clip": 0.2}, {"scaffold": True}],
    ids=["ordinary", "lean", "fedprox", "momentum", "clip", "scaffold"],
)
def test_the_floor_computes_the_algorithm_that_it_names(floor, data, variant):
    start = np.random.default_rng(4).normal(0, 0.1, FEATURES * CLASSES + CLASSES).astype(np.float32)
    fields = {"model": "logreg", "options": {}, "clients": len(SIZES), "lr": LR, "batch_size": BATCH}
    job = floor.open(start, data=str(data), **fields, **variant)
    job.prepare([1, 2])
    assert job.play(2) > 0
    expected = _expected(data, start, **variant)
    assert np.abs(expected - start).max() > 0.02
    np.testing.assert_allclose(job.params(), expected, atol=2e-6)
    job.close()


def test_the_parts_of_a_round_hold_each_client_once_and_are_of_like_size(tmp_path):
    sizes = workloads.ragged_sizes(200)
    offsets = np.r_[0, np.cumsum(sizes)]
    plan = {"rows": np.arange(offsets[-1]), "offsets": offsets, "weights": sizes / sizes.sum()}
    np.savez(tmp_path / "round.npz", **plan, clients=np.arange(200))
    parts = floor_worker.parts(tmp_path / "round.npz", 2)
    assert [client for part in parts for client in part.clients] == list(range(200))
    assert np.concatenate([part.rows for part in parts]).tolist() == list(range(offsets[-1]))
    assert abs(len(parts[0].rows) - len(parts[1].rows)) <= sizes.max()


class Scripted:
    """A contender that takes a second longer in each block, whose models are given, and that notes what it is asked."""

    def __init__(self, name, asked, *models):
        self.name, self.asked, self.models, self.seconds, self.restarts = name, asked, list(models), 0.0, []

    def play(self, count):
        self.asked.append((self.name, count))
        self.seconds += 1
        return self.seconds * count

    def params(self):
        return np.array(self.models[len(self.restarts)], np.float32)

    def restart(self, model):
        self.restarts.append(model.tolist())


def _paired(*others, blocks=3, apart=()):
    """Blocks in which the floor's model goes 0 -> 1 -> 2 -> 4."""
    asked = []
    floor = Scripted("floor", asked, [1.0], [2.0], [4.0])
    contenders = {"floor": floor} | {f"c{n}": Scripted(f"c{n}", asked, *models) for n, models in enumerate(others)}
    return measurement.paired(contenders, blocks, 5, np.zeros(1, np.float32), apart), asked, contenders


def test_contenders_warm_up_and_then_take_turns():
    (times, _), asked, _ = _paired([[1.0], [2.0], [4.0]])
    assert asked[:2] == [("floor", 1), ("c0", 1)]
    assert [name for name, _ in asked[2:]] == ["floor", "c0", "c0", "floor", "floor", "c0"]
    assert times == {"floor": [2.0, 3.0, 4.0], "c0": [2.0, 3.0, 4.0]}


def test_all_go_on_from_the_first_ones_model():
    _, _, contenders = _paired([[1.00001], [2.0], [4.0]])
    assert contenders["c0"].restarts == contenders["floor"].restarts == [[1.0], [2.0], [4.0]]


def test_ratios_are_those_of_pairs():
    times = {"floor": [4.0, 6.0, 9.0], "flctl": [2.0, 2.0, 9.0]}
    assert measurement.ratios(times, "floor", "flctl") == measurement.Repeats(2.0, 1.0, 3.0)


def test_a_difference_is_relative_to_the_change_of_its_block():
    (_, check), _, _ = _paired([[1.0], [2.00005], [4.0001]])
    assert check.difference == pytest.approx(5e-5, rel=0.01)
    assert check.worst == pytest.approx(5e-5, rel=0.01)


def test_one_block_that_rounding_tipped_is_borne():
    (_, check), _, _ = _paired([[1.0], [2.04], [4.0]])
    assert (check.difference, check.worst) == (0.0, pytest.approx(0.04, rel=0.01))


@pytest.mark.parametrize(
    "models", [[[1.001], [2.001], [4.0]], [[1.0], [2.0], [4.11]], [[1.0], [np.nan], [4.0]]], ids=["often", "far", "nan"]
)
def test_models_that_differ_are_refused(models):
    with pytest.raises(measurement.ChecksumError, match="'c0'"):
        _paired(models)
    assert _paired(models, apart=["c0"])[0][1].worst == 0.0


def test_models_that_did_not_move_prove_nothing():
    contenders = {name: Scripted(name, [], [0.0]) for name in ("floor", "flctl")}
    with pytest.raises(measurement.ChecksumError, match="did not change"):
        measurement.paired(contenders, 1, 1, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (results.Target(5, 8), 4.9, "NOT met"),
        (results.Target(5, 8), 5.0, "met"),
        (results.Target(5, 8), 8.5, "met, hoped too"),
        (results.Target(6, 4, smaller=True), 6.1, "NOT met"),
        (results.Target(6, 4, smaller=True), 5.0, "met"),
        (results.Target(1.25, smaller=True), 1.0, "met"),
    ],
)
def test_a_verdict_follows_from_the_median(target, value, verdict):
    result = results.Result("row", "title", "figure", target, measurement.Repeats(value, 0.0, 100.0))
    assert result.verdict() == verdict
    assert verdict in result.line()
    assert verdict not in result.line(judged=False)


def test_a_row_that_could_not_be_measured_says_why():
    result = results.Result("row", "title", "figure", results.Target(1), skipped="no such strategy")
    assert result.line() == "row            skipped: no such strategy"
    assert "| skipped: no such strategy | - | - |" in results.markdown(results.report([result]), [result])


def test_peers_stand_beside_the_floor():
    spread = measurement.Repeats(2.0, 2.0, 2.0)
    seconds = {"floor": spread, "flctl": measurement.Repeats(0.5, 0.5, 0.5)}
    result = results.Result("w2", "title", "faster than the floor", results.Target(1), spread, seconds)
    measured = peer_environments.Measured(measurement.Repeats(8.0, 8.0, 8.0), 20.0, "1 process")
    peers = {
        "pfl": peer_environments.PeerReport(
            "pfl==0.6.0", {"w2": measured, "w3": peer_environments.Measured(failed="code 1: no")}
        )
    }
    assert peer_environments.relative(peers, [result]) == {"pfl": {"w2": 0.25}}
    assert "| w2 | pfl (pfl==0.6.0) | 1 process | 8 (8-8) | 20.0 s | 16x |" in peer_environments.page(peers, [result])


def test_no_peer_is_installed_where_there_is_nothing(tmp_path):
    assert [peer.name for peer in peer_environments.PEERS if peer_environments.is_installed(peer, tmp_path)] == []


def test_ragged_sizes_are_log_normal_within_bounds():
    sizes = workloads.ragged_sizes(10_000)
    assert (sizes.min(), sizes.max()) == (5, 500)
    assert abs(np.median(sizes) - 20) <= 1
    # A log-normal law's quartiles are its median times exp(-+0.6745 sigma): 10.2 and 39.3.
    assert np.abs(np.quantile(sizes, [0.25, 0.75]) - [10.2, 39.3]).max() < 1.5


def test_rows_have_names_of_their_own():
    names = [row.name for row in speedup_rows.ROWS]
    assert len(set(names)) == len(names) == 14


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "words", [["floor.py"], ["scaling.py"], ["speed.py", "--no-peers"]], ids=lambda words: words[0]
)
def test_the_quick_form_runs_to_equal_models_and_writes_nothing(words):
    def written():
        return {path.name: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").iterdir()}

    before = written()
    command = [sys.executable, f"benchmarks/{words[0]}", "--quick", *words[1:]]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert written() == before
