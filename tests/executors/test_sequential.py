"""Local training against plain torch, and the promises that the rest of a run stands on."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from flctl.errors import ConfigError, DivergenceError, IncompatibleError
from flctl.executors.batches import batches, local_keys, orders
from flctl.executors.sequential import single_thread, train
from flctl.executors.shards import LocalJob
from flctl.models.flat_model import FlatModel
from flctl.models.tasks import task_for
from flctl.types import LocalWork

CLASSES = task_for("classification")


@pytest.fixture(autouse=True)
def _one_thread():
    single_thread()


def shard(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6), np.float32), rng.integers(0, 3, rows)


def network(seed=0, **parts):
    torch.manual_seed(seed)
    middle = parts.get("middle", [])
    return nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3))


def rng(seed=0):
    return local_keys(seed, 1, np.array(["client"]))[0]


# FedAvg's identities (McMahan et al. 2017, section 2).


def test_one_full_batch_step_of_three_clients_is_gradient_descent_on_all_their_rows():
    """w + sum_k (n_k / n) delta_k == w - lr * gradient of the mean loss over all rows."""
    lr, sizes, module = 0.3, (5, 9, 16), network()
    shards = [shard(n, seed) for seed, n in enumerate(sizes)]
    model = FlatModel(copy.deepcopy(module))
    start, total = model.read(), np.zeros(model.layout["params"], np.float64)
    for number, (x, y) in enumerate(shards):
        model.load(start)
        trained = train(model, CLASSES, LocalJob(x, y, LocalWork(batch_size=0, lr=lr), rng(number)))
        assert (trained.examples, trained.steps) == (sizes[number], 1)
        total += trained.examples / sum(sizes) * trained.delta["params"]
    x, y = (torch.from_numpy(np.concatenate(part)) for part in zip(*shards, strict=True))
    functional.cross_entropy(module(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters()]).numpy()
    np.testing.assert_allclose(start["params"] + total, start["params"] - lr * gradient, rtol=0, atol=1e-6)
    assert np.abs(gradient).max() > 0.01


WORKS = [
    LocalWork(batch_size=4, epochs=3, lr=0.1),
    LocalWork(batch_size=4, epochs=3, lr=0.1, drop_last=True),
    LocalWork(batch_size=4, steps=9, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    LocalWork(batch_size=4, epochs=3, lr=0.1, clip_norm=0.2),
    LocalWork(batch_size=4, epochs=3, lr=0.01, optimizer="adam"),
    LocalWork(batch_size=0, epochs=3, lr=0.01, optimizer="adamw", weight_decay=0.1),
    LocalWork(batch_size=100, epochs=3, lr=0.1),
]


def plain_torch(module, x, y, work, key):
    """Centralised training as a torch tutorial writes it; the losses of its batches."""
    options = {"lr": work.lr, "weight_decay": work.weight_decay}
    if work.optimizer == "sgd":
        optimizer = torch.optim.SGD(module.parameters(), momentum=work.momentum, nesterov=work.nesterov, **options)
    else:
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[work.optimizer](
            module.parameters(), **options
        )
    size, losses, steps = work.batch_size or len(x), [], 0
    for epoch in range(work.epochs if work.steps is None else 1000):
        order = torch.from_numpy(orders(np.array([key]), np.array([len(x)]), epoch)[0])
        for rows in order.split(size):
            if (work.drop_last and len(rows) < size) or steps == work.steps:
                continue
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(torch.from_numpy(x)[rows]), torch.from_numpy(y)[rows])
            loss.backward()
            if work.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), work.clip_norm)
            optimizer.step()
            losses += [loss.item()] * len(rows)
            steps += 1
    return losses, steps


@pytest.mark.parametrize("work", WORKS, ids=range(len(WORKS)))
def test_one_client_is_plain_centralised_training(work):
    x, y = shard(22)
    expected, model = network(), FlatModel(network())
    start = model.read()["params"]
    losses, steps = plain_torch(expected, x, y, work, rng(5))
    trained = train(model, CLASSES, LocalJob(x, y, work, rng(5)))
    after = torch.cat([p.detach().flatten() for p in expected.parameters()]).numpy()
    np.testing.assert_allclose(model.read()["params"], after, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(trained.delta["params"], model.read()["params"] - start)
    assert trained.loss == pytest.approx(np.mean(losses), abs=1e-6)
    assert trained.steps == steps


def test_the_step_without_a_flat_gradient_has_the_bits_of_the_step_with_one():
    (x, y), work = shard(22), LocalWork(batch_size=4, epochs=2)
    direct = train(FlatModel(network()), CLASSES, LocalJob(x, y, work, rng()))
    flat = train(FlatModel(network()), CLASSES, LocalJob(x, y, work, rng()), lambda grad, params: grad)
    np.testing.assert_array_equal(direct.delta["params"], flat.delta["params"])


# `adjust` and clipping.


def test_adjust_sees_the_flat_gradient_and_the_flat_parameters_before_clipping():
    model, (x, y), seen = FlatModel(network()), shard(10), []
    start = model.params.clone()

    def adjust(grad, params):
        seen.append((grad.shape, torch.equal(params, start)))
        return grad * 0 + 3.0

    work = LocalWork(batch_size=0, lr=1.0, clip_norm=0.5)
    delta = train(model, CLASSES, LocalJob(x, y, work, rng()), adjust).delta["params"]
    assert seen == [(start.shape, True)]
    assert np.linalg.norm(delta) == pytest.approx(0.5, rel=1e-5)
    assert np.ptp(delta) < 1e-6


def test_a_gradient_within_the_bound_is_not_scaled_up():
    (x, y), work = shard(10), LocalWork(batch_size=0)
    free = train(FlatModel(network()), CLASSES, LocalJob(x, y, work, rng())).delta["params"]
    bounded = train(FlatModel(network()), CLASSES, LocalJob(x, y, replace(work, clip_norm=1e3), rng())).delta["params"]
    np.testing.assert_array_equal(free, bounded)


# Which rows, in which order.


def rows_of(rows, seed=0, **work):
    return [batch.tolist() for batch in batches(rows, LocalWork(**work), rng(seed))]


@settings(deadline=None, max_examples=80)
@given(rows=st.integers(0, 40), size=st.integers(0, 50), epochs=st.integers(1, 4), drop_last=st.booleans())
def test_each_epoch_meets_every_row_once(rows, size, epochs, drop_last):
    found = rows_of(rows, batch_size=size, epochs=epochs, drop_last=drop_last)
    size = size or rows
    per_epoch = 0 if not rows else rows // size if drop_last else -(-rows // size)
    assert len(found) == epochs * per_epoch
    for epoch in range(epochs):
        met = [row for batch in found[epoch * per_epoch : (epoch + 1) * per_epoch] for row in batch]
        assert len(set(met)) == len(met) == (per_epoch * size if drop_last else rows)
        assert set(met) <= set(range(rows))


def test_epochs_are_shuffled_anew_and_steps_go_on_over_epochs():
    two_epochs = rows_of(9, batch_size=4, epochs=2)
    assert [len(batch) for batch in two_epochs] == [4, 4, 1, 4, 4, 1]
    assert np.concatenate(two_epochs[:3]).tolist() != np.concatenate(two_epochs[3:]).tolist()
    assert rows_of(9, batch_size=4, steps=5, epochs=1) == two_epochs[:5]
    assert rows_of(9, batch_size=4, steps=2) == two_epochs[:2]


def test_steps_do_not_wait_for_a_batch_that_never_comes():
    assert rows_of(3, batch_size=4, steps=5, drop_last=True) == []
    assert rows_of(0, batch_size=4, steps=5) == []
    assert rows_of(0, batch_size=0, epochs=5) == []


@pytest.mark.parametrize(("rows", "work"), [(0, LocalWork()), (3, LocalWork(batch_size=4, drop_last=True))])
def test_a_client_that_makes_no_step_changes_nothing_and_counts_for_nothing(rows, work):
    model, (x, y) = FlatModel(network(middle=[nn.BatchNorm1d(8)])), shard(rows)
    before = model.read()
    trained = train(model, CLASSES, LocalJob(x, y, work, rng()))
    assert (trained.loss, trained.examples, trained.steps) == (0.0, 0, 0)
    assert {name: vector.size for name, vector in trained.delta.items()} == model.layout
    assert not any(vector.any() for vector in trained.delta.values())
    assert all(np.array_equal(before[name], vector) for name, vector in model.read().items())


# The same bits.


NETWORKS = {
    "plain": network,
    "dropout": lambda: network(middle=[nn.Dropout(0.5)]),
    "batch-norm": lambda: network(middle=[nn.BatchNorm1d(8), nn.Dropout(0.5)]),
}


def deltas(order, make):
    model = FlatModel(make())
    start, found = model.read(), {}
    for client in order:
        model.load(start)
        found[client] = train(
            model, CLASSES, LocalJob(*shard(10 + client, client), LocalWork(batch_size=4), rng(client))
        ).delta
    return found


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_client_gives_the_same_bits_whoever_trained_before(make):
    first, again, other = deltas([0, 1, 2], make), deltas([0, 1, 2], make), deltas([2, 0, 1], make)
    for client, delta in first.items():
        for name, vector in delta.items():
            assert vector.tobytes() == again[client][name].tobytes() == other[client][name].tobytes()


def test_dropout_is_drawn_from_the_client_generator():
    make = NETWORKS["dropout"]
    work = LocalWork(batch_size=0)
    one, two = (
        train(FlatModel(make()), CLASSES, LocalJob(*shard(10), work, rng(seed))).delta["params"] for seed in (1, 2)
    )
    assert np.abs(one - two).max() > 1e-3


def test_rows_are_the_same_bits_from_read_only_unaligned_or_narrow_memory():
    x, y = shard(12)
    expected = train(FlatModel(network()), CLASSES, LocalJob(x, y, LocalWork(batch_size=4), rng())).delta["params"]
    memory = np.zeros(x.nbytes + 4, np.uint8)
    shifted = memory[4:].view(np.float32).reshape(x.shape)
    shifted[:] = x
    shifted.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(
            FlatModel(network()), CLASSES, LocalJob(shifted, y.astype(np.uint8), LocalWork(batch_size=4), rng())
        )
    assert found.delta["params"].tobytes() == expected.tobytes()
    assert not shifted.flags.writeable


# Divergence.


def test_a_rate_that_diverges_is_named_with_its_step():
    x, y = shard(40)
    task = task_for("regression")
    model = FlatModel(nn.Linear(6, 1))
    with pytest.raises(DivergenceError, match=r"loss is (inf|nan) at local step \d+ \(.*learning rate 1e\+06\)"):
        train(model, task, LocalJob(x, y.astype(np.float32), LocalWork(lr=1e6, epochs=50), rng()))


def test_a_model_that_overflows_in_its_last_step_is_caught():
    x, y = shard(4)
    model, task = FlatModel(nn.Linear(6, 1)), task_for("regression")
    with pytest.raises(DivergenceError, match="model is not finite at local step 1"):
        train(model, task, LocalJob(x * 1e15, y * np.float32(1e15), LocalWork(lr=1e30, batch_size=0), rng()))


# The flat model.


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose, and another name for the same matrix."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 3, bias=False)
        self.alias = nn.Linear(6, 3, bias=False)
        self.alias.weight = self.encoder.weight

    def forward(self, x):
        return self.encoder(x) @ self.alias.weight @ torch.eye(6)[:, :3]


class Buffers(nn.Module):
    """Buffers of every kind around one weight, and a frozen matrix."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3))
        self.frozen = nn.Parameter(2 * torch.eye(3), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("seen", torch.tensor([True, False]))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)

    def forward(self, x):
        self.count += 1
        self.mean = self.mean + 0.5  # a new tensor, not in place
        return x @ self.weight @ self.frozen


