"""Distributed privacy in secure aggregation: what clients send, what their sum holds, what is refused, whole runs."""

import json
import math
from contextlib import suppress

import numpy as np
import pytest
from flctl import (
    RING,
    ClientContext,
    ClientUpdate,
    FlctlError,
    IncompatibleError,
    ProtocolError,
    SharedContext,
)
from flctl.server.training import train
from flctl.testing import check_transform, parts
from flctl.testing.trial import Trial
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flctl_dp.accounting.summed_release import SummedRelease
from flctl_dp.ledgers.ledger import LedgerFile
from flctl_dp.mechanisms import distributed
from flctl_dp.mechanisms.distributed import DistributedDP

VECTOR = "turned" + RING
SECAGG = ("aggregator=secagg", "aggregator.bits=20")
needs_secagg = pytest.mark.usefixtures("secagg")


@pytest.fixture
def secagg():
    pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path, "rounds=3", "checkpoint.seconds=0", "checkpoint.every=1")


def dp(**options):
    return f"transforms.dp-distributed={json.dumps({'noise_multiplier': 2.0, **options})}"


def losing(*lost, since=1):
    named = f"{{name: '{parts.here('Losing')}', max_failures: 9, lost: {list(lost)}, since: {since}}}"
    return f"engine={named}"


def context(transform, layout, survivors=7, largest=10, noise=None, **shared):
    broadcast = {
        "noise": np.array([noise or transform.config.noise_multiplier]),
        "survivors": np.array([survivors]),
        "largest": np.array([largest]),
    }
    both = SharedContext(1, layout, broadcast, 5, **shared)
    return ClientContext(1, "a", broadcast, np.random.default_rng(0), shared=both)


def made(**options):
    return DistributedDP.from_options({"noise_multiplier": 2.0, **options})


def test_it_keeps_the_contract_of_transforms():
    """Over the plain sum, and one that hides; by an insecure seed, which claims nothing."""
    check_transform(DistributedDP, processes=False)


@pytest.mark.slow
def test_it_keeps_the_contract_of_transforms_in_worker_processes():
    check_transform(DistributedDP, {"noise_multiplier": 0.05, "insecure_seed": 7, "mechanism": "skellam"})


hostile = st.one_of(
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 1e-45, 3.4e38, -3.4e38, math.nan, math.inf, -math.inf]),
)


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=hostile),
    hnp.arrays(np.float64, 3, elements=st.floats()),
    st.floats(1e-3, 1e3),
    st.sampled_from([12, 20, 32]),
)
def test_no_update_moves_the_sum_by_more_than_is_accounted(delta, control, clip, bits):
    """Over all vectors together, whatever they hold, once the noise is taken away: in whole numbers, exactly."""
    transform = made(clipping_norm=clip, bits=bits)
    ctx = context(transform, {"delta": delta.size, "control": 3})
    release = transform._release(ctx.broadcast, delta.size + 3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "drawn_share", lambda *given: np.zeros(given[-1], np.int64))
        sent = transform.on_client(ClientUpdate("a", {"delta": delta, "control": control}, 31.0), ctx)
    assert (list(sent.arrays), sent.weight) == ([VECTOR], 1.0)
    assert sum(int(value) ** 2 for value in sent.arrays[VECTOR]) <= release.reach


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
def test_without_noise_the_sum_comes_back_within_what_rounding_adds(size, seed):
    """Three clients within the norm: an error of at most a cell for each in every value that was turned."""
    transform, rng = made(clipping_norm=5.0, bits=24), np.random.default_rng(seed)
    layout = {"delta": size, "control": 2}
    ctx = context(transform, layout)
    updates = [{name: rng.normal(size=n) / math.sqrt(size + 2) for name, n in layout.items()} for _ in range(3)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "drawn_share", lambda *given: np.zeros(given[-1], np.int64))
        sent = [transform.on_client(ClientUpdate("a", update, 1.0), ctx).arrays[VECTOR] for update in updates]
    found = transform.decode({VECTOR: np.sum(sent, axis=0)}, ctx.shared)
    release = transform._release(ctx.broadcast, size + 2)
    cell = 5.0 / release.clip
    assert list(found) == ["delta", "control"]
    wrong = [found[name] - sum(update[name] for update in updates) for name in layout]
    assert math.hypot(*np.concatenate(wrong)) <= 3 * cell * math.sqrt(release.dimension) + 1e-5


