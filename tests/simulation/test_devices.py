"""Simulated devices: who is there, how far each gets, who is done in time; by hand and by a loop over clients."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import make_run

from flctl import seeds, wire
from flctl.cli import run as cli
from flctl.config.config import digest
from flctl.config.load import load
from flctl.errors import ConfigError
from flctl.plugins.registry import Registry
from flctl.seeds import client_keys
from flctl.wire import messages

EVERYONE = np.arange(10)


def devices(partition, path, *overrides):
    """The devices of a run over everyone, batches of 4, unless the overrides say something else."""
    return make_run(partition, path, "cohort.sampling=all", "local.batch_size=4", *overrides)[0].devices


def steps_of(partition, epochs=1):
    return epochs * -(-partition.counts[:, 0] // 4)


# -- draws -------------------------------------------------------------------------------------------------


def test_numbers_are_uniform_normal_and_each_clients_own():
    keys = client_keys(np.arange(20_000).astype(str))
    uniform, normal = seeds.uniform(3, ("a",), keys), seeds.normal(3, ("a",), keys)
    assert 0 < uniform.min() < uniform.max() < 1
    counts = np.histogram(uniform, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # 19 degrees of freedom, the 0.1 % point
    inside = [np.mean(np.abs(normal) < z) for z in (0.6745, 1.96)]
    np.testing.assert_allclose(inside, [0.5, 0.95], atol=0.012)
    assert abs(np.corrcoef(uniform, normal)[0, 1]) < 0.03
    assert abs(np.corrcoef(normal[1:], normal[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(seeds.normal(3, ("a",), keys[[7, 2]]), normal[[7, 2]])
    assert not np.isin(seeds.uniform(4, ("a",), keys), uniform).any()
    assert not np.isin(seeds.uniform(3, ("b",), keys), uniform).any()


# -- stragglers as a share ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "slow"), [(0.0, 0), (0.5, 5), (0.9, 9), (0.55, 6), (0.44, 4), (1.0, 10)])
def test_the_share_of_stragglers_is_exact_and_they_make_whole_epochs_below_what_is_asked(share, slow, toy, tmp_path):
    """In the paper's experiment 90 % of ten clients are nine, in each round."""
    found = devices(toy, tmp_path / "r", "strategy=fedprox", "local.epochs=5", f"devices.stragglers={share}")
    full, seen = steps_of(toy, 5), Counter()
    for number in range(1, 40):
        turnout = found.participation(number, EVERYONE)
        epochs = turnout.steps * 5 / full
        assert (epochs == epochs.round()).all()
        assert sorted(epochs)[slow:] == [5] * (10 - slow)
        assert all(1 <= epoch <= 4 for epoch in sorted(epochs)[:slow])
        assert turnout.outcomes == {"absent": 0, "late": 0, "partial": slow, "surplus": 0}
        seen.update(epochs[epochs < 5].tolist())
    if slow >= 5:
        expected = slow * 39 / 4
        assert sum((seen[e] - expected) ** 2 / expected for e in (1, 2, 3, 4)) < 16.3  # the 0.1 % point


def test_each_client_is_a_straggler_as_often_as_another(toy, tmp_path):
    found = devices(toy, tmp_path / "r", "strategy=fedprox", "local.epochs=2", "devices.stragglers=0.3")
    late = sum((found.participation(n, EVERYONE).steps < steps_of(toy, 2)).astype(int) for n in range(1, 1001))
    assert np.abs(late - 300).max() < 5 * math.sqrt(1000 * 0.3 * 0.7)


def test_a_strategy_that_takes_no_partial_work_drops_stragglers(toy, tmp_path):
    options = "local.epochs=5", "devices.stragglers=0.9"
    dropping, using = (devices(toy, tmp_path / n, f"strategy={n}", *options) for n in ("fedavg", "fedprox"))
    one, all_of_them = dropping.participation(1, EVERYONE), using.participation(1, EVERYONE)
    assert one.outcomes == {"absent": 0, "late": 9, "partial": 0, "surplus": 0}
    done = np.flatnonzero(all_of_them.steps == steps_of(toy, 5))
    assert one.counted.tolist() == done.tolist()
    assert one.steps.tolist() == steps_of(toy, 5)[done].tolist()