def test_parameters_are_views_of_one_tensor_and_survive_training():
    model = FlatModel(network())
    train(model, CLASSES, LocalJob(*shard(10), LocalWork(), rng()))
    model.params.fill_(0.25)
    assert all(torch.equal(p, torch.full_like(p, 0.25)) for p in model.module.parameters())


def test_tied_weights_are_one_vector_and_stay_tied():
    torch.manual_seed(0)
    module = Tied()
    expected, model = copy.deepcopy(module), FlatModel(module)
    assert model.layout == {"params": 18}
    assert set(model.state_dict_arrays()) == {"encoder.weight", "alias.weight"}
    x, y = shard(8)
    plain_torch(expected, x, y, LocalWork(batch_size=0), rng())
    train(model, CLASSES, LocalJob(x, y, LocalWork(batch_size=0), rng()))
    assert module.alias.weight is module.encoder.weight
    torch.testing.assert_close(module.encoder.weight, expected.encoder.weight, rtol=0, atol=1e-6)


def test_frozen_parameters_are_neither_trained_nor_sent_but_saved():
    model = FlatModel(Buffers())
    trained = train(model, CLASSES, LocalJob(*shard(8), LocalWork(), rng()))
    assert trained.delta["params"].size == 18
    assert trained.delta["params"].any()
    np.testing.assert_array_equal(model.state_dict_arrays()["frozen"], 2 * np.eye(3))


