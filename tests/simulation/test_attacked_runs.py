"""Runs under attack: against sums by hand, the same on any engine and after a resume, recorded, and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support import Hidden, OneByOne, checkpoint_digests, make_run, toy_partition, train_run, untimed_lines

from flctl.algorithms.strategy import Strategy
from flctl.algorithms.transform import Transform
from flctl.cli import run as cli
from flctl.config.config import digest
from flctl.config.load import load
from flctl.data.dataset import Dataset
from flctl.engines.footprint import footprint, round_shape
from flctl.engines.inprocess import InProcessEngine
from flctl.engines.pool import PoolEngine
from flctl.errors import ConfigError, DivergenceError, IncompatibleError
from flctl.partition.writer import PartitionSpec, write_partition
from flctl.plugins.hookspecs import hookimpl
from flctl.plugins.registry import Registry
from flctl.server.rounds import Rounds
from flctl.server.training import train

IPM = ("attack.name=ipm", "attack.epsilon=10", "attack.clients=2")
ALL = ("cohort.sampling=all",)
ATTACKS = {
    "label-flip": (),
    "sign-flip": (),
    "gaussian": ("attack.std=0.01",),
    "alie": ("attack.z=1.5",),
    "ipm": ("attack.epsilon=0.1",),
    "min-max": (),
    "backdoor": ("attack.trigger=1",),
}


class Watcher(Strategy):
    """The weighted mean; keeps what arrived."""

    name = "watcher"
    seen: list

    def combine(self, updates):
        self.seen.append({update.client_id: update for update in updates})
        return super().combine(updates)


class Judge(Transform):
    """Lets everything pass; keeps the length of each update that it looked at."""

    name = "judge"
    seen: dict

    def on_arrival(self, update, ctx):
        self.seen[update.client_id] = float(np.linalg.norm(update.arrays["delta"]))
        return update


class Mean(Transform):
    """Looks at the sum, so that codes before it are decoded there."""

    name = "looks-at-the-sum"

    def on_server(self, aggregate, state, ctx):
        return aggregate, state


class Narrow(Transform):
    """Half precision without a thought for what does not fit."""

    name = "narrow"

    def on_client(self, update, ctx):
        with np.errstate(over="ignore"):
            return replace(update, arrays={name: vector.astype(np.float16) for name, vector in update.arrays.items()})

    def decode(self, vectors, ctx):
        return {name: vector.astype(np.float32) for name, vector in vectors.items()}


class Plugin:
    @hookimpl
    def flctl_strategies(self):
        return [Watcher]

    @hookimpl
    def flctl_transforms(self):
        return [Judge, Mean, Narrow]

    @hookimpl
    def flctl_aggregators(self):
        return [Hidden]

    @hookimpl
    def flctl_engines(self):
        return [OneByOne]


@pytest.fixture
def registry() -> Registry:
    Watcher.seen, Judge.seen = [], {}
    registry = Registry()
    registry.add(Plugin(), "test")
    return registry


def play(run, rounds=1, engine=InProcessEngine):
    chosen = engine()
    with chosen.open(run):
        played = Rounds(run, chosen)
        state = played.initial()
        for _ in range(rounds):
            state, report = played.play(state, last=lambda seconds: False)
    return state, report


def arrived(toy, path, registry, *overrides, engine=InProcessEngine):
    """What came of each client in the only round: id -> update; and who is malicious."""
    Watcher.seen.clear()
    run, _ = make_run(toy, path, "strategy=watcher", *ALL, *overrides, registry=registry)
    _, report = play(run, engine=engine)
    bad = frozenset(toy.client_ids.take(run.adversary.malicious).tolist())
    assert report.attackers == len(bad)
    return Watcher.seen[0], bad


def delta(updates, client):
    return updates[client].arrays["delta"].astype(np.float64)


# What arrives


@pytest.mark.parametrize("engine", [InProcessEngine, OneByOne])
def test_the_honest_are_left_alone_and_the_malicious_send_what_the_attack_says(toy, tmp_path, registry, engine):
    honest, nobody = arrived(toy, tmp_path / "honest", registry, engine=engine)
    seen, bad = arrived(toy, tmp_path / "ipm", registry, *IPM, engine=engine)
    assert (len(nobody), len(bad), list(seen)) == (0, 2, list(honest))
    mean = np.mean([delta(honest, client) for client in honest if client not in bad], axis=0)
    for client, update in seen.items():
        assert update.weight == honest[client].weight
        expected = -10 * mean if client in bad else delta(honest, client)
        np.testing.assert_allclose(delta(seen, client), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("engine", [InProcessEngine, OneByOne])
def test_a_sum_is_made_of_what_the_malicious_send(toy, tmp_path, registry, engine):
    """fedavg under ipm: w + sum_k n_k u_k / n, with the malicious u_k = -10 times the honest ones' plain mean."""
    honest, _ = arrived(toy, tmp_path / "honest", registry)
    run, _ = make_run(toy, tmp_path / "run", *ALL, *IPM)
    start = run.build_model().read()["params"].astype(np.float64)
    state, _ = play(run, engine=engine)
    bad = set(toy.client_ids.take(run.adversary.malicious).tolist())
    mean = np.mean([delta(honest, client) for client in honest if client not in bad], axis=0)
    weights = {client: update.weight for client, update in honest.items()}
    total = sum(w * (-10 * mean if client in bad else delta(honest, client)) for client, w in weights.items())
    np.testing.assert_allclose(state.params["params"], start + total / sum(weights.values()), rtol=1e-4, atol=1e-6)