def noise_of(transform, count, size=1 << 16):
    """The sum of `count` clients' noise, decoded, and in cells."""
    layout = {"delta": size}
    ctx = context(transform, layout)
    update = ClientUpdate("a", {"delta": np.zeros(size, np.float32)}, 1.0)
    total = sum(transform.on_client(update, ctx).arrays[VECTOR] for _ in range(count))
    return transform.decode({VECTOR: total}, ctx.shared)["delta"], total


@pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
@pytest.mark.parametrize("bits", [12, 20])
def test_the_fewest_survivors_make_the_noise_that_is_accounted(mechanism, bits):
    """7 of up to 10 clients, 2^16 values: the deviation is z C = 6 to within 2 %, seven of its own deviations; and in
    cells 7 times the variance of one share, as the release says."""
    transform = made(clipping_norm=3.0, mechanism=mechanism, bits=bits)
    decoded, cells = noise_of(transform, 7)
    assert decoded.std() == pytest.approx(6.0, rel=0.02)
    release = transform._release({"noise": [2.0], "survivors": [7], "largest": [10]}, 1 << 16)
    assert cells.var() == pytest.approx(7 * release.variance, rel=0.04)


def test_more_survivors_make_more_noise_and_colluding_ones_are_made_up_for():
    """Ten of ten, sqrt(10 / 7) a first run would need. With two of the seven colluding the other five make z C = 6."""
    assert noise_of(made(clipping_norm=3.0), 10)[0].std() == pytest.approx(6.0 * math.sqrt(10 / 7), rel=0.02)
    assert noise_of(made(clipping_norm=3.0, colluding=2), 5)[0].std() == pytest.approx(6.0, rel=0.02)


def test_noise_comes_from_the_operating_system():
    """Equal contexts, other noise: neither the run's generator nor the shared seed has a say in it."""
    one, other = (noise_of(made(), 1, 64)[1] for _ in range(2))
    assert not np.array_equal(one, other)
    one, other = (noise_of(made(insecure_seed=3), 1, 64)[1] for _ in range(2))
    assert np.array_equal(one, other)


def test_clients_hold_the_server_to_their_own_options():
    update = ClientUpdate("a", {"delta": np.zeros(4, np.float32)}, 1.0)
    strict = made(survivors=7)
    with pytest.raises(ProtocolError, match=r"requests the noise multiplier 1\.9"):
        strict.on_client(update, context(strict, {"delta": 4}, noise=1.9))
    with pytest.raises(ProtocolError, match="expects the noise of 8"):
        strict.on_client(update, context(strict, {"delta": 4}, survivors=8))
    strict.on_client(update, context(strict, {"delta": 4}, survivors=6, noise=2.1))


@needs_secagg
@pytest.mark.parametrize("bits", [16, 20, 24, 32, 64])
def test_the_sum_of_whole_numbers_is_exact_through_secure_aggregation(trial, monkeypatch, bits):
    """What the server decodes is the sum of what clients sent, number by number, and no client's noise was cut."""
    sent, summed = [], []
    on_client, decode = DistributedDP.on_client, DistributedDP.decode
    monkeypatch.setattr(
        DistributedDP, "on_client", lambda *given: sent.append(on_client(*given).arrays[VECTOR]) or on_client_last(sent)
    )
    monkeypatch.setattr(DistributedDP, "decode", lambda s, v, c: summed.append(v[VECTOR]) or decode(s, v, c))

    def on_client_last(sent):
        return ClientUpdate("a", {VECTOR: sent[-1]}, 1.0)

    options = dp(bits=min(bits, 32), noise_multiplier=0.5)
    train(*trial.prepare(options, "aggregator=secagg", f"aggregator.bits={bits}", "rounds=1", "engine=inprocess"))
    (found,) = summed
    assert found.dtype == np.int64
    assert len(sent) == 9
    np.testing.assert_array_equal(found, np.sum(sent, axis=0))