def test_persistent_buffers_travel_as_float32_and_integers_are_rounded():
    model = FlatModel(Buffers())
    assert model.layout == {"params": 18, "buffers": 5}
    delta = train(model, CLASSES, LocalJob(*shard(8), LocalWork(batch_size=2), rng())).delta["buffers"]
    assert delta.tolist() == [2.0, 2.0, 4.0, 0.0, 0.0]
    assert delta.dtype == np.float32
    model.load({"params": np.zeros(18, np.float32), "buffers": np.array([0.5, 1.5, 8.6, 0.4, 0.6], np.float32)})
    assert model.module.mean.tolist() == [0.5, 1.5]
    assert model.module.count.item() == 9
    assert model.module.seen.tolist() == [False, True]


def test_batch_norm_statistics_are_those_of_plain_torch():
    (x, y), work = shard(12), LocalWork(batch_size=4)
    expected = network(middle=[nn.BatchNorm1d(8)])
    model = FlatModel(copy.deepcopy(expected))
    plain_torch(expected, x, y, work, rng())
    train(model, CLASSES, LocalJob(x, y, work, rng()))
    named = model.state_dict_arrays()
    for name, value in expected.state_dict().items():
        np.testing.assert_allclose(named[name], value.numpy(), rtol=1e-5, atol=1e-6)
    assert named["1.num_batches_tracked"].dtype == np.int64
    assert model.read()["buffers"][-1] == 3


