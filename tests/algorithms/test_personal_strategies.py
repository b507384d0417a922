"""Strategies that leave each client a model of its own: what is kept, what is sent, and what it is trained from."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from support import checkpoint_digests, make_run, train_run, untimed_lines
from support import played as play

from flctl.algorithms.strategies.private_layers import last_layer, matching
from flctl.algorithms.strategy import Stage, Strategy
from flctl.cli import run as command
from flctl.client.local_training import LocalTraining
from flctl.client.memory import ClientMemory
from flctl.errors import IncompatibleError, RoundFailedError
from flctl.executors.batches import batches, local_keys, stage_keys
from flctl.executors.sequential import single_thread, train
from flctl.executors.shards import LocalJob
from flctl.models.flat_model import FlatModel
from flctl.models.parts import ParameterSplit, Part
from flctl.plugins.registry import Registry
from flctl.testing import parts
from flctl.types import LocalWork

PARTS = [
    Part("body.weight", "params", 0, 3, ("Linear",)),
    Part("norm.weight", "params", 3, 5, ("BatchNorm1d", "_BatchNorm")),
    Part("head.weight", "params", 5, 9, ("Linear",)),
    Part("norm.running_mean", "buffers", 0, 2, ("BatchNorm1d", "_BatchNorm")),
]


def make(name, **options):
    return Registry().get("strategy", name).from_options(options)


def test_a_division_takes_vectors_apart_and_puts_them_together_for_one_client_and_for_stacked_ones():
    division = ParameterSplit(PARTS, ["norm.weight", "norm.running_mean"])
    assert division.layout == {"params": 9, "buffers": 2}
    assert division.public == {"params": 7}
    assert division.private == {"params": 2, "buffers": 2}
    one = {"params": np.arange(9.0), "buffers": np.array([10.0, 11])}
    assert division.public_of(one)["params"].tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert {n: v.tolist() for n, v in division.private_of(one).items()} == {"params": [3, 4], "buffers": [10, 11]}
    many = {name: np.stack([vector, vector + 100]) for name, vector in one.items()}
    for vectors in (one, many):
        back = division.whole(division.public_of(vectors), division.private_of(vectors))
        for name, vector in vectors.items():
            np.testing.assert_array_equal(back[name], vector)
    mixed = division.whole(division.public_of(one), division.private_of(many))
    assert mixed["params"].tolist() == [list(range(9)), [0, 1, 2, 103, 104, 5, 6, 7, 8]]
    assert division.shapes([(3,), (2,), (2, 2)]) == [(3,), (2, 2)]


def test_without_private_parts_nothing_is_copied():
    division, vectors = ParameterSplit(PARTS, ()), {"params": np.zeros(9)}
    assert division.public_of(vectors) is vectors
    assert division.whole(vectors, {}) is vectors
    assert division.public == division.layout


def test_a_model_names_its_parts_as_its_state_dict_does():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    net[2].bias.requires_grad = False
    model = FlatModel(net)
    vectors, state = model.read(), model.state_dict_arrays()
    assert [p.name for p in model.parts if p.vector == "params"] == [
        n for n, p in net.named_parameters() if p.requires_grad
    ]
    for part in model.parts:
        np.testing.assert_array_equal(vectors[part.vector][part.start : part.stop], state[part.name].ravel())
    kinds = {part.name: part.kinds for part in model.parts}
    assert kinds["1.running_var"][:2] == ("BatchNorm1d", "_BatchNorm")
    assert model.parts[0].owner == "0"


def test_which_layers_are_private():
    assert last_layer(PARTS) == {"head.weight"}
    assert matching(PARTS, ["norm.*", "body.w?ight"]) == {"norm.weight", "norm.running_mean", "body.weight"}
    assert make("fedper").private(PARTS) == {"head.weight"}
    assert make("fedper", private=["norm.*"]).private(PARTS) == {"norm.weight", "norm.running_mean"}
    assert make("fedbn").private(PARTS) == {"norm.weight", "norm.running_mean"}
    assert make("fedbn", private=["head*"]).private(PARTS) == {"norm.weight", "norm.running_mean", "head.weight"}
    with pytest.raises(IncompatibleError, match=r"matches 'hed\.\*'"):
        matching(PARTS, ["head.*", "hed.*"])
    with pytest.raises(IncompatibleError, match="the model has no such layer"):
        make("fedbn").private([PARTS[0], PARTS[2]])


MLP = ("model={name: mlp, hidden: [5]}", "local={epochs: 2, batch_size: 8, lr: 0.2}", "cohort.clients=4", "seed=5")


def played(run, rounds):
    """The state after so many rounds, each round's cohort, the clients' memory, and every client's own model."""
    server, state, cohorts = play(run, rounds)
    work = dataclasses.replace(server.plan(state).work, round=rounds + 1)
    recall = ClientMemory(run, server.memory, run.division.private_of(run.build_model().read()))
    return state, cohorts, list(recall.models(work))