@needs_secagg
def test_a_run_says_what_is_guaranteed_of_what_and_by_whom(trial):
    result = train(*trial.prepare(dp(mechanism="skellam", colluding=1), *SECAGG, "aggregator.minimum=7"))
    said = result.summary["transforms"]["dp-distributed"]
    told = said["statement"]
    for part in (
        "client level, zero-out, distributed Skellam in sums of 20 bits",
        "minimum survivors 7 of up to 9, 1 of them colluding, without a trusted server",
        "server, z=2 T=3, RDP, against the server",
        "evaluations not covered",
    ):
        assert part in told
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    expected = SummedRelease(
        noise_multiplier=2.0, cohort=9, survivors=7, colluding=1, dimension=16, bits=20, mechanism="skellam"
    )
    assert dict(ledger.releases()) == {expected: 3}
    assert ledger.relation == "zero-out"


@needs_secagg
def test_exactly_the_minimum_of_survivors_is_enough(trial):
    run, directory = trial.prepare(dp(), *SECAGG, "aggregator.minimum=7", losing("0", "3"), "rounds=1")
    assert train(run, directory).status == "finished"
    assert json.loads((directory.path / "metrics.jsonl").read_text().splitlines()[0])["answered"] == 7


@needs_secagg
def test_with_fewer_survivors_the_round_comes_to_nothing_and_is_charged(trial):
    """Round 2 loses three of nine clients, and seven are the fewest: exit code 3, the model of round 1 kept, two
    charges."""
    run, directory = trial.prepare(dp(), *SECAGG, "aggregator.minimum=7", losing("0", "3", "5", since=2))
    with pytest.raises(ProtocolError, match="7 are needed") as failed:
        train(run, directory)
    assert failed.value.exit_code == 3
    assert directory.checkpoints.rounds()[-1] == 1
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    assert [charge.round for charge in ledger.charges] == [1, 2]


@needs_secagg
def test_a_round_that_is_tried_again_has_new_noise_and_one_charge(trial, monkeypatch):
    """The first session of the round loses too many clients before they send, and comes to nothing; those who are left
    hold another, against a server that may lie."""
    sent, on_client = [], DistributedDP.on_client

    def or_gone(self, update, ctx):
        if ctx.client_id in ("0", "3", "5"):
            raise FlctlError("gone")
        made = on_client(self, update, ctx)
        sent.append((ctx.client_id, made.arrays[VECTOR]))
        return made

    monkeypatch.setattr(DistributedDP, "on_client", or_gone)
    settings = ("aggregator.minimum=6", "aggregator.mode=active", "engine={name: inprocess, max_failures: 9}")
    result = train(*trial.prepare(dp(), *SECAGG, *settings, "rounds=1"))
    assert result.status == "finished"
    charges = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read().charges
    assert len(charges) == 1
    tries = [vector for client, vector in sent if client == "1"]
    assert len(tries) == 2
    assert not np.array_equal(*tries)


@needs_secagg
@pytest.mark.parametrize("cohort", [("cohort.sampling=poisson", "cohort.rate=0.9"), ("cohort.clients=8",)])
def test_drawn_cohorts_gain_nothing_and_are_held_to_the_minimum(trial, cohort):
    """A round of a Poisson cohort has between zero and nine clients here; below four it is refused."""
    with suppress(ProtocolError):
        train(*trial.prepare(dp(), *SECAGG, "aggregator.minimum=4", *cohort))
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    (release,) = ledger.releases()
    assert (release.sampling, release.survivors, release.cohort) == ("unsampled", 4, 8 if len(cohort) == 1 else 9)