@pytest.mark.parametrize("make", [Tied, Buffers, *NETWORKS.values()])
def test_named_tensors_are_what_plain_torch_loads_and_come_back(make):
    model, plain = FlatModel(make()), make()
    train(model, CLASSES, LocalJob(*shard(8), LocalWork(batch_size=2), rng()))
    plain.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict_arrays().items()})
    back = FlatModel(make())
    back.load_state_dict_arrays({name: value.numpy() for name, value in plain.state_dict().items()})
    for name, vector in model.read().items():
        assert vector.tobytes() == back.read()[name].tobytes()


def test_what_is_read_is_a_copy():
    model = FlatModel(Buffers())
    first = model.read()
    model.params.add_(1)
    model.module.mean.add_(1)
    assert first["params"].tolist() == [1.0] * 18
    assert first["buffers"].tolist()[:2] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"params": np.zeros(17)}, r"params \[17\]"),
        ({"params": np.zeros(18), "buffers": np.zeros(2)}, r"buffers \[2\]"),
        ({"params": np.zeros(18)}, r"found params \[18\], expected"),
        ({"params": np.zeros((6, 3)), "buffers": np.zeros(5)}, r"params \[6, 3\]"),
        ({}, "found nothing"),
    ],
)
def test_vectors_of_another_model_are_refused_and_nothing_changes(arrays, found):
    model = FlatModel(Buffers())
    with pytest.raises(IncompatibleError, match=found):
        model.load(arrays)
    assert model.params.tolist() == [1.0] * 18


def test_named_tensors_of_another_model_are_refused_by_name():
    model = FlatModel(network())
    named = model.state_dict_arrays()
    named["0.weight"] = named["0.weight"].T
    named["extra"] = named.pop("2.bias")
    with pytest.raises(IncompatibleError) as caught:
        model.load_state_dict_arrays(named)
    for part in ("no tensor '2.bias'", "unknown tensor 'extra'", "'0.weight' is (6, 8), expected (8, 6)"):
        assert part in caught.value.message


def test_a_module_of_doubles_becomes_float32():
    model = FlatModel(network().double())
    assert model.read()["params"].dtype == np.float32
    assert train(model, CLASSES, LocalJob(*shard(8), LocalWork(), rng())).delta["params"].dtype == np.float32


def test_a_module_with_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameters"):
        FlatModel(nn.Linear(2, 2).requires_grad_(False))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.used(x)


def test_a_parameter_that_the_loss_does_not_meet_stays():
    for work in (LocalWork(), LocalWork(momentum=0.9)):
        delta = train(FlatModel(Unused()), CLASSES, LocalJob(*shard(8), work, rng())).delta["params"]
        assert delta[:21].any()
        assert not delta[21:].any()
