"""Whole runs of flctl: masked and plain ones agree, and clients that fail at each phase cost what they should."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest
from flctl_secagg.aggregator import SecureAggregation
from flctl_secagg.protocol import frames

import flctl
from flctl import ConfigError, Failure, IncompatibleError, ProtocolError, RoundFailedError
from flctl.algorithms.transform import StartContext
from flctl.engines.inprocess import InProcessEngine
from flctl.plugins.registry import Registry
from flctl.testing import check_aggregator
from flctl.testing.trial import Quiet, Trial

SUMMING = ("fedavg", "fedprox", "fedadam", "fedavgm", "scaffold", "fednova", "feddyn", "qfedavg", "fedsgd")


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), "model=mlp")  # logreg's 15 parameters are few enough to go exactly


def notes_of(result):
    lines = [json.loads(text) for text in (result.directory / "metrics.jsonl").read_text().splitlines()]
    return [note for line in lines for note in line.get("notes", [])]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mode": "active", "max_weight": 100}, {"bits": 64}], ids=str)
def test_it_keeps_the_contract_of_aggregators(options):
    check_aggregator(SecureAggregation, options)


def test_it_keeps_the_contract_of_aggregators_in_one_process():
    check_aggregator(SecureAggregation, processes=False, skip=["dropout", "garbage", "lost"])


@pytest.mark.parametrize("strategy", SUMMING)
def test_masked_and_plain_runs_agree_within_the_quantisation_bound(trial, strategy):
    """9 clients, two rounds, 32 bits: a level is 8 W / Q = 8 * 19 / 238609294 of a weighted value, less than 1e-6."""
    plain = trial.train(f"strategy={strategy}", "engine=inprocess")
    masked = trial.train(f"strategy={strategy}", "aggregator=secagg", "engine=inprocess")
    scale = np.abs(plain.weights).max()
    assert 0 < scale < 100
    assert np.abs(masked.weights - plain.weights).max() <= 5e-5 * scale
    assert notes_of(masked) == []


@pytest.mark.parametrize("bits", [16, 20, 24])
def test_narrow_words_cost_precision_and_no_more(trial, bits):
    """n clients err by at most a level each: the mean by at most n levels over the sum of weights, twice."""
    plain = trial.train("engine=inprocess")
    masked = trial.train(f"aggregator={{name: secagg, bits: {bits}, clip: 1.0}}", "engine=inprocess")
    counts = trial.partition.counts[:, 0]
    level = 1.0 * counts.max() / (((1 << (bits - 1)) - 1) // 9)
    error = np.abs(masked.weights - plain.weights).max()
    assert 0 < error <= 4 * 9 * level / counts.sum()


class Faulty(InProcessEngine):
    """Loses clients in the exchanges that the script names: (kind of message, attempt) -> clients."""

    name = "faulty"
    script: ClassVar = {}
    kind = "exception"

    @contextmanager
    def open(self, run) -> Iterator:
        self._seen = []
        with super().open(run):
            yield self

    def exchange(self, requests, deadline=None):
        kind = next((request.message[5] for request in requests.values()), 0)
        self._seen.append(kind)
        lost = self.script.get((kind, self._seen.count(kind)), ())
        for client, answer in super().exchange(requests, deadline):
            yield client, Failure(self.kind, "lost by the script") if client in lost else answer


def faulty(script, kind="exception"):
    """A registry in which the engine `faulty` follows the script."""
    engine = type("Scripted", (Faulty,), {"script": script, "kind": kind, "name": "faulty"})
    plugin = type("Plugin", (), {"flctl_engines": staticmethod(flctl.hookimpl(lambda: [engine]))})
    registry = Quiet()
    registry.add(plugin(), "faulty")
    return registry


def proposing(seen=None, **changed):
    """A registry in which secure aggregation proposes other parameters than its clients expect."""

    class Proposing(SecureAggregation):
        name = "proposing"

        def _parameters(self, *args):
            made = dataclasses.replace(super()._parameters(*args), **changed)
            if seen is not None:
                seen.append(made)
            return made

    registry = Quiet()
    plugin = type("Plugin", (), {"flctl_aggregators": staticmethod(flctl.hookimpl(lambda: [Proposing]))})
    registry.add(plugin(), "proposing")
    return registry


ENGINE = "engine={name: faulty, max_failures: 9}"


class PlainFaulty(Faulty):
    def exchange(self, requests, deadline=None):
        for client, answer in InProcessEngine.exchange(self, requests, deadline):
            yield client, Failure("exception", "lost") if client in ("1", "4") else answer


@pytest.fixture(scope="module")
def two_fewer(trial):
    """The model after a plain round without clients 1 and 4."""
    engine = type("Scripted", (PlainFaulty,), {"name": "faulty", "gathers": False})
    plugin = type("Plugin", (), {"flctl_engines": staticmethod(flctl.hookimpl(lambda: [engine]))})
    registry = Quiet()
    registry.add(plugin(), "faulty")
    return trial.train("rounds=1", ENGINE, registry=registry)


@pytest.mark.parametrize("mode", ["hbc", "active"])
@pytest.mark.parametrize("kind", [frames.HELLO, frames.KEYS, frames.DELIVER])
def test_clients_that_die_before_their_vector_is_there_are_not_in_the_sum(trial, two_fewer, mode, kind):
    registry = faulty({(kind, 1): ("1", "4")}, "worker-died")
    masked = trial.train(
        "rounds=1", f"aggregator={{name: secagg, mode: {mode}, max_weight: 19}}", ENGINE, registry=registry
    )
    np.testing.assert_allclose(masked.weights, two_fewer.weights, atol=1e-5)
    assert notes_of(masked) == []


@pytest.mark.parametrize("kind", [frames.SURVIVORS, frames.UNMASK])
def test_clients_that_are_late_after_their_vector_is_there_are_in_the_sum(trial, kind):
    registry = faulty({(kind, 1): ("1", "4")}, "deadline")
    chosen = ("rounds=1", "aggregator={name: secagg, mode: active, max_weight: 19}")
    masked = trial.train(*chosen, ENGINE, registry=registry)
    plain = trial.train("rounds=1", "engine=inprocess")
    np.testing.assert_allclose(masked.weights, plain.weights, atol=1e-5)


def test_an_attempt_that_loses_too_many_is_made_again_with_those_who_are_there(trial, two_fewer):
    """In active mode 8 neighbours of whom 6 must answer: three losses end the attempt, and the next one has six."""
    registry = faulty({(frames.DELIVER, 1): ("1", "4", "7")})
    masked = trial.train("rounds=1", "aggregator={name: secagg, mode: active}", ENGINE, registry=registry)
    (note,) = notes_of(masked)
    assert note.startswith("attempt 1 of secure aggregation failed: client '0' has 5 remaining neighbours")
    line = json.loads((masked.directory / "metrics.jsonl").read_text())
    assert line["answered"] == 6


def test_a_round_that_cannot_be_saved_is_refused_and_never_summed_in_the_clear(trial):
    everybody = {(frames.DELIVER, number): tuple("01234") for number in (1, 2)}
    with pytest.raises(ProtocolError, match="round 1: ") as caught:
        trial.train("rounds=1", "aggregator=secagg", ENGINE, registry=faulty(everybody))
    assert caught.value.exit_code == 3


def test_one_failure_more_than_is_allowed_ends_the_run_as_elsewhere(trial):
    engine = "engine={name: faulty, max_failures: 1}"
    with pytest.raises(RoundFailedError):
        trial.train("rounds=1", "aggregator=secagg", engine, registry=faulty({(frames.HELLO, 1): ("1", "4")}))


def test_a_client_that_refuses_ends_the_run_as_a_refusal(trial):
    """Clients insist on five of them, and so they do after the server has proposed two."""
    with pytest.raises(ProtocolError, match=r"client '0' failed \(refused\): .*the policy needs 5") as caught:
        trial.train("rounds=1", "aggregator=proposing", "engine=inprocess", registry=proposing(minimum=2))
    assert caught.value.exit_code == 3


def test_the_deadline_is_part_of_what_clients_agree_on(trial):
    proposed = []
    engine = "engine={name: inprocess, deadline: 90}"
    trial.train("rounds=1", "aggregator=proposing", engine, registry=proposing(proposed))
    assert [parameters.deadline for parameters in proposed] == [90.0]


def test_values_beyond_the_clip_are_told_and_refused_if_they_are_many(trial):
    chosen = ("engine=inprocess", "rounds=1")
    masked = trial.train("aggregator={name: secagg, clip: 0.025}", *chosen)
    (note,) = notes_of(masked)
    assert note.endswith("of 9 clients clipped values or their weight (aggregator.clip)")
    with pytest.raises(ProtocolError, match=r"values of 'delta' exceed the clip, at most 5% may"):
        trial.train("aggregator={name: secagg, clip: 0.001}", *chosen)


def lose_one_in_round_2():
    return faulty({(frames.DELIVER, 2): ("4",)})


def test_survivors_of_which_one_is_missing_are_told(trial):
    warned = trial.train("rounds=2", "aggregator=secagg", ENGINE, registry=lose_one_in_round_2())
    assert notes_of(warned) == ["the sums of the rounds so far reveal the update, or a combination, of '4'"]
    allowed = "aggregator={name: secagg, differing: allow}"
    assert notes_of(trial.train("rounds=2", allowed, ENGINE, registry=lose_one_in_round_2())) == []


@pytest.mark.parametrize("options", ["mode: active", "differing: refuse"])
def test_a_round_that_misses_one_client_is_made_again_without_two_more(trial, options):
    """Refused before the list of survivors is fixed; two clients more stay out, so that no sum gives one's update."""
    masked = trial.train("rounds=2", f"aggregator={{name: secagg, {options}}}", ENGINE, registry=lose_one_in_round_2())
    (note,) = notes_of(masked)
    assert "this sum would reveal the update, or a combination, of ('4',)" in note
    lines = [json.loads(text) for text in (masked.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["answered"] for line in lines] == [9, 6]


def test_cohorts_so_many_that_their_sums_give_each_update_are_refused_before_the_run(trial):
    chosen = ("aggregator={name: secagg, mode: active}", "cohort.sampling=fixed", "cohort.clients=6", "rounds=12")
    with pytest.raises(IncompatibleError, match="a client takes part in 8, and 8 different sums are enough"):
        trial.prepare(*chosen)
    trial.prepare(*chosen, "aggregator.differing=warn")
    trial.prepare(*chosen[:3], "rounds=11")


def test_a_run_that_was_cut_off_goes_on(trial):
    chosen = ("aggregator=secagg", "engine=inprocess")
    np.testing.assert_allclose(trial.train_in_two(*chosen).weights, trial.train(*chosen).weights, atol=1e-5)


def test_a_round_that_was_summed_and_lost_is_played_again_with_the_same_clients(trial):
    """As after a kill between the sum and the checkpoint: the clients' record has the round, and they answer again."""
    from flctl.server.rounds import Rounds

    run, _ = trial.prepare("aggregator=secagg", "engine=inprocess", "rounds=1")
    with InProcessEngine().open(run) as engine:
        played = [Rounds(run, engine).play(Rounds(run, engine).initial(), last=lambda _: True)[0] for _ in range(2)]
    one, two = (state.params["params"] for state in played)
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_keys_are_readable_by_their_owner_alone_and_nothing_secret_is_in_a_run(trial):
    masked = trial.train("aggregator={name: secagg, mode: active, transcript: true}", "engine=inprocess")
    home = masked.directory / "secagg"
    for name in ("simulation.key", "operator.key", "ledger.sqlite"):
        assert (home / name).stat().st_mode & 0o077 == 0
    secret = (home / "simulation.key").read_text().strip()
    raw = bytes.fromhex(secret)
    for path in masked.directory.rglob("*"):
        if path.is_file() and path.suffix != ".key":
            data = path.read_bytes()
            assert secret.encode() not in data, path
            assert raw not in data, path
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home / "transcripts").iterdir())


