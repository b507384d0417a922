"""A server that isolates one client's update by the work that it asks of the others: real clients, through bytes.

In active mode, without a colluder; each attack gave one client's update as the sum before all of the work was bound
into the session (Pasquini et al. 2022 do it with models, these with the rest of the work).
"""

import dataclasses
import json
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from flctl_secagg import aggregator
from flctl_secagg.client.local_bounds import LocalBounds
from flctl_secagg.client.policy import Policy
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.asked_work import AskedWork, work_digest
from flctl_secagg.run_limits import require_coarse_clip
from secagg_support import AttemptError, attempt_of, cohort_of, vectors

import flctl
from flctl import IncompatibleError, LocalWork, ProtocolError, Work
from flctl.engines.inprocess import InProcessEngine
from flctl.testing.trial import Quiet, Trial
from flctl.types import Allowance

VICTIM = "4"


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), "model=mlp", "rounds=1")


def lying(change):
    """A registry whose engine asks other work of all clients but the victim."""

    class Lying(InProcessEngine):
        name = "lying"

        @contextmanager
        def open(self, run):
            self.partition = run.partition
            with super().open(run):
                yield self

        def exchange(self, requests, deadline=None):
            changed = {
                client: dataclasses.replace(request, work=change(request.work, self.partition), chunk=None)
                if request.work is not None and client != VICTIM
                else request
                for client, request in requests.items()
            }
            return super().exchange(changed, deadline)

    registry = Quiet()
    plugin = type("Plugin", (), {"flctl_engines": staticmethod(flctl.hookimpl(lambda: [Lying]))})
    registry.add(plugin(), "lying")
    return registry


def local(**changes):
    return lambda work, partition: dataclasses.replace(work, local=dataclasses.replace(work.local, **changes))


def no_step(work, partition):
    numbers = np.arange(len(partition.client_ids), dtype=np.int64)
    return dataclasses.replace(work, allowance=Allowance(numbers, np.zeros_like(numbers)))