def test_where_one_epoch_is_asked_stragglers_stop_after_some_steps(toy, tmp_path):
    for way in ("local.epochs=1", "local.steps=6"):
        found = devices(toy, tmp_path / way[-8:], "strategy=fednova", way, "devices.stragglers=1")
        full = steps_of(toy) if "epochs" in way else np.full(10, 6)
        made = np.stack([found.participation(n, EVERYONE).steps for n in range(1, 30)])
        assert (made >= 1).all()
        assert (made < full).all()
        assert len(np.unique(made)) > 3


def test_a_straggler_whose_work_is_one_step_does_nothing(toy, tmp_path):
    found = devices(toy, tmp_path / "r", "strategy=fedprox", "local.steps=1", "devices.stragglers=0.5")
    assert found.participation(1, EVERYONE).outcomes == {"absent": 0, "late": 5, "partial": 0, "surplus": 0}


# -- the clock ---------------------------------------------------------------------------------------------


def test_equal_devices_by_hand(toy, tmp_path):
    """Clients have 16 to 24 training rows: 4 to 6 batches of 4. At 2 steps a second, 2.6 s are time for 5 steps."""
    options = "devices.speed=2", "devices.deadline=2.6"
    full = steps_of(toy)
    assert sorted(set(full.tolist())) == [4, 5, 6]
    using = devices(toy, tmp_path / "prox", "strategy=fedprox", *options).participation(1, EVERYONE)
    assert using.steps.tolist() == np.minimum(full, 5).tolist()
    assert using.outcomes == {"absent": 0, "late": 0, "partial": int((full == 6).sum()), "surplus": 0, "seconds": 2.5}
    dropping = devices(toy, tmp_path / "avg", "strategy=fedavg", *options).participation(1, EVERYONE)
    assert dropping.counted.tolist() == np.flatnonzero(full <= 5).tolist()
    assert (dropping.outcomes["late"], dropping.outcomes["seconds"]) == ((full == 6).sum(), 2.6)
    patient = devices(toy, tmp_path / "all", "devices.speed=2").participation(1, EVERYONE)
    assert patient.outcomes == {"absent": 0, "late": 0, "partial": 0, "surplus": 0, "seconds": 3.0}


def test_a_deadline_of_whole_steps_is_time_for_them(toy, tmp_path):
    """0.7 / 0.1 is less than 7 in floating point."""
    found = devices(
        toy, tmp_path / "r", "strategy=fedprox", "local.epochs=3", "devices.speed=10", "devices.deadline=0.7"
    )
    assert found.participation(1, EVERYONE).steps.tolist() == [7] * 10


def test_the_network_takes_what_the_encoded_messages_take(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "r", "devices.download=1000", "devices.upload=100", "strategy=scaffold")
    model, weight = {"params": np.zeros(15, np.float32)}, {"weight": np.zeros(1)}
    work = {"delta": model["params"], "control": model["params"]}
    up = len(wire.pack("vector", arrays={**work, **weight}))
    assert run.devices.participation(1, EVERYONE[:1]).outcomes["seconds"] == pytest.approx(
        _down(run) / 1000 + up / 100, rel=1e-12
    )


def _down(run):
    """What the run's own first round sends a client."""
    from flctl.engines.inprocess import InProcessEngine
    from flctl.server.rounds import Rounds

    engine = InProcessEngine()
    with engine.open(run):
        rounds = Rounds(run, engine)
        work = rounds.plan(rounds.initial()).work
    return len(messages.pack_work(replace(work, allowance=None)))


def test_who_cannot_even_send_in_time_is_late(toy, tmp_path):
    run, _ = make_run(
        toy, tmp_path / "r", "strategy=fedprox", "devices.upload=100", "devices.network_spread=1", "devices.deadline=2"
    )
    up = len(wire.pack("vector", arrays={"delta": np.zeros(15, np.float32), "weight": np.zeros(1)}))
    rates = 100 * np.exp(seeds.normal(0, ("device", "network"), client_keys(toy.client_ids)))
    late = up / rates > 2
    assert 0 < late.sum() < 10
    assert run.devices.participation(1, EVERYONE).counted.tolist() == np.flatnonzero(~late).tolist()