def test_metrics_of_single_clients_are_not_told(trial):
    masked = trial.train("aggregator=secagg", "engine=inprocess", "rounds=1")
    line = json.loads((masked.directory / "metrics.jsonl").read_text())
    assert line["loss"] is None
    assert line["examples"] == 0
    assert line["answered"] == 9


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("aggregator=secagg", "cohort.sampling=fixed", "cohort.clients=4"), "needs at least 5 clients"),
        (("aggregator={name: secagg, threshold: 3}",), "aggregator.threshold is 3, expected 5 to 8"),
        (("aggregator={name: secagg, neighbours: 4}",), "aggregator.neighbours is 4"),
        (("aggregator=secagg", "strategy=fedmedian"), "reads each client's update"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_run(trial, overrides, said):
    with pytest.raises(IncompatibleError, match=said):
        trial.prepare(*overrides)


@pytest.mark.parametrize("bad", ["bits: 31", "minimum: 2", "neighbours: 5", "mode: none", "clip: 0", "corrupt: 0.6"])
def test_options_out_of_bounds_are_refused(trial, bad):
    with pytest.raises(flctl.ConfigError):
        trial.prepare(f"aggregator={{name: secagg, {bad}}}")


@pytest.mark.slow
def test_a_failed_secure_sum_ends_the_command_with_exit_code_3(trial, tmp_path):
    """A cohort that is drawn by chance falls below the minimum."""
    command = [sys.executable, "-c", "from flctl.cli import main; main()", "train", str(trial.partition.path)]
    chosen = ["--aggregator", "secagg", "-o", "cohort.sampling=poisson", "-o", "cohort.rate=0.6", "--rounds", "30"]
    done = subprocess.run(
        [*command, *chosen, "--model", "logreg", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert "aggregator.minimum is" in done.stderr, done.stderr
    assert done.returncode == 3


def test_clients_count_alike_in_active_mode_unless_weights_are_asked_for(trial):
    counts = trial.partition.counts[:, 0]
    for options, expected in (("mode: active", 1), ("mode: active, max_weight: 19", 19), ("mode: hbc", counts.max())):
        run, _ = trial.prepare(f"aggregator={{name: secagg, {options}}}")
        assert run.aggregator.encoding(9, run.update_layout).max_weight == expected
        assert run.aggregator.weights_equal is bool(expected == 1)
    with pytest.raises(IncompatibleError, match="scaffold weights clients by their rows, and aggregator 'secagg'"):
        trial.prepare("aggregator={name: secagg, mode: active}", "strategy=scaffold")
    trial.prepare("aggregator={name: secagg, mode: active}", "strategy={name: scaffold, weighted: false}")


def test_the_plugin_is_found_by_its_name():
    assert Registry().get("aggregator", "secagg") is SecureAggregation


def test_words_of_a_shared_scale_are_summed_as_they_are(trial):
    """Quantised updates are whole numbers already, which each client counts with once: two masked runs add the same
    ones, and differ in nothing."""
    chosen = ("transforms={quantise: {bits: 8}}", "engine=inprocess", "aggregator={name: secagg, max_weight: 1}")
    one, other = trial.train(*chosen), trial.train(*chosen, "aggregator.bits=24")
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)


def test_a_client_s_work_can_be_repeated_and_the_record_stays_as_it_is(trial, capsys):
    from flctl.cli.runs.replay import replay_client

    masked = trial.train("aggregator=secagg", "engine=inprocess")
    ledger = masked.directory / "secagg" / "ledger.sqlite"
    before = sorted((path.name, path.stat().st_size) for path in ledger.parent.iterdir())
    found = replay_client(masked.directory, 2, "3", disclose=True)
    assert (found["failed"], found["in_cohort"]) == (None, True)
    assert found["loss"] > 0
    assert "repeating without aggregator 'secagg'" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_size) for path in ledger.parent.iterdir()) == before