def test_the_backdoor_replaces_the_model(toy, tmp_path, registry):
    """The mean moves as if the malicious clients' mean update had been all, plus the honest ones' share."""
    options = ("attack.name=backdoor", "attack.clients=2", "attack.trigger=1", "attack.poisoned=1")
    seen, bad = arrived(toy, tmp_path / "boosted", registry, *options)
    plain, _ = arrived(toy, tmp_path / "plain", registry, *options, "attack.boost=1")
    weights = {client: update.weight for client, update in plain.items()}
    boost = sum(weights.values()) / sum(weights[client] for client in bad)
    for client in seen:
        expected = (boost if client in bad else 1) * delta(plain, client)
        np.testing.assert_allclose(delta(seen, client), expected, rtol=1e-5)


def test_rows_are_poisoned_from_the_round_on_in_which_they_attack(toy, tmp_path, registry):
    honest, _ = arrived(toy, tmp_path / "honest", registry)
    later, bad = arrived_later(toy, tmp_path / "later", registry)
    for client in honest:
        np.testing.assert_array_equal(delta(later[0], client), delta(honest, client))
    flipped, _ = arrived(toy, tmp_path / "now", registry, "attack.name=label-flip", "attack.clients=2")
    for client in honest:
        assert np.array_equal(delta(flipped, client), delta(honest, client)) == (client not in bad)


def arrived_later(toy, path, registry):
    Watcher.seen.clear()
    options = ("attack.name=label-flip", "attack.clients=2", "attack.since=2")
    run, _ = make_run(toy, path, "strategy=watcher", *ALL, *options, registry=registry)
    _, report = play(run, rounds=2)
    assert report.attackers == 2
    return list(Watcher.seen), set(toy.client_ids.take(run.adversary.malicious).tolist())


def test_codes_bind_the_malicious_too(toy, tmp_path, registry):
    """topk lets 3 of 15 numbers through; of what the attack asks for these are the largest."""
    options = ("transforms.topk.fraction=0.2", *IPM)
    seen, bad = arrived(toy, tmp_path / "coded", registry, *options)
    honest, _ = arrived(toy, tmp_path / "honest", registry, "transforms.topk.fraction=0.2")
    mean = np.mean([delta(honest, client) for client in honest if client not in bad], axis=0)
    largest = np.argsort(-np.abs(mean))[:3]
    expected = np.zeros_like(mean)
    expected[largest] = -10 * mean[largest]
    for client in bad:
        np.testing.assert_allclose(delta(seen, client), expected, rtol=1e-5)
    for client in set(honest) - bad:
        np.testing.assert_array_equal(delta(seen, client), delta(honest, client))