class Alone:
    """An oracle: training by `trainer.train`, one client and one stage at a time."""

    def __init__(self, run):
        single_thread()
        self.run, self.model = run, run.build_model()

    def __call__(self, start, client, number, stage=0, adjust=None, local=None):
        self.model.load(start)
        keys = local_keys(self.run.config.seed, number, self.run.partition.client_ids.take([client]))
        rows, local = self.run.partition.train(client), local or self.run.config.local.amount()
        return train(self.model, self.run.task(), LocalJob(*rows, local, stage_keys(keys, stage)[0]), adjust)


def close(found, expected):
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5)


def plus(vectors, delta):
    return {name: vectors[name] + delta[name] for name in vectors}


@pytest.mark.parametrize("executor", ["stacked", "fused", "sequential", "vmap"])
def test_fedper_is_that_of_its_paper(toy, tmp_path, executor):
    run, _ = make_run(toy, tmp_path / "run", "strategy=fedper", f"engine.executor={executor}", *MLP)
    state, cohorts, models = played(run, 3)
    start, alone = run.build_model().read(), Alone(run)
    head = np.zeros(len(start["params"]), bool)
    head[4 * 5 + 5 :] = True  # 5 hidden units on 4 features, then the last layer
    body, heads = start["params"].copy(), dict.fromkeys(range(toy.clients), start["params"][head])
    for number, cohort in enumerate(cohorts, 1):
        total, rows = np.zeros_like(body), 0
        for k in cohort:
            own = body.copy()
            own[head] = heads[k]
            done = alone({"params": own}, k, number)
            total, rows = total + done.examples * done.delta["params"], rows + done.examples
            heads[k] = (own + done.delta["params"])[head]
        body[~head] += (total / rows)[~head]
    close(state.params, {"params": body})
    np.testing.assert_array_equal(state.params["params"][head], start["params"][head])
    for k, model in enumerate(models):
        close(model, {"params": _with(body, head, heads[k])})
    assert run.update_layout == {"delta": int((~head).sum())}


def _with(vector, where, values):
    vector = vector.copy()
    vector[where] = values
    return vector


@pytest.mark.parametrize("executor", ["stacked", "fused", "sequential"])
def test_fedrep_moves_the_head_alone_and_then_the_body_alone(toy, tmp_path, executor):
    chosen = "strategy={name: fedrep, head_epochs: 3, private: ['2.*']}"
    run, _ = make_run(toy, tmp_path / "run", chosen, f"engine.executor={executor}", *MLP, "local.momentum=0.5")
    state, cohorts, models = played(run, 3)
    start, alone = run.build_model().read()["params"], Alone(run)
    head = np.zeros(len(start), bool)
    head[4 * 5 + 5 :] = True
    moving = torch.from_numpy(head).float()
    body, heads = start.copy(), dict.fromkeys(range(toy.clients), start[head])
    first = dataclasses.replace(run.config.local.amount(), epochs=3)
    for number, cohort in enumerate(cohorts, 1):
        total, rows = np.zeros_like(body), 0
        for k in cohort:
            own = _with(body, head, heads[k])
            one = alone({"params": own}, k, number, 0, lambda grad, params: grad * moving, first)
            np.testing.assert_array_equal(one.delta["params"][~head], 0)
            middle = own + one.delta["params"]
            two = alone({"params": middle}, k, number, 1, lambda grad, params: grad * (1 - moving))
            np.testing.assert_array_equal(two.delta["params"][head], 0)
            total, rows = total + two.examples * two.delta["params"], rows + two.examples
            heads[k] = middle[head]
        body[~head] += (total / rows)[~head]
    close(state.params, {"params": body})
    for k, model in enumerate(models):
        close(model, {"params": _with(body, head, heads[k])})


@pytest.mark.parametrize("executor", ["stacked", "fused", "sequential"])
def test_ditto_is_that_of_its_paper(toy, tmp_path, executor):
    chosen = "strategy={name: ditto, ditto_lambda: 0.7, personal_epochs: 1}"
    run, _ = make_run(toy, tmp_path / "run", chosen, f"engine.executor={executor}", *MLP)
    state, cohorts, models = played(run, 3)
    w, alone, own = run.build_model().read()["params"], Alone(run), {}
    local = dataclasses.replace(run.config.local.amount(), epochs=1)
    for number, cohort in enumerate(cohorts, 1):
        total, rows, anchor = np.zeros_like(w), 0, torch.from_numpy(w.copy())
        for k in cohort:
            done = alone({"params": w}, k, number)
            total, rows = total + done.examples * done.delta["params"], rows + done.examples
            v = own.get(k, w)
            pulled = alone({"params": v}, k, number, 1, lambda g, p, w=anchor: g + 0.7 * (p - w), local)
            own[k] = v + pulled.delta["params"]
        w = w + total / rows
    close(state.params, {"params": w})
    for k, model in enumerate(models):  # who never took part would begin with the global model
        close(model, {"params": own.get(k, w)})