@needs_secagg
def test_the_noise_for_a_target_is_found_and_the_budget_kept(trial):
    options = dp(noise_multiplier=None, target_epsilon=6.0)
    said = train(*trial.prepare(options, *SECAGG)).summary["transforms"]["dp-distributed"]
    assert 5.9 < said["epsilon"] <= 6.0
    over = train(*trial.prepare(dp(target_epsilon=6.0), *SECAGG))
    assert (over.status, over.rounds) == ("budget", 0)


@needs_secagg
def test_noise_is_drawn_only_when_its_charge_is_on_disk(trial, monkeypatch):
    file, seen, real = LedgerFile(trial.partition.path / "privacy-ledger.jsonl"), [], distributed.drawn_share
    monkeypatch.setattr(distributed, "drawn_share", lambda *args: seen.append(len(file.read().charges)) or real(*args))
    train(*trial.prepare(dp(), *SECAGG, "engine=inprocess"))
    assert seen == [1] * 9 + [2] * 9 + [3] * 9


@needs_secagg
def test_a_run_that_is_cut_and_resumed_pays_for_each_round_that_it_plays(trial):
    """Killed after the charge of round 2 and before its noise; the resumed run pays for round 2 again."""
    run, directory = trial.prepare(dp(), *SECAGG, "engine=inprocess")

    def cut(*given):
        if len(LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read().charges) == 2:
            raise MemoryError("cut off")
        return real(*given)

    real = distributed.drawn_share
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distributed, "drawn_share", cut)
        with pytest.raises((MemoryError, FlctlError)):
            train(run, directory)
    assert train(run, directory).status == "finished"
    ledger = LedgerFile(trial.partition.path / "privacy-ledger.jsonl").read()
    assert [charge.round for charge in ledger.charges] == [1, 2, 2, 3]
    assert len({charge.run for charge in ledger.charges}) == 1


def test_sums_that_nobody_hides_are_refused(trial):
    for aggregator in ("plain", parts.here("Hiding")):
        with pytest.raises(IncompatibleError, match="noise of a single client is not sufficient"):
            trial.prepare(dp(), f"aggregator={aggregator}")


REFUSED = {
    "a code before it": (("transforms.topk={}", dp()), "sends a code|reads each"),
    "a transform after it": ((dp(), "transforms.clip={norm: 1.0}"), "could undo its clipping"),
    "a strategy that reads each": (("strategy=fedmedian", dp()), "reads each|combines"),
    "more survivors than are seen to": ((dp(survivors=9),), "publishes sums of 5"),
    "add-remove": ((dp(relation="add-remove"),), "removes its noise"),
    "words that are too narrow": ((dp(bits=24),), "sums words of 20 bits"),
    "a sum that words cannot hold": ((dp(bits=8, noise_multiplier=0.01),), "too small for sums"),
    "nobody who keeps its noise": ((dp(colluding=5),), "5 of them reveal"),
    "a delta that allows to publish a client": ((dp(target_delta=0.2),), "publishing one"),
}


@needs_secagg
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_meaningless_is_refused(trial, what):
    overrides, said = REFUSED[what]
    with pytest.raises(FlctlError, match=said) as failed:
        trial.prepare(*SECAGG, *overrides)
    assert failed.value.exit_code in (2, 3)


@needs_secagg
def test_a_lattice_that_rounding_spoils_is_refused(trial):
    """Huge noise on few bits: the clipping norm is less than a cell, and rounding adds half a cell in each value."""
    with pytest.raises(IncompatibleError, match="lattice is so coarse"):
        trial.prepare(*SECAGG, dp(bits=10, noise_multiplier=100.0))


def test_an_insecure_seed_claims_nothing(trial):
    said = train(*trial.prepare(dp(insecure_seed=3))).summary["transforms"]["dp-distributed"]
    assert said["epsilon"] is None, "infinity, as JSON has it"
    assert "there is no privacy" in said["statement"]