def test_clipping_does_not_bind_them_and_who_looks_at_arrivals_sees_them(toy, tmp_path, registry):
    options = ("transforms.clip.norm=0.001", "transforms.judge={}", "attack.name=sign-flip", "attack.clients=2")
    run, _ = make_run(toy, tmp_path / "run", *ALL, *options, registry=registry)
    play(run)
    bad = set(toy.client_ids.take(run.adversary.malicious).tolist())
    for client, length in Judge.seen.items():
        assert length == pytest.approx(0.004 if client in bad else 0.001, rel=1e-4)
    assert len(Judge.seen) == 10


def test_what_no_code_can_say_makes_a_failed_client(toy, tmp_path, registry):
    """float16 ends at 65,504: a malicious client that says more is a failed one, and the round goes on without it."""
    options = ("transforms.narrow={}", "attack.name=gaussian", "attack.std=1e7", "attack.clients=2")
    run, _ = make_run(toy, tmp_path / "run", *ALL, *options, registry=registry)
    with pytest.raises(DivergenceError, match="2 failed"):
        play(run)
    run, _ = make_run(toy, tmp_path / "going-on", *ALL, *options, "engine.max_failures=2", registry=registry)
    _, report = play(run)
    assert (report.answered, len(report.failed), report.attackers) == (8, 2, 2)


# The same everywhere


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "ipm" else [pytest.mark.slow]) for n in ATTACKS])
def test_a_resume_gives_the_same_bits(toy, tmp_path, name):
    options = (f"attack.name={name}", *ATTACKS[name], "attack.fraction=0.3", "attack.since=2", "rounds=3")
    options += ("checkpoint.every=1", "cohort.clients=8")
    train_run(toy, tmp_path / "one", *options)
    run, directory = make_run(toy, tmp_path / "cut", *options)
    stops = iter([False, True])
    assert train(run, directory, interrupted=lambda: next(stops)).status == "interrupted"
    train(type(run).build(run.config, Registry(), toy, directory.memory), directory)
    assert checkpoint_digests(tmp_path / "cut") == checkpoint_digests(tmp_path / "one")
    assert untimed_lines(tmp_path / "cut") == untimed_lines(tmp_path / "one")
    plain = train_run(toy, tmp_path / "plain", "rounds=3", "checkpoint.every=1", "cohort.clients=8")
    ends = [checkpoint_digests(path) for path in (plain.directory.path, tmp_path / "one")]
    assert [ends[0][key] == ends[1][key] for key in sorted(ends[0]) if "model" in key] == [True, True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("gaussian", "fedavg"),
        ("min-max", "scaffold"),
        ("backdoor", "fedmedian"),
    ],
)
def test_two_workers_give_the_same_bits_as_one(toy, tmp_path, name, strategy):
    options = (f"attack.name={name}", *ATTACKS[name], "attack.clients=3", "rounds=2", f"strategy={strategy}", *ALL)
    train_run(toy, tmp_path / "one", *options)
    train_run(toy, tmp_path / "two", *options, "engine.workers=2")
    assert checkpoint_digests(tmp_path / "two") == checkpoint_digests(tmp_path / "one")
    assert untimed_lines(tmp_path / "two") == untimed_lines(tmp_path / "one")


@pytest.mark.parametrize("name", ["alie", "label-flip", "backdoor"])
def test_executors_agree_under_attack(toy, tmp_path, name):
    ends = []
    for executor in ("sequential", "stacked", "shared", "fused"):
        options = (f"attack.name={name}", *ATTACKS[name], f"engine.executor={executor}", "strategy=fedmedian")
        run, _ = make_run(toy, tmp_path / executor, *ALL, *options)
        ends.append(play(run, rounds=2)[0].params["params"])
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("strategy", ["scaffold", "fednova", "ditto", "fedmedian", "krum", "centered-clipping"])
def test_strategies_of_all_kinds_are_attacked(toy, tmp_path, strategy):
    """Whatever vectors they send, the result is another one than without the attack."""
    ends = []
    for attack in ([], ["attack.name=alie", "attack.z=1", "attack.clients=3"]):
        run, _ = make_run(toy, tmp_path / f"{len(attack)}", *ALL, f"strategy={strategy}", *attack)
        ends.append(play(run, rounds=2)[0].params["params"])
    assert np.isfinite(ends[1]).all()
    assert not np.allclose(ends[0], ends[1], rtol=1e-3)