def test_the_update_of_ditto_is_fedavgs_bit_for_bit(toy, tmp_path):
    models = {}
    for name in ("fedavg", "ditto"):
        train_run(toy, tmp_path / name, f"strategy={name}", *MLP, "engine.executor=stacked")
        found = checkpoint_digests(tmp_path / name)
        models[name] = {file: digest for file, digest in found.items() if "model" in file}
    assert models["fedavg"] == models["ditto"]


def test_the_stages_of_a_client_take_its_rows_in_orders_of_their_own():
    keys = local_keys(0, 1, np.array(["a", "b"]))
    assert stage_keys(keys, 0) is keys
    orders = [
        [b.tolist() for b in batches(9, LocalWork(batch_size=4), key)] for s in range(3) for key in stage_keys(keys, s)
    ]
    assert len({str(order) for order in orders}) == 6


NORMED = f"model={parts.here('normed')}"
"""Flatten, linear, batch normalisation, tanh, linear."""


def test_fedbn_keeps_scale_shift_and_statistics_with_each_client(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "strategy=fedbn", NORMED, *MLP[1:], "local.drop_last=true")
    start, division = run.build_model().read(), run.division
    assert division.private == {"params": 10, "buffers": 11}  # 5 scales and shifts; 5 means, 5 variances, a counter
    state, cohorts, models = played(run, 2)
    alone, public, own = Alone(run), division.public_of(start), {}
    for number, cohort in enumerate(cohorts, 1):
        total, rows = np.zeros_like(public["params"]), 0
        for k in cohort:
            begin = division.whole(public, own.get(k, division.private_of(start)))
            done = alone(begin, k, number)
            total, rows = total + done.examples * division.public_of(done.delta)["params"], rows + done.examples
            own[k] = division.private_of(plus(begin, done.delta))
        public = {"params": public["params"] + total / rows}
    close(division.public_of(state.params), public)
    for name, vector in division.private_of(start).items():
        np.testing.assert_array_equal(division.private_of(state.params)[name], vector)
    for k, model in enumerate(models):
        close(model, division.whole(public, own.get(k, division.private_of(start))))
    assert run.update_layout == {"delta": len(start["params"]) - 10}


def test_what_is_private_goes_neither_up_nor_down(toy, tmp_path):
    layers = "model={name: mlp, hidden: [5]}"
    train_run(toy, tmp_path / "whole", "strategy=fedavg", layers)
    train_run(toy, tmp_path / "part", "strategy=fedper", layers)
    whole, part = (untimed_lines(tmp_path / name)[0] for name in ("whole", "part"))
    head = 4 * (5 * 3 + 3) * whole["answered"]
    assert whole["bytes_down"] - part["bytes_down"] == head
    assert whole["bytes_up"] - part["bytes_up"] == head