@pytest.mark.parametrize(
    "chosen", ["devices.stragglers=0.4", "devices.availability=0.8", "transforms.clip={norm: 1.0}"]
)
def test_simulated_devices_and_clipped_norms_give_the_plain_run_s_model(trial, chosen):
    """Stragglers answer without a vector: they are mended as dropouts, or a second session is held without them."""
    plain, masked = (trial.train(chosen, f"aggregator={name}", "engine=inprocess") for name in ("plain", "secagg"))
    np.testing.assert_allclose(masked.weights, plain.weights, atol=1e-4)


def test_noise_covers_what_rounding_adds(trial):
    """Clipping leaves room for as much as the aggregator may round, and weights that all count once make it finer."""
    pytest.importorskip("flctl_dp", reason="the plugin flctl-dp is not installed")
    chosen = (
        'transforms={"dp": {"clipping_norm": 0.5, "insecure_seed": 7}}',
        "engine=inprocess",
        "cohort.sampling=all",
    )
    for bits in (20, 32):
        run, _ = trial.prepare(*chosen, "aggregator=secagg", f"aggregator.bits={bits}", "aggregator.clip=0.5")
        transform = run.transforms["dp"]
        encoding = run.aggregator.encoding(9, {**run.update_layout, "weight": 1})
        assert encoding.max_weight == 1
        assert run.aggregator.rounding(run) == 10 * encoding.rounding > 0
        init = transform.init(run.update_layout)
        before, begun = (float(state["bound"][0]) for state in (init, transform.begin(init, StartContext(1, run))))
        assert before - begun == pytest.approx(run.aggregator.rounding(run), rel=1e-6)
    with pytest.raises(ConfigError, match="more than half of the clipping norm"):
        trial.prepare(*chosen, "aggregator=secagg", "aggregator.bits=16", "aggregator.clip=8")


def test_differential_privacy_goes_with_it(trial):
    pytest.importorskip("flctl_dp", reason="the plugin flctl-dp is not installed")
    chosen = ('transforms={"dp": {"noise_multiplier": 1e-6}}', "engine=inprocess", "cohort.sampling=all")
    plain, masked = (trial.train(*chosen, f"aggregator={name}") for name in ("plain", "secagg"))
    np.testing.assert_allclose(masked.weights, plain.weights, atol=1e-3)