ATTACKS = {
    "a learning rate of nothing": local(lr=1e-30),
    "no step": local(steps=0),
    "no epoch": local(epochs=0),
    "decay that undoes it": local(weight_decay=0.5),
    "a batch that nobody fills": local(batch_size=1000, drop_last=True),
    "no allowance": no_step,
    "another round": lambda work, partition: dataclasses.replace(work, round=work.round + 1),
    "another layout": lambda work, partition: dataclasses.replace(work, layout={**work.layout, "more": 0}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_clients_that_are_asked_other_work_than_the_victim_send_nothing(trial, name):
    chosen = ("aggregator={name: secagg, mode: active}", "engine={name: lying, max_failures: 9}")
    with pytest.raises(ProtocolError) as caught:
        trial.train(*chosen, registry=lying(ATTACKS[name]))
    assert "1 of 9 clients sent a masked vector" in caught.value.message or "client was asked" in caught.value.message


def test_a_batch_that_the_victim_alone_fills_isolates_nobody(trial):
    """Equal work for all: with drop_last only the client with the most rows makes a step, and the others' zeros hide
    nothing. They do not answer."""
    largest = int(trial.partition.counts[:, 0].max())
    chosen = ("aggregator={name: secagg, mode: active}", "engine={name: inprocess, max_failures: 9}")
    with pytest.raises(ProtocolError, match="1 of 9 clients sent a masked vector"):
        trial.train(*chosen, f"local.batch_size={largest}", "local.drop_last=true")


def test_a_client_without_an_example_does_not_count_among_the_survivors():
    cohort = cohort_of(6)
    cohort.vectors["c02"]["weight"] = np.zeros(1)
    unmasked = cohort.play(attempt_of(cohort))
    assert "c02" not in unmasked.survivors
    assert "this client has weight 0" in cohort.refusals["c02"].message


def test_a_client_whose_update_is_zero_does_not_count_either():
    cohort = cohort_of(6)
    cohort.vectors["c02"] |= {name: np.zeros_like(cohort.vectors["c02"][name]) for name in ("delta", "buffers")}
    assert "c02" not in cohort.play(attempt_of(cohort)).survivors


def rare_class(ratio, **asked):
    """Six clients of which only c02 has rows of the class with the largest weight: the others' gradients are `ratio`
    times smaller."""
    cohort = cohort_of(6, asked=lambda name: AskedWork(1, work_digest(None), LocalWork(), class_ratio=ratio, **asked))
    for name in set(cohort.names) - {"c02"}:
        cohort.vectors[name]["delta"] /= np.float32(ratio)
    return cohort, cohort.vectors["c02"]["delta"]


def test_tiny_class_weights_isolate_the_only_client_with_a_class_among_clients_that_do_not_look(monkeypatch):
    """The attack that the next tests refuse: equal work for all."""
    monkeypatch.setattr(LocalBounds, "check", lambda *given: None)
    cohort, victim = rare_class(1e5)
    attempt = attempt_of(cohort, mode="active")
    found = attempt.session.encoding.decode(cohort.play(attempt).words, 6).arrays["delta"]
    assert np.linalg.norm(found - victim) < 1e-3 * np.linalg.norm(victim)


def test_clients_refuse_class_weights_of_different_magnitudes():
    cohort, _ = rare_class(1e5)
    with pytest.raises(AttemptError, match="0 of 6 clients sent a masked vector"):
        cohort.play(attempt_of(cohort, mode="active"))
    said = "policy: local.class_weights has weights with the ratio 100000, expected at most 10"
    assert {error.message for error in cohort.refusals.values()} == {said}


EXTREME = ["{a: 1e-5, b: 1e-5}", "{a: 0, b: 0}", "{a: 1e-5, b: 1e-5, c: 1e-5}", "{a: 0.2, c: 3}", "{c: 11}"]


@pytest.mark.parametrize("weights", EXTREME)
def test_class_weights_of_different_magnitudes_are_refused_before_the_run(trial, weights):
    with pytest.raises(IncompatibleError, match=r"local\.class_weights has weights with the ratio"):
        trial.prepare("aggregator={name: secagg, mode: active}", f"local.class_weights={weights}")


def test_class_weights_within_the_ratio_are_prepared(trial):
    for weights in ("{a: 0.5, c: 5}", "balanced-per-client"):
        trial.prepare("aggregator={name: secagg, mode: active}", f"local.class_weights={weights}")


def test_clients_of_a_server_that_does_not_check_class_weights_send_nothing(trial, monkeypatch):
    monkeypatch.setattr(aggregator, "require_even_classes", lambda run: None)
    chosen = ("aggregator={name: secagg, mode: active}", "engine={name: inprocess, max_failures: 9}")
    with pytest.raises(ProtocolError, match="0 of 9 clients sent a masked vector"):
        trial.train(*chosen, "local.class_weights={a: 1e-5, b: 1e-5}")


def test_class_weights_are_bound_into_the_session(trial):
    built = [trial.prepare("aggregator=secagg", f"local.class_weights={{c: {weight}}}")[0] for weight in (2, 3)]
    assert len({run.aggregator._config for run in built}) == 2


def test_an_update_of_zero_with_a_count_of_steps_does_not_count_either():
    """As fednova sends it without a gradient: the count is not zero."""
    layout = (("delta", 40), ("tau", 1))
    cohort = cohort_of(6)
    cohort.vectors = vectors(cohort.names, layout=layout)
    cohort.vectors["c02"]["delta"][:] = 0
    assert "c02" not in cohort.play(attempt_of(cohort, layout=layout)).survivors
    assert "this client's update is zero" in cohort.refusals["c02"].message


@pytest.mark.parametrize("decay", [1e-3, 0.5])
def test_an_update_of_weight_decay_alone_does_not_count_either(decay):
    """A client without a gradient sends a multiple of the model, which the server knows and subtracts."""
    local, model = LocalWork(weight_decay=decay), np.random.default_rng(1).normal(size=40).astype(np.float32)
    asked = AskedWork(1, work_digest(None), local, params={"params": model})
    cohort = cohort_of(6, asked=lambda name: asked)
    left = model
    for _ in range(3):
        left = left * np.float32(1 - local.lr * decay)
    vector = cohort.vectors["c02"]
    vector["delta"] = (left - model) * np.float32(vector["weight"][0])
    assert len(cohort.play(attempt_of(cohort)).survivors) == 5
    assert "this client's update is weight decay alone" in cohort.refusals["c02"].message


@pytest.mark.parametrize("bounded", [True, False])
def test_a_bounded_client_is_not_told_from_the_others_by_its_clipped_values(bounded):
    """Under differential privacy, a refusal or a count of clipped values would depend on one client's data."""
    cohort = cohort_of(6, policy=Policy(minimum=3, corrupt=0.0, dropped=0.0, bounded=bounded))
    for name in cohort.names:
        cohort.vectors[name]["weight"] = np.ones(1)
        cohort.vectors[name]["delta"] = np.full(40, 9.0 if name == "c02" else 0.1, np.float32)
    attempt = attempt_of(cohort, max_weight=1.0)
    unmasked = cohort.play(attempt)
    assert ("c02" in unmasked.survivors) == bounded
    assert attempt.session.encoding.decode(unmasked.words, len(unmasked.survivors)).clipped == 0
    assert list(cohort.refusals) == ([] if bounded else ["c02"])


def bounding(**changes):
    transform = SimpleNamespace(**{"bounds_clients": True, "whole": False, **changes})
    transform.config = SimpleNamespace(clipping_norm=1.0)
    return SimpleNamespace(transforms={"dp": transform})


def test_a_clip_below_the_norm_of_bounded_clients_is_refused():
    with pytest.raises(IncompatibleError, match=r"0\.06, below transforms\.dp\.clipping_norm") as caught:
        require_coarse_clip(bounding(), 0.06)
    assert "-o aggregator.clip=1" in caught.value.hint
    require_coarse_clip(bounding(), 1.0)
    require_coarse_clip(bounding(whole=True), 0.06)


def test_a_learning_rate_of_zero_for_all_isolates_nobody():
    """A schedule that ends at 0: all updates are zero, and the round goes on."""
    asked = AskedWork(1, work_digest(None), LocalWork(lr=0.0))
    policy = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, local=LocalBounds(lr=(0.0, 1.0)))
    cohort = cohort_of(6, asked=lambda name: asked, policy=policy)
    for vector in cohort.vectors.values():
        vector |= {name: np.zeros_like(vector[name]) for name in ("delta", "buffers")}
    assert len(cohort.play(attempt_of(cohort)).survivors) == 6


def test_a_request_of_another_round_than_the_session_is_refused():
    """In each phase: the round that the aggregator's context has is the session's."""
    cohort = cohort_of(6)
    attempt = attempt_of(cohort, round=3)
    played = type(cohort).play
    cohort.asked = lambda name: AskedWork(2, work_digest(None))
    cohort.request = cohort.asked
    with pytest.raises(AttemptError, match="0 of 6 clients advertised keys"):
        played(cohort, attempt)
    assert {error.message for error in cohort.refusals.values()} == {
        "a session of round 3 arrived with a request of round 2"
    }


def test_a_later_request_of_another_round_than_the_session_is_refused():
    cohort, late = cohort_of(6), set()

    def meddle(kind, name, message):
        late.add(name) if kind == frames.KEYS and name == "c02" else None
        return message

    cohort.meddle = meddle
    cohort.request = lambda name: AskedWork(2 if name in late else 1, work_digest(None))
    assert "c02" not in cohort.play(attempt_of(cohort)).survivors
    assert cohort.refusals["c02"].message == "a session of round 1 arrived with a request of round 2"


def test_a_request_asks_for_the_work_of_its_own_round():
    assert AskedWork.of(3, work()).digest == work_digest(work())
    with pytest.raises(ProtocolError, match="a request of round 2 has the work of round 3"):
        AskedWork.of(2, work())


def test_work_that_allows_some_clients_fewer_steps_is_refused_outside_of_a_simulation():
    number = np.arange(9, dtype=np.int64)
    asked = AskedWork.of(3, work(allowance=Allowance(number, number)))
    Policy(simulation=True).check_work(asked)
    with pytest.raises(ProtocolError, match="allows some clients fewer steps"):
        Policy().check_work(asked)
    limited = AskedWork(1, work_digest(None), limited=True)
    cohort = cohort_of(6, asked=lambda name: limited if name == "c02" else AskedWork(1, work_digest(None)))
    assert "c02" not in cohort.play(attempt_of(cohort)).survivors
    assert "allows some clients fewer steps" in cohort.refusals["c02"].message


def work(**changes) -> Work:
    values = {
        "round": 3,
        "params": {"params": np.arange(3, dtype=np.float32)},
        "extra": {"control": np.ones(2, np.float32)},
        "transforms": {"quantise": {"bound": np.ones(1, np.float32)}},
        "local": LocalWork(),
        "layout": {"delta": 3},
    }
    return Work(**{**values, **changes})


CHANGES = {
    "round": 4,
    "params": {"params": np.array([0, 1, 2.0000002], np.float32)},
    "extra": {"control": np.array([1, 1.0000001], np.float32)},
    "transforms": {"quantise": {"bound": np.array([2], np.float32)}},
    "layout": {"delta": 4},
    "ask": "evaluate",
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Work) if field.name != "allowance"])
def test_each_part_of_the_work_is_bound(name):
    """All fields of Work: one that is added needs a line in CHANGES, or it is none that differs here."""
    changes = CHANGES if name != "local" else {"local": LocalWork(lr=0.2)}
    assert work_digest(work(**{name: changes[name]})) != work_digest(work())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(LocalWork)])
