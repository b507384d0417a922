"""Clients that stop early: what becomes of their work, by every executor, engine and kind of strategy."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from support import ScriptedEngine, checkpoint_digests, make_run, train_run, untimed_lines
from support.aggregators import RollCall

import flctl
from flctl.algorithms.strategies.fednova import FedNova
from flctl.algorithms.strategies.private_layers import FedRep
from flctl.algorithms.strategies.qfedavg import QFedAvg
from flctl.client.local_training import LocalTraining
from flctl.engines.inprocess import InProcessEngine
from flctl.executors.batches import local_keys
from flctl.executors.sequential import single_thread, train
from flctl.executors.shards import LocalJob
from flctl.plugins.registry import Registry
from flctl.run.run import Run
from flctl.server.rounds import Rounds
from flctl.server.training import train as train_on
from flctl.types import Allowance

SLOW = "devices.stragglers=0.75"
EPOCHS = "local.epochs=5", "local.batch_size=4", "local.lr=0.05", "eval.every=0"


def play(run, rounds=1, engine=None):
    engine = engine or InProcessEngine()
    with engine.open(run):
        server = Rounds(run, engine)
        state, plans, reports = server.initial(), [], []
        for _ in range(rounds):
            plans.append(server.plan(state))
            state, report = server.play(state, last=lambda seconds: False)
            reports.append(report)
    return state, plans, reports


def by_hand(run, plan, mu=0.0):
    """(rows, steps, change) of each client that counts: a loop of sequential training, stopped by hand."""
    single_thread()
    model, task = run.build_model(), run.task()
    start, found = model.read(), []
    for number, most in zip(plan.work.allowance.client_indices, plan.work.allowance.steps, strict=True):
        x, y = run.partition.train(int(number))
        key = local_keys(run.config.seed, plan.round, run.partition.client_ids[number : number + 1])[0]
        model.load(start)
        anchor = model.params.clone()
        trained = train(
            model,
            task,
            LocalJob(x, y, plan.work.local, key, most=int(most)),
            lambda g, w, a=anchor: g.add(w - a, alpha=mu),
        )
        found.append((len(y), trained.steps, trained.delta["params"].astype(np.float64)))
    return start["params"].astype(np.float64), found


def mean(found, value):
    return sum(rows * value(steps, change) for rows, steps, change in found) / sum(rows for rows, *_ in found)


@pytest.mark.parametrize("executor", ["shared", "stacked", "fused", "vmap", "sequential"])
@pytest.mark.parametrize("strategy", ["fedprox", "fednova"])
def test_partial_work_counts_as_the_oracle_says(strategy, executor, toy, tmp_path):
    """fedprox: the mean change, as it is; fednova: per step, times the mean number of steps."""
    options = ["strategy.proximal_mu=0.5"] if strategy == "fedprox" else []
    named = f"strategy={strategy}", *options, "model=mlp", f"engine.executor={executor}", SLOW, *EPOCHS
    run, _ = make_run(toy, tmp_path / "run", *named)
    state, plans, reports = play(run)
    start, found = by_hand(run, plans[0], mu=0.5 if strategy == "fedprox" else 0.0)
    if strategy == "fedprox":
        expected = start + mean(found, lambda steps, change: change)
    else:
        effective = mean(found, lambda steps, change: steps)
        expected = start + effective * mean(found, lambda steps, change: change / steps)
    np.testing.assert_allclose(state.params["params"], expected, rtol=2e-3, atol=2e-5)
    assert reports[0].devices == {"absent": 0, "late": 0, "partial": 3, "surplus": 0}
    assert (reports[0].asked, reports[0].answered) == (4, 4)


def test_fedavg_is_the_mean_over_those_who_were_done(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "devices.stragglers=0.5", *EPOCHS)
    state, plans, reports = play(run)
    start, found = by_hand(run, plans[0])
    assert len(found) == 2
    np.testing.assert_allclose(state.params["params"], start + mean(found, lambda s, c: c), rtol=1e-4, atol=1e-6)
    assert (reports[0].asked, reports[0].answered, reports[0].failed) == (4, 2, {})
    assert reports[0].devices["late"] == 2
    assert reports[0].bytes_down == 4 * _size(plans[0])
    assert reports[0].examples == sum(rows for rows, *_ in found)


def _size(plan):
    from flctl.wire import messages

    return len(messages.pack_work(replace(plan.work, allowance=None)))


class RefusesEarly(FedNova):
    name = "refuses-early"
    takes_partial = False


class AveragesEarly(flctl.Strategy):
    name = "averages-early"
    takes_partial: ClassVar[bool] = True


@pytest.mark.parametrize(("strategy", "answered"), [(RefusesEarly, 1), (AveragesEarly, 4)])
def test_a_third_partys_strategy_says_itself_whether_it_takes_partial_work(strategy, answered, toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", SLOW, *EPOCHS)
    _, _, reports = play(replace(run, strategy=strategy.from_options({})))
    assert reports[0].answered == answered


def test_the_strategies_that_take_partial_work_are_those_that_the_documentation_names():
    text = (Path(__file__).resolve().parents[2] / "docs" / "stragglers.md").read_text(encoding="utf-8")
    offers = Registry().offers("strategy")
    taking = {name for name, offer in offers.items() if offer.component.takes_partial}
    assert taking == {name for name in re.findall(r"^\| `([a-z-]+)` \| ", text, re.MULTILINE) if name in offers}


def test_a_round_in_which_nobody_is_done_leaves_the_model(toy, tmp_path):
    run, _ = make_run(
        toy, tmp_path / "run", "devices.speed=2", "devices.deadline=13", "devices.speed_jitter=3", *EPOCHS
    )
    with InProcessEngine().open(run) as engine:
        server = Rounds(run, engine)
        state = server.initial()
        number = next(n for n in range(200) if not len(server.plan(replace(state, round=n)).chunks))
        after, report = server.play(replace(state, round=number), last=lambda seconds: False)
    np.testing.assert_array_equal(after.params["params"], state.params["params"])
    assert (report.asked, report.answered, report.loss, report.devices["seconds"]) == (4, 0, None, 13.0)


ALL_KNOBS = (
    "devices.speed=25",
    "devices.speed_spread=0.7",
    "devices.speed_jitter=0.3",
    "devices.upload=1000",
    "devices.network_spread=0.5",
    "devices.availability=0.9",
    "devices.deadline=1.6",
    "devices.over_selection=0.5",
    "cohort.clients=6",
)


@pytest.mark.parametrize("strategy", ["fednova", "scaffold", "fedavg"])
def test_the_same_bits_after_a_resume(strategy, toy, tmp_path):
    settings = (f"strategy={strategy}", *ALL_KNOBS, *EPOCHS[:3])
    train_run(toy, tmp_path / "whole", *settings, "rounds=4")
    run, directory = make_run(toy, tmp_path / "cut", *settings, "rounds=4")
    assert train_on(run, directory, interrupted=lambda: True).status == "interrupted"
    train_on(Run.build(run.config, Registry(), toy, directory.memory), directory)
    assert untimed_lines(tmp_path / "cut") == untimed_lines(tmp_path / "whole")
    told = [line["devices"] for line in untimed_lines(tmp_path / "whole")]
    assert sum(line["late"] if strategy == "fedavg" else line["partial"] for line in told) > 0
    assert sum(line["surplus"] + line["absent"] for line in told) > 0


@pytest.mark.slow
def test_the_same_bits_in_this_process_and_in_two_workers(toy, tmp_path):
    settings = ("strategy=scaffold", *ALL_KNOBS, *EPOCHS[:3])
    train_run(toy, tmp_path / "here", *settings)
    train_run(toy, tmp_path / "pool", *settings, "engine.name=pool", "engine.workers=2")
    assert checkpoint_digests(tmp_path / "pool") == checkpoint_digests(tmp_path / "here")
    assert untimed_lines(tmp_path / "pool") == untimed_lines(tmp_path / "here")


def test_messages_give_what_sums_give(toy, tmp_path):
    """An engine that cannot gather asks client by client."""
    run, _ = make_run(toy, tmp_path / "run", "strategy=fedprox", *ALL_KNOBS, *EPOCHS)
    one, _, told = play(run, 3)
    other, _, also = play(run, 3, ScriptedEngine(InProcessEngine(), {}, backwards=True))
    np.testing.assert_allclose(one.params["params"], other.params["params"], rtol=1e-5, atol=1e-7)
    for a, b in zip(told, also, strict=True):
        assert (a.devices, a.asked, a.answered, a.bytes_down, a.bytes_up) == (
            b.devices,
            b.asked,
            b.answered,
            b.bytes_down,
            b.bytes_up,
        )


def test_in_a_protocol_of_several_phases_the_late_are_there_but_drop_out_where_clients_train(toy, tmp_path):
    """Roll-call asks all who is there, and after training asks those who sent something to confirm."""
    run, _ = make_run(toy, tmp_path / "run", "devices.stragglers=0.5", *EPOCHS)
    plain, plans, _ = play(run)
    seen = []

    class Watched(RollCall):
        def server(self, ctx):
            phases = super().server(ctx)
            step = next(phases)
            while True:
                replies = dict((yield step))
                seen.append(sorted(replies))
                try:
                    step = phases.send(iter(replies.items()))
                except StopIteration as end:
                    return end.value

    called, _, reports = play(replace(run, aggregator=Watched()))
    done = sorted(run.partition.client_ids.take(plans[0].work.allowance.client_indices).tolist())
    assert seen == [sorted(plans[0].cohort), done, done]
    assert len(done) == 2
    assert reports[0].failed == {}
    np.testing.assert_allclose(called.params["params"], plain.params["params"], rtol=1e-5, atol=1e-7)


class Partial(FedRep):
    name = "partial-rep"
    takes_partial = True


def test_stages_are_done_one_after_the_other_until_the_steps_are_used_up(toy, tmp_path):
    """fedrep trains its head for an epoch first, then the rest for two."""
    run, _ = make_run(toy, tmp_path / "run", "strategy=fedrep", "model=mlp", "local.epochs=2", "local.batch_size=4")
    run = replace(run, strategy=Partial.from_options({}))
    client_indices, per_epoch = np.arange(3), -(-run.partition.counts[:3, 0] // 4)
    training = LocalTraining(run)
    with InProcessEngine().open(run) as engine:
        work = Rounds(run, engine).plan(Rounds(run, engine).initial()).work
    most = np.array([2, int(per_epoch[1]) + 3, 99])
    limited = replace(work, allowance=Allowance(client_indices, most))
    done = training.train_each(client_indices, limited, training.memory(client_indices, limited))
    assert [one.steps for one in done] == [2, per_epoch[1] + 3, 3 * per_epoch[2]]
    assert not done[0].delta["params"].any()  # the head is the client's own, and nothing else was reached
    assert done[1].delta["params"].any()
    assert run.devices._full(client_indices).tolist() == (3 * per_epoch).tolist()


def test_what_clients_measure_of_all_their_rows_is_not_cut_short(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "strategy=qfedavg", *EPOCHS)
    assert isinstance(run.strategy, QFedAvg)
    training, client_indices = LocalTraining(run), np.arange(4)
    with InProcessEngine().open(run) as engine:
        work = Rounds(run, engine).plan(Rounds(run, engine).initial()).work
    limited = replace(work, allowance=Allowance(client_indices, np.ones(4, np.int64)))
    whole, cut = (training.train_each(client_indices, asked, {}) for asked in (work, limited))
    assert [one.steps for one in cut] == [1, 1, 1, 1]
    assert [one.start.loss for one in cut] == [one.start.loss for one in whole]


def test_scaffold_divides_by_the_steps_that_were_made(toy, tmp_path):
    """c_k <- c_k - c - delta_k / (K lr), and both are zero before the first round."""
    run, _ = make_run(toy, tmp_path / "run", "strategy=scaffold", SLOW, *EPOCHS)
    state, plans, _ = play(run)
    _, found = by_hand(run, plans[0])
    rows = run.partition.counts[:, 0].sum()
    expected = sum(n * -change / (steps * 0.05) for n, steps, change in found) / rows
    np.testing.assert_allclose(state.strategy["control"], expected, rtol=1e-3, atol=1e-5)


def test_a_round_says_what_became_of_its_devices(toy, tmp_path, capsys):
    from flctl.report.progress import round_text

    run, _ = make_run(toy, tmp_path / "run", "devices.speed=5", "devices.speed_spread=1", "devices.deadline=5", *EPOCHS)
    _, _, reports = play(run)
    text = round_text(reports[0])
    late = reports[0].devices["late"]
    assert 0 < late < 4
    assert f"clients {4 - late}/4  late {late}  " in text
    assert text.endswith("simulated 5 s")
    assert math.isclose(reports[0].devices["seconds"], 5.0)