# The digest, and what is written down


def test_without_an_attack_the_digest_is_what_it_was(toy):
    """The configuration of a run that was made before there were attacks still has the digest it had."""

    def of(*overrides: str) -> str:
        return digest(load(Registry(), overrides=["model=logreg", *overrides]).config)

    assert of() == of("attack.name=none")
    assert len({of(), *(of(f"attack.name={name}") for name in ATTACKS), of("attack.name=ipm", "seed=1")}) == 9
    assert of("attack.name=ipm") != of("attack.name=ipm", "attack.since=2")


def test_what_a_run_records(toy, tmp_path, capsys):
    options = ("attack.name=backdoor", "attack.trigger=1", "attack.clients=3", "attack.since=2", "attack.target=2")
    result = train_run(toy, tmp_path / "run", *ALL, *options, "rounds=3")
    kept = json.loads((tmp_path / "run" / "attack.json").read_text())
    assert (kept["name"], kept["clients"], len(kept["malicious"])) == ("backdoor", 10, 3)
    lines = untimed_lines(tmp_path / "run")
    assert [line["attackers"] for line in lines] == [0, 3, 3]
    assert all(0 <= line["backdoor_success"] <= 1 for line in lines)
    assert result.summary["final"]["backdoor_success"] == lines[-1]["backdoor_success"]
    assert "attackers" not in result.summary["final"]
    assert cli(["runs", "show", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    assert f"attack backdoor: 3 of 10 clients malicious ({', '.join(kept['malicious'])})" in shown
    assert shown.split("attackers")[0].split()[-4:] == ["round", "loss", "accuracy", "backdoor_success"]
    plain = train_run(toy, tmp_path / "plain", "rounds=1")
    assert not (plain.directory.path / "attack.json").exists()
    assert plain.directory.attack() is None
    assert cli(["runs", "show", str(plain.directory.path)]) == 0
    assert "attack" not in capsys.readouterr().out.split("attack:")[0]


def test_the_backdoors_success_is_counted_over_rows_of_other_classes(toy, tmp_path):
    """Against the final model's predictions, made by hand; the trigger is in a feature that tells nothing else."""
    attack = ("attack.name=backdoor", "attack.trigger=1", "attack.target=1", "attack.clients=5", "attack.boost=5")
    x, y = toy.central_test()
    x = x[y != 1].copy()
    x[:, -1] = np.maximum(x.max(axis=1), 0)
    found = {}
    for name, options in {"attacked": attack, "honest": ()}.items():
        run, directory = make_run(toy, tmp_path / name, *ALL, "rounds=10", *options)
        final = train(run, directory).summary["final"]
        params = directory.checkpoints.load(10, run.build_model()).params["params"]
        weight, bias = params[:12].reshape(3, 4), params[12:]
        found[name] = np.mean((x @ weight.T + bias).argmax(axis=1) == 1)
        assert final.get("backdoor_success") == (pytest.approx(found[name]) if options else None)
    assert found["attacked"] > found["honest"] + 0.3


def test_the_explanation_and_the_opening_line_name_the_attack(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        "train",
        str(toy.path),
        "--model",
        "logreg",
        "--rounds",
        "1",
        "--sampling",
        "all",
        "-o",
        "attack.name=alie",
    ]
    assert cli([*words, "--explain", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert told["attack"] == {"name": "alie", "malicious": 2, "clients": 10, "since": 1}
    assert told["reads_each"] == ["attack 'alie'"]
    assert told["memory"]["updates"] == 2 * 10 * 15 * 4
    assert cli([*words, "--explain"]) == 0
    assert "alie: 2 of 10 clients malicious, from round 1 on" in capsys.readouterr().out
    assert cli([*words, "--out", "run"]) == 0
    said = capsys.readouterr().err
    assert "fedavg over 10 clients (2 malicious: alie)" in said
    assert "malicious 2" in said


def test_an_attack_on_rows_keeps_no_updates(toy, tmp_path):
    run, _ = make_run(toy, tmp_path / "run", "attack.name=label-flip")
    assert run.sums
    assert footprint(run, PoolEngine, round_shape(run), None).updates == 0


# What is refused


@pytest.mark.parametrize(
    ("overrides", "error", "says"),
    [
        (
            ["aggregator=hidden", "attack.name=ipm"],
            IncompatibleError,
            "'ipm' changes single updates, and aggregator 'hid",
        ),
        (["engine=one-by-one", "attack.name=ipm"], IncompatibleError, "clients of engine 'one-by-one' may be real"),
        (
            ["transforms={quantise: {}, looks-at-the-sum: {}}", "attack.name=ipm"],
            IncompatibleError,
            "the codes of transform 'quantise' are added up before",
        ),
        (
            ["attack.name=ipm", "attack.fraction=0.01"],
            ConfigError,
            "attack.fraction 0.01 selects none of the 10",
        ),
        (["attack.name=ipm", "attack.clients=10"], ConfigError, "needs 10 malicious clients, and 10"),
        (["attack.name=backdoor", "attack.target=3"], ConfigError, "attack.target is 3, and there are 3 classes"),
        (["attack.name=backdoor", "attack.trigger=5"], ConfigError, r"attack.trigger is 5, and .* shape \(4,\)"),
    ],
)
def test_an_attack_that_cannot_be_made_is_refused(toy, tmp_path, registry, overrides, error, says):
    with pytest.raises(error, match=says) as caught:
        make_run(toy, tmp_path / "run", *overrides, registry=registry)
    assert caught.value.hint


def test_rows_may_be_poisoned_where_updates_are_hidden(toy, tmp_path, registry):
    run, _ = make_run(toy, tmp_path / "run", "aggregator=hidden", "attack.name=label-flip", registry=registry)
    assert play(run)[1].answered == 4


@pytest.mark.parametrize("name", ["label-flip", "backdoor"])
def test_attacks_on_classes_need_classes(tmp_path, name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)).astype(np.float32)
    dataset = Dataset("line", "regression", x, x.sum(axis=1), (), tuple("pqr"))
    from support import Given

    partition = write_partition(
        tmp_path / "parts", dataset, Given(np.repeat(range(4), 20)), PartitionSpec(clients=4, test_fraction=0.2, seed=3)
    )
    with pytest.raises(ConfigError, match=f"{name} needs classes, and this is regression"):
        make_run(partition, tmp_path / "run", "model=linear", f"attack.name={name}", "attack.clients=1")
    run, _ = make_run(partition, tmp_path / "other", "model=linear", "attack.name=sign-flip", "attack.clients=1")
    assert play(run)[1].attackers == 1


@pytest.mark.parametrize(
    ("overrides", "code", "says"),
    [
        (["attack.name=ipm", "attack.z=2"], 2, "attack.z has no effect with attack ipm"),
        (["attack.fraction=0.4"], 2, "attack.fraction has no effect with attack none"),
        (["attack.name=ipm", "attack.clients=2", "attack.fraction=0.4"], 2, "no effect with clients 2"),
        (["attack.name=alei"], 2, "Did you mean 'alie'?"),
        (["attack.name=ipm", "attack.fraction=1"], 2, "a number above 0 and below 1"),
        (["attack.name=ipm", "attack.fraction=0.001"], 2, "selects none of the"),
        (["attack.name=ipm", "attack.clients=99"], 2, "needs 99 malicious clients"),
    ],
)
def test_the_command_line_refuses_what_has_no_effect_or_no_sense(toy, tmp_path, capsys, overrides, code, says):
    named = [part for override in overrides for part in ("-o", override)]
    out = tmp_path / "run"
    assert cli(["train", str(toy.path), "--model", "logreg", "--rounds", "1", *named, "--out", str(out)]) == code
    assert says in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_the_root_of_fltrust_is_honest(tmp_path):
    partition = toy_partition(tmp_path / "parts", clients=4)
    for seed in range(8):
        options = ("strategy=fltrust", "strategy.root='2'", "attack.name=sign-flip", "attack.clients=2", f"seed={seed}")
        run, _ = make_run(partition, tmp_path / f"run-{seed}", *ALL, *options)
        assert 2 not in run.adversary.malicious