def test_speeds_are_log_normal_of_the_spread_that_is_asked_for(tmp_path, toy):
    found = devices(toy, tmp_path / "r", "devices.speed=3", "devices.speed_spread=0.8", "devices.speed_jitter=0.4")
    found.__dict__["_keys"] = client_keys(np.arange(20_000).astype(str))
    logs = -np.log(found._step_seconds)
    assert logs.mean() == pytest.approx(math.log(3), abs=0.03)
    assert logs.std() == pytest.approx(0.8, abs=0.02)
    seconds = [found.participation(n, EVERYONE[:1]).outcomes["seconds"] / steps_of(toy)[0] for n in range(1, 1501)]
    assert np.std(np.log(seconds)) == pytest.approx(0.4, abs=0.04)
    assert np.mean(np.log(seconds)) == pytest.approx(-logs[0], abs=0.05)


KNOBS = st.fixed_dictionaries(
    {
        "speed": st.sampled_from([1, 7]),
        "speed_spread": st.sampled_from([0, 0.7]),
        "speed_jitter": st.sampled_from([0, 0.5]),
        "upload": st.sampled_from(["null", 200]),
        "availability": st.sampled_from([1, 0.7]),
        "deadline": st.sampled_from(["null", 10, 20]),
        "over_selection": st.sampled_from([0, 0.5]),
    }
)


@settings(deadline=None, max_examples=60)
@given(knobs=KNOBS, strategy=st.sampled_from(["fedavg", "fedprox"]), number=st.integers(1, 9), seed=st.integers(0, 9))
def test_a_round_is_what_a_loop_over_its_clients_says(knobs, strategy, number, seed, toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "r"
    named = [f"devices.{name}={value}" for name, value in knobs.items()]
    options = f"strategy={strategy}", "cohort.clients=6", "local.batch_size=4", "local.epochs=2", f"seed={seed}"
    run, _ = make_run(toy, path, *options, *named)
    config = run.config.devices
    assert run.devices.cohort.clients == (9 if config.over_selection else 6)
    asked = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9]) if config.over_selection else np.array([0, 2, 4, 5, 7, 9])
    up = len(wire.pack("vector", arrays={"delta": np.zeros(15, np.float32), "weight": np.zeros(1)}))
    told, came = Counter(absent=0, late=0, partial=0, surplus=0), []
    for client in asked:
        key = client_keys(toy.client_ids[client : client + 1])
        if seeds.uniform(seed, ("round", number, "device", "there"), key)[0] >= config.availability:
            told["absent"] += 1
            continue
        z, jitter = (seeds.normal(seed, names, key)[0] for names in (("device", "speed"), _jitter(number)))
        speed = config.speed * math.exp(config.speed_spread * z + config.speed_jitter * jitter)
        way, full = up / config.upload if config.upload else 0.0, int(steps_of(toy, 2)[client])
        left = (config.deadline or math.inf) - way
        made = math.floor(min(full, left * speed * (1 + 1e-12))) if left >= 0 else 0
        if made == full or (made > 0 and strategy == "fedprox"):
            came.append((way + made / speed, int(client), made, full))
        else:
            told["late"] += 1
    used = sorted(came)[:6] if config.over_selection else came
    told["surplus"], told["partial"] = len(came) - len(used), sum(made < full for *_, made, full in used)
    wanted = 6 if config.over_selection else len(asked)
    seconds = config.deadline if told["late"] and len(used) < wanted else max((t for t, *_ in used), default=0.0)
    turnout = run.devices.participation(number, asked)
    assert turnout.client_indices[turnout.counted].tolist() == sorted(client for _, client, *_ in used)
    assert turnout.steps.tolist() == [made for _, _, made, _ in sorted(used, key=lambda one: one[1])]
    assert turnout.outcomes.pop("seconds") == pytest.approx(seconds, rel=1e-9)
    assert turnout.outcomes == dict(told)


def _jitter(number):
    return ("round", number, "device", "speed")


# -- who is there ------------------------------------------------------------------------------------------