PERSONAL = {
    "fedper": ("strategy=fedper", "model={name: mlp, hidden: [5]}"),
    "fedrep": ("strategy={name: fedrep, head_epochs: 2}", "model={name: mlp, hidden: [5]}"),
    "fedbn": ("strategy=fedbn", NORMED),
    "ditto": ("strategy=ditto", "model={name: mlp, hidden: [5]}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PERSONAL))
def test_worker_processes_and_whoever_trains_first_give_the_same_bits(toy, tmp_path, name):
    chosen = (*PERSONAL[name], "local.epochs=2", "cohort.clients=6", "eval.per_client=true")
    train_run(toy, tmp_path / "one", *chosen)
    train_run(toy, tmp_path / "two", *chosen, "engine.workers=2")
    assert checkpoint_digests(tmp_path / "one") == checkpoint_digests(tmp_path / "two")
    assert untimed_lines(tmp_path / "one") == untimed_lines(tmp_path / "two")


@pytest.mark.parametrize("name", PERSONAL)
def test_a_little_memory_changes_nothing(toy, tmp_path, monkeypatch, name):
    """Clients one after the other are held a few at a time."""
    chosen = (*PERSONAL[name], "engine.executor=sequential")
    train_run(toy, tmp_path / "one", *chosen)
    monkeypatch.setattr(LocalTraining, "at_once", 1)
    monkeypatch.setattr("flctl.client.memory._READ_BYTES", 1)
    train_run(toy, tmp_path / "two", *chosen)
    assert checkpoint_digests(tmp_path / "one") == checkpoint_digests(tmp_path / "two")


def test_a_model_of_which_all_would_be_private_is_refused(toy, tmp_path):
    with pytest.raises(IncompatibleError, match="keeps all of the model's parameters private"):
        make_run(toy, tmp_path / "run", "strategy=fedper", "model=logreg")


def test_weight_decay_is_refused_where_a_part_is_held_still(toy, tmp_path):
    with pytest.raises(IncompatibleError, match=r"local\.weight_decay 0\.1 would change it"):
        make_run(toy, tmp_path / "run", *PERSONAL["fedrep"], "local.weight_decay=0.1")


def test_private_layers_do_not_share_their_starts_weights(toy, tmp_path):
    """The executor that never builds clients' models would give all of them one head."""
    for name, chosen in PERSONAL.items():
        run, _ = make_run(toy, tmp_path / name, *chosen)
        assert run.execution.executor != "shared"
        assert "a personal model on each client" in run.execution.others["shared"] or name == "fedbn"


@pytest.mark.parametrize("name", PERSONAL)
def test_own_models_are_evaluated_on_own_rows_in_training(toy, tmp_path, name):
    """Against the models themselves, client by client in plain torch."""
    chosen = (*PERSONAL[name], "local.epochs=3", "eval.per_client=true", "rounds=3", "seed=5", "cohort.clients=4")
    result = train_run(toy, tmp_path / "run", *chosen)
    run, _ = make_run(toy, tmp_path / "again", *chosen)
    _, _, models = played(run, 3)
    model, shares = run.build_model(), []
    for k, vectors in enumerate(models):
        model.load(vectors)
        model.module.eval()
        x, y = toy.test(k)
        guess = model.module(torch.from_numpy(np.array(x))).argmax(1).numpy()
        shares.append((guess == y).mean())
    assert result.summary["final"]["personal_accuracy_mean"] == pytest.approx(np.mean(shares))
    assert result.summary["final"]["personal_accuracy_worst_decile"] == pytest.approx(min(shares))
    assert 0 <= result.summary["final"]["accuracy_mean"] <= 1


def test_who_trains_on_his_own_rows_alone_ends_where_ditto_without_pull_does(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "strategy={name: ditto, ditto_lambda: 0}", *MLP[:2], "cohort.sampling=all")
    _, _, models = played(run, 2)
    start, alone = run.build_model().read(), Alone(run)
    for k in (0, 7):
        first = plus(start, alone(start, k, 1, 1).delta)
        close(models[k], plus(first, alone(first, k, 2, 1).delta))


class Odd(Strategy):
    """Has clients' models of the wrong length."""

    name = "odd"

    def personal(self, params, memory):
        return {"params": params["params"][:-1]}

    def stages(self, local):
        return (Stage(local, "personal"),)


def test_a_model_of_the_wrong_length_is_told(toy, tmp_path):
    with pytest.raises(RoundFailedError, match=r"strategy 'odd' sends clients a model with the vectors"):
        train_run(toy, tmp_path / "run", f"strategy={__file__}:Odd")


def test_the_command_line_shows_global_and_own_models_side_by_side(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "run"
    chosen = (*PERSONAL["fedper"], "local.epochs=3", "eval.per_client=true", "checkpoint.every=2", "rounds=4")
    result = train_run(toy, path, *chosen)
    final = result.summary["final"]
    assert command(["eval", str(path), "--per-client", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    whole, own = data["runs"]
    assert [whole["personal"], own["personal"]] == [False, True]
    assert own["run"] == f"{path} (personal models)"
    assert own["federated"]["accuracy"]["mean"] == pytest.approx(final["personal_accuracy_mean"])
    assert whole["federated"]["accuracy"]["mean"] == pytest.approx(final["accuracy_mean"])
    (difference,) = data["differences"]
    assert difference["clients"]["accuracy"]["value"] == pytest.approx(
        final["personal_accuracy_mean"] - final["accuracy_mean"]
    )
    assert len(own["per_client"]) == toy.clients
    assert command(["eval", str(path), "--per-client"]) == 0
    shown = capsys.readouterr().out
    assert "(personal models)" in shown
    assert "never took part" in shown or "2 clients" not in shown


def test_the_command_line_says_when_clients_memory_is_gone(toy, tmp_path, capsys):
    path = tmp_path / "run"
    train_run(toy, path, *PERSONAL["ditto"], "checkpoint.every=2", "rounds=4")
    assert command(["eval", str(path), "--checkpoint", "2", "--per-client"]) == 3
    assert "client memory of round 2 is not stored" in " ".join(capsys.readouterr().err.split())
    assert command(["eval", str(path), "--checkpoint", "2"]) == 0
    assert "own models are not shown: client memory of round 2" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(path / "memory")
    assert command(["eval", str(path), "--per-client"]) == 3
    assert "there is no client memory in" in " ".join(capsys.readouterr().err.split())