def test_each_setting_of_local_training_is_bound(name):
    value = getattr(LocalWork(), name)
    other = {bool: True, str: "adam", type(None): 3}.get(type(value))
    changed = dataclasses.replace(LocalWork(), **{name: value + 1 if other is None else other})
    assert work_digest(work(local=changed)) != work_digest(work())


def test_the_digest_does_not_depend_on_the_order_of_vectors_or_on_the_wire():
    from flctl.wire.messages import pack_work, unpack_work

    many = work(params={"b": np.ones(2, np.float32), "a": np.zeros(1, np.float32)})
    turned = work(params=dict(reversed(many.params.items())))
    assert work_digest(many) == work_digest(turned) == work_digest(unpack_work(pack_work(many)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"params": {"a": np.zeros(2, np.float32)}}, {"params": {"a": np.zeros(1, np.float64)}}),
        ({"params": {"ab": np.zeros(1, np.float32)}}, {"params": {"a": np.zeros(1, np.float32)}}),
        ({"params": {"a": np.zeros((2, 3), np.float32)}}, {"params": {"a": np.zeros((3, 2), np.float32)}}),
        ({"params": {"a": np.zeros(2, np.float32)}}, {"params": {"a": np.zeros(2, np.int32)}}),
        (
            {"extra": {}, "transforms": {"x": {"v": np.zeros(1)}}},
            {"extra": {"v": np.zeros(1)}, "transforms": {"x": {}}},
        ),
    ],
)
def test_no_vector_can_be_taken_for_another(one, other):
    assert work_digest(work(**one)) != work_digest(work(**other))


def test_work_without_a_canonical_form_is_refused():
    with pytest.raises(ProtocolError, match="cannot be bound into a session"):
        work_digest(work(local=LocalWork(lr=float("nan"))))


def test_an_honest_run_in_active_mode_is_as_before(trial):
    result = trial.train("aggregator={name: secagg, mode: active}", "engine=inprocess")
    line = json.loads((result.directory / "metrics.jsonl").read_text())
    assert (line["answered"], line.get("notes", [])) == (9, [])
