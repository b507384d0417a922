"""Every registered strategy holds what the base class promises; new ones are tested by existing."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support import checkpoint_digests, flctl, make_run, slow_but, train_run, untimed_lines

from flctl import arrays
from flctl.algorithms.server_optimizer import ServerOptimizer
from flctl.algorithms.strategies.fednova import accumulation
from flctl.algorithms.strategy import StepContext, Strategy
from flctl.cli import run as run_command
from flctl.config.load import load
from flctl.errors import IncompatibleError
from flctl.plugins.registry import Registry
from flctl.run.directory import RunDirectory
from flctl.run.run import Run
from flctl.server.training import train
from flctl.types import Aggregate, Arrays, ClientUpdate, LocalWork, Start, Trained, Work

STRATEGIES = sorted(Registry().offers("strategy"))
NEEDED = {"fltrust": ({"root": "0"}, ["strategy.root=0", "cohort.sampling=all"])}
"""Of strategies that cannot do without: options, and overrides of a run."""
DEEP = ["cohort.clients=7", "model={name: mlp, hidden: [8]}", "eval.per_client=true"]
NEEDED |= {name: ({}, DEEP) for name in ("fedper", "fedrep", "ditto")}
NEEDED["fedbn"] = ({"private": ("2.*",)}, ["strategy.private=['2.*']", *DEEP])
UNWEIGHTED = {"feddyn"}
"""Of strategies whose clients all count alike."""
CTX = StepContext(round=1, seed=0, server=ServerOptimizer(), clients=2, examples=20)
LAYOUT = {"params": 5, "buffers": 2}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"


def make(name: str, **options) -> Strategy:
    return Registry().get("strategy", name).from_options({**NEEDED.get(name, ({}, []))[0], **options})


def overrides(name: str, *others: str) -> list[str]:
    """A run of a strategy with as many clients as each of them needs."""
    needed = NEEDED.get(name, ({}, ["cohort.clients=7"]))[1]
    return [f"strategy.name={name}", *needed, *others]


def update(client: str, delta: list[float], weight: float) -> ClientUpdate:
    return ClientUpdate(client, {"delta": np.array(delta, np.float32)}, weight)


def trained(steps: int = 1, examples: int = 7, value: float = 1.0) -> Trained:
    delta = {"params": np.full(5, value, np.float32), "buffers": np.full(2, value, np.float32)}
    return Trained(delta, 0.5, examples, steps, Start(0.5, np.ones(5, np.float32)))


def work_of(strategy: Strategy, local: LocalWork = LocalWork()) -> Work:  # noqa: B008
    params = {name: np.zeros(length, np.float32) for name, length in LAYOUT.items()}
    extra = strategy.broadcast(strategy.init(params))
    return Work(1, params, extra, {}, local, strategy.sends(LAYOUT))


def begun(strategy: Strategy) -> Arrays:
    """What a client remembers before its first round."""
    return {**arrays.zeros(strategy.remembers(LAYOUT)), **strategy.first(work_of(strategy))}


def summed(strategy: Strategy, reports: list[tuple[Trained, LocalWork]]) -> Aggregate:
    """The sum over clients of what each reports, as an aggregator makes it."""
    sent = [strategy.report(local, work_of(strategy, work), begun(strategy))[:2] for local, work in reports]
    total = {name: sum(weight * vectors[name] for vectors, weight in sent) for name in sent[0][0]}
    return Aggregate(total, sum(weight for _, weight in sent), len(sent))


@pytest.fixture(params=STRATEGIES)
def name(request) -> str:
    return request.param


@pytest.fixture
def strategy(name) -> Strategy:
    return make(name)


def test_two_clients_and_three_weights_by_hand():
    """w = (1, 2, 3); deltas (1, 0, 2) of 10 rows and (-1, 4, 0) of 30: mean (-0.5, 3, 0.5)."""
    fedavg = Registry().get("strategy", "fedavg").from_options()
    clients = [update("a", [1, 0, 2], 10), update("b", [-1, 4, 0], 30)]
    total = sum(c.weight * c.arrays["delta"] for c in clients)
    params = {"params": np.array([1, 2, 3], np.float32)}
    new, _ = fedavg.step(params, Aggregate({"delta": total}, 40.0, 2), {}, CTX)
    np.testing.assert_allclose(new["params"], [0.5, 5.0, 3.5])
    np.testing.assert_allclose(fedavg.combine(clients)["delta"], [-0.5, 3.0, 0.5])


def test_proximal_term_by_hand():
    """grad + mu (w - w_t) = (1, 1) + 0.5 ((3, 2) - (1, 2)), for one client and for two stacked."""
    prox = Registry().get("strategy", "fedprox").from_options({"proximal_mu": 0.5})
    anchor = {"params": torch.tensor([1.0, 2.0])}
    work = Work(1, anchor, {}, {}, LocalWork(), {"delta": 2})
    one = prox.adjust(torch.ones(2), torch.tensor([3.0, 2.0]), work, {})
    torch.testing.assert_close(one, torch.tensor([2.0, 1.0]))
    stacked = prox.adjust(torch.ones(2, 2), torch.tensor([[3.0, 2.0], [1.0, 0.0]]), work, {})
    torch.testing.assert_close(stacked, torch.tensor([[2.0, 1.0], [1.0, 0.0]]))


def test_fedprox_without_pull_is_fedavg_bit_for_bit(toy, tmp_path):
    alike = ("local.epochs=2", "engine.executor=sequential")
    one = train_run(toy, tmp_path / "a", "strategy=fedavg", *alike)
    other = train_run(toy, tmp_path / "b", "strategy.name=fedprox", "strategy.proximal_mu=0", *alike)
    assert one.summary["final"] == other.summary["final"]


def test_fedprox_stays_nearer_to_the_global_model(toy, tmp_path):
    free = train_run(toy, tmp_path / "a", "rounds=1", "local.epochs=20", "strategy=fedavg")
    held = train_run(
        toy, tmp_path / "b", "rounds=1", "local.epochs=20", "strategy.name=fedprox", "strategy.proximal_mu=5"
    )
    assert held.summary["final"]["test_loss"] > free.summary["final"]["test_loss"]


def test_a_report_fits_what_the_strategy_says_it_sends(strategy):
    vectors, weight, memory = strategy.report(trained(), work_of(strategy), begun(strategy))
    for found, layout in ((vectors, strategy.sends(LAYOUT)), (memory, strategy.remembers(LAYOUT))):
        assert arrays.layout_of(found) == dict(layout)
        assert {a.dtype for a in found.values()} <= {np.dtype(np.float32)}
    assert weight == (1.0 if strategy.name in UNWEIGHTED else 7.0)
    again, _, kept = strategy.report(trained(), work_of(strategy), memory)
    assert (again.keys(), kept.keys()) == (vectors.keys(), memory.keys())


def test_a_client_that_made_no_step_has_nothing_to_say(strategy):
    begin = begun(strategy)
    vectors, weight, kept = strategy.report(trained(steps=0, examples=0, value=0.0), work_of(strategy), begin)
    assert weight == 0.0
    np.testing.assert_array_equal(vectors["delta"], np.zeros(5))
    if strategy.name != "centered-clipping":  # whose momentum of nothing is something to remember
        for name in begin:
            np.testing.assert_array_equal(kept[name], begin[name])


def test_nobody_answering_changes_nothing(strategy):
    params = {"params": np.arange(5, dtype=np.float32), "buffers": np.ones(2, np.float32)}
    state = strategy.init(params)
    nothing = {name: np.zeros(length, np.float32) for name, length in strategy.sends(LAYOUT).items()}
    new, after = strategy.step(params, Aggregate(nothing, 0.0, 0), state, CTX)
    assert after.keys() == state.keys()
    for kept, given in ((new, params), (after, state)):
        for vector in given:
            np.testing.assert_array_equal(kept[vector], given[vector])


def test_a_step_moves_parameters_and_buffers_and_leaves_its_arguments_alone(strategy):
    params = {"params": np.arange(5, dtype=np.float32), "buffers": np.ones(2, np.float32)}
    state = strategy.init(params)
    aggregate = summed(strategy, [(trained(), LocalWork())])
    for vectors in (params, state, aggregate.arrays):
        for vector in vectors.values():
            vector.flags.writeable = False
    new, _ = strategy.step(params, aggregate, state, CTX)
    np.testing.assert_array_less(params["params"], new["params"])
    np.testing.assert_array_less(params["buffers"], new["buffers"])


def test_combining_does_not_depend_on_the_order_of_clients(strategy):
    """Bit for bit where a strategy reads each update; a plain sum rounds by its order."""
    rng = np.random.default_rng(1)
    clients = [update(str(i), rng.normal(size=4).tolist(), float(i + 1)) for i in range(9)]
    orders = [[clients[i] for i in rng.permutation(len(clients))] for _ in range(5)]
    found = [strategy.combine(order)["delta"] for order in [clients, *orders]]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-5, atol=1e-6)
        if strategy.reads_each:
            np.testing.assert_array_equal(other, found[0])


def test_its_first_line_says_what_it_does_and_who_published_it(strategy):
    first = type(strategy).__doc__.splitlines()[0]
    assert re.fullmatch(r"\S.*\([^()]*\b(19|20)\d\d[a-z]?\b.*\)\.", first), first


def test_it_trains(name, toy, tmp_path):
    result = train_run(toy, tmp_path / "run", *overrides(name, "rounds=6", "local.lr=0.3"))
    assert result.status == "finished"
    assert result.summary["best"]["value"] > 0.6 or make(name).personalises
    assert result.summary["final"].get("personal_accuracy_mean", 1.0) > 0.6


@pytest.mark.parametrize("name", slow_but(STRATEGIES, "fedavg", "scaffold", "fedper"), indirect=True)
def test_it_resumes_as_if_it_had_never_stopped_and_its_config_reads_back(name, toy, tmp_path):
    chosen = overrides(name, "rounds=4")
    train_run(toy, tmp_path / "whole", *chosen)
    train_run(toy, tmp_path / "cut", *chosen, "rounds=2")
    directory = RunDirectory(tmp_path / "cut")
    config = load(Registry(), file=directory.config_file, overrides=["rounds=4"]).config
    run = Run.build(config, Registry(), toy, directory.memory)
    train(run, directory)
    assert untimed_lines(tmp_path / "cut") == untimed_lines(tmp_path / "whole")
    whole = checkpoint_digests(tmp_path / "whole")
    assert whole.items() <= checkpoint_digests(tmp_path / "cut").items()
    assert load(Registry(), file=tmp_path / "whole" / "config.yaml").config == config
    assert run.strategy.config == make(name).config
    assert config.strategy.options == make(name).config.model_dump(mode="json")


def test_it_is_documented_with_its_options_and_its_source():
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|(.*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    for name in STRATEGIES:
        component = Registry().get("strategy", name)
        row = rows.pop(name)
        for option, field in component.Config.model_fields.items():
            default = "" if field.is_required() else f" ({'null' if field.default is None else field.default})".lower()
            assert f"`{option}`{default}" in row, (name, option)
        cited = re.search(r"\(((?:[^()]|\([^()]*\))*\d{4}[a-z]?)", component.__doc__.splitlines()[0]).group(1)
        assert cited.removeprefix("RFA, ") in row, (name, cited)
    assert not rows


def test_presets_of_the_server_can_be_overridden(toy, tmp_path):
    preset = train_run(toy, tmp_path / "a", "strategy=fedadam")
    changed = train_run(toy, tmp_path / "b", "strategy=fedadam", "server.lr=0.5")
    assert "lr: 0.01" in (tmp_path / "a" / "config.yaml").read_text()
    assert preset.summary["final"] != changed.summary["final"]


def test_fedsgd_is_fedavg_of_one_full_step(toy, tmp_path):
    train_run(toy, tmp_path / "a", "strategy=fedsgd")
    train_run(toy, tmp_path / "b", "strategy=fedavg", "local.batch_size=0", "local.epochs=1")
    assert checkpoint_digests(tmp_path / "a") == checkpoint_digests(tmp_path / "b")


@pytest.mark.parametrize("key", ["epochs=5", "steps=2", "batch_size=32", "optimizer=adam"])
def test_fedsgd_refuses_anything_but_one_full_step(toy, tmp_path, key):
    with pytest.raises(IncompatibleError, match="one step of sgd on all rows"):
        make_run(toy, tmp_path / "run", "strategy=fedsgd", f"local.{key}")


def test_fednova_by_hand():
    """w = (1, 2, 3). a: 2 steps, delta (1, 0, 2), 10 rows; b: 4 steps, delta (-1, 4, 0), 30 rows. By step, weighted:
    (0.5, 0, 1) / 4 + 3 (-0.25, 1, 0) / 4 = (-0.0625, 0.75, 0.25); tau_eff = 2 / 4 + 3 * 4 / 4 = 3.5."""
    nova = make("fednova")
    clients = [
        (Trained({"params": np.array([1, 0, 2], np.float32)}, 0.5, 10, 2), LocalWork()),
        (Trained({"params": np.array([-1, 4, 0], np.float32)}, 0.5, 30, 4), LocalWork()),
    ]
    new, _ = nova.step({"params": np.array([1, 2, 3], np.float32)}, summed(nova, clients), {}, CTX)
    np.testing.assert_allclose(new["params"], [0.78125, 4.625, 3.875])
    assert not nova.reads_each


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 40])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.9, True)])
def test_fednova_counts_gradients_as_torch_adds_them(steps, momentum, nesterov):
    """The gradient of step s is the unit vector e_s, so that -w / lr ends as the vector a itself."""
    w = torch.nn.Parameter(torch.zeros(max(steps, 1), dtype=torch.float64))
    sgd = torch.optim.SGD([w], lr=1.0, momentum=momentum, nesterov=nesterov)
    for step in range(steps):
        w.grad = torch.zeros_like(w)
        w.grad[step] = 1.0
        sgd.step()
    found = accumulation(steps, LocalWork(momentum=momentum, nesterov=nesterov))
    assert found == pytest.approx(-w.detach().sum().item(), rel=1e-12)


def test_fednova_with_equal_steps_is_fedavg(toy, tmp_path):
    """Up to rounding; with steps that differ it is another model."""
    losses = {}
    for local in ("local.steps=3", "local.epochs=3"):
        for name in ("fednova", "fedavg"):
            result = train_run(toy, tmp_path / f"{name}-{local}", f"strategy={name}", local, "local.batch_size=8")
            losses[name, local] = result.summary["final"]["test_loss"]
    assert losses["fednova", "local.steps=3"] == pytest.approx(losses["fedavg", "local.steps=3"], rel=1e-5)
    assert losses["fednova", "local.epochs=3"] != pytest.approx(losses["fedavg", "local.epochs=3"], rel=1e-5)


def test_fednova_refuses_an_optimizer_whose_gradients_do_not_add_up(toy, tmp_path):
    with pytest.raises(IncompatibleError, match=r"`local\.optimizer` is adam"):
        make_run(toy, tmp_path / "run", "strategy=fednova", "local.optimizer=adam")


@pytest.mark.slow
def test_the_command_line_trains_with_a_strategy_and_its_options(toy, tmp_path):
    flags = ["--strategy", "krum", "-o", "strategy.num_malicious=2", "--clients-per-round", "7", "--rounds", "2"]
    done = flctl("train", str(toy.path), "--model", "logreg", *flags, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "num_malicious: 2" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_command_line_shows_a_strategy(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    assert run_command(["plugins", "show", "krum"]) == 0
    shown = capsys.readouterr().out
    assert "Blanchard et al. 2017" in shown
    assert re.search(
        r"num_malicious +a whole number of at(?: least 0)? +1 +Number of malicious clients per cohort", shown
    )


def test_the_command_line_refuses_a_cohort_that_a_rule_cannot_bear_before_it_trains(toy, tmp_path, capsys):
    flags = ["--strategy", "bulyan", "-o", "strategy.num_malicious=2", "--clients-per-round", "10"]
    assert run_command(["train", str(toy.path), *flags, "--out", str(tmp_path / "run")]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "bulyan needs at least 11 updates (4 num_malicious + 3, with num_malicious 2)" in said
    assert "a cohort is 10 clients" in said
    assert not (tmp_path / "run").exists()