def test_devices_are_there_as_often_as_is_said_and_each_by_itself(toy, tmp_path):
    found = devices(toy, tmp_path / "r", "devices.availability=0.7")
    there = np.zeros((1000, 10), bool)
    for number in range(1000):
        there[number, found.participation(number + 1, EVERYONE).client_indices] = True
    assert np.abs(there.sum(0) - 700).max() < 5 * math.sqrt(1000 * 0.7 * 0.3)
    assert np.abs(np.corrcoef(there.T) - np.eye(10)).max() < 0.15
    few = found.participation(3, np.array([1, 5, 8]))
    assert few.client_indices.tolist() == [c for c in (1, 5, 8) if there[2, c]]


def test_without_the_section_everybody_does_everything_and_nothing_is_drawn(toy, tmp_path, monkeypatch):
    found = devices(toy, tmp_path / "r")
    monkeypatch.setattr(seeds, "uniform", None)
    monkeypatch.setattr(seeds, "normal", None)
    turnout = found.participation(1, EVERYONE)
    assert (turnout.counted, turnout.steps, turnout.allowance, turnout.outcomes) == (None, None, None, {})
    assert turnout.client_indices is EVERYONE


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["devices.deadline=2", "devices.speed=1"],
            "no client finishes by then: the fastest needs 4 s with all its",
        ),
        (["devices.deadline=0.5", "devices.speed=1", "strategy=fedprox"], "the fastest needs 1 s with one step"),
        (
            ["devices.deadline=1", "devices.upload=50", "strategy=fedprox"],
            "devices.deadline is 1 s, and no client finishes",
        ),
        (["devices.stragglers=1"], "makes all clients of a round stragglers (4), and strategy 'fedavg' drops them"),
        (["devices.stragglers=0.9"], "devices.stragglers 0.9 makes all clients of a round stragglers (4)"),
        (
            ["devices.speed=1", "devices.over_selection=2"],
            "selects 12 clients per round, and the partition has 10 clients with training rows",
        ),
        (["devices.speed=1", "devices.over_selection=0.1", "cohort.sampling=all"], "cohort.sampling is all"),
    ],
)
def test_what_could_never_count_is_refused_before_anything_is_trained(options, says, toy, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        make_run(toy, tmp_path / "r", "local.batch_size=4", *options)
    assert caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        # 0.5 clients on average, and now and then ten, of which one is no straggler
        ["cohort.sampling=poisson", "cohort.rate=0.05", "devices.stragglers=0.9"],
        ["cohort.sampling=poisson", "cohort.rate=0.05", "devices.stragglers=0"],
        # four seconds' work that some device does twice as fast in some round
        ["devices.deadline=2", "devices.speed=1", "devices.speed_jitter=1"],
    ],
)
def test_what_counts_in_some_rounds_is_not_refused(options, toy, tmp_path):
    found = make_run(toy, tmp_path / "r", "local.batch_size=4", *options)[0].devices
    assert any(found.participation(number, EVERYONE).counted.size for number in range(1, 50))


def test_a_deadline_before_the_way_is_made_is_refused_however_fast_a_device_may_be(toy, tmp_path):
    options = "devices.deadline=1", "devices.upload=50", "devices.speed=1", "devices.speed_jitter=1"
    with pytest.raises(ConfigError, match="no client finishes by then"):
        make_run(toy, tmp_path / "r", "strategy=fedprox", *options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["deadline=2"], "devices.deadline has no effect without speed, upload or download"),
        (["over_selection=0.2"], "devices.over_selection has no effect without speed"),
        (["speed_spread=0.5", "upload=9"], "devices.speed_spread has no effect without speed"),
        (["network_spread=0.5", "speed=9"], "devices.network_spread has no effect without upload or download"),
        (["stragglers=0.5", "speed=9", "upload=5"], "devices.stragglers has no effect with speed and upload"),
        (["speed=0"], "devices.speed"),
        (["availability=0"], "devices.availability"),
        (["stragglers=1.5"], "devices.stragglers"),
    ],
)
def test_keys_that_switch_each_other_off_are_told(options, says, capsys, tmp_path):
    flags = [part for option in options for part in ("-o", f"devices.{option}")]
    assert cli(["config", "show", *flags]) == 2
    assert says in capsys.readouterr().err


def test_the_digest_counts_devices_where_there_are_any():
    def of(*overrides):
        return digest(load(Registry(), overrides=overrides).config)

    assert of() == of("devices.availability=1.0")
    assert len({of(), of("devices.stragglers=0"), of("devices.stragglers=0.5"), of("devices.speed=1")}) == 4
