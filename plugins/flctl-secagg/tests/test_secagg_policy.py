"""The client's own policy: a file beside its keys, which the options of a run only tighten."""

import dataclasses
import json

import pytest
from flctl_secagg.cli import commands
from flctl_secagg.client.local_bounds import LocalBounds, class_ratio
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.policy_file import POLICY, policy_text, read_policy
from flctl_secagg.identity.keys import identity_public, new_key
from secagg_support import attempt_of, cohort_of
from typer.testing import CliRunner

from flctl import ConfigError, IncompatibleError, IntegrityError, LocalWork, ProtocolError
from flctl.testing.trial import Trial

NAMES = [str(number) for number in range(9)]


def run(*arguments):
    result = CliRunner().invoke(commands.app, [*map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.output)["data"]


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("trial"), "model=mlp", "rounds=1", "engine=inprocess")


@pytest.fixture
def keys(tmp_path):
    run("keys", "init", tmp_path / "keys", *NAMES, "--operator")
    run("roster", "sign", tmp_path / "keys", "--run", "trial-1")
    return tmp_path / "keys"


def test_a_new_file_has_every_key_and_means_the_defaults(tmp_path):
    (tmp_path / POLICY).write_text(policy_text())
    assert read_policy(tmp_path / POLICY).policy == read_policy(tmp_path / "none").policy == Policy()
    assert set(read_policy(tmp_path / POLICY).origins.values()) == {POLICY}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("minimum = 2", "minimum: Input should be greater than or equal to 3"),
        ("minimun = 5", "minimun: Extra inputs are not permitted"),
        ("minimum = 5\nminimum = 3", "is not a policy: Cannot overwrite a value"),
        ("clip = 0.1\nclip_floor = 0.2", "clip is 0.1, below clip_floor 0.2"),
        ("bits = [31]", "bits has 31, expected some of 16, 20"),
        ("ciphers = []", "ciphers: Tuple should have at least 1 item"),
        ("operator = 'xyz'", "operator"),
        ("[local]\nsteps = [0, 5]", "steps begin at 0, expected at least 1 step"),
        ("[local]\nlr = [0.2, 0.1]", "lr is [0.2, 0.1], expected the smaller value first"),
        ("[local]\nclass_weights = 11", "class_weights: Input should be less than or equal to 10"),
        ("max_weight = nan", "max_weight: Input should be a finite number"),
    ],
)
def test_a_file_that_is_not_a_policy_is_refused_with_its_key(tmp_path, text, said):
    (tmp_path / POLICY).write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_policy(tmp_path / POLICY)
    assert said in caught.value.message
    assert caught.value.exit_code == 2


STRICT = {
    "mode": "active",
    "minimum": 7,
    "threshold": 6,
    "corrupt": 0.3,
    "dropped": 0.3,
    "clip_floor": 0.5,
    "clip": 4.0,
    "clipped": 0.01,
    "bits": (32,),
    "ciphers": ("aes-256-ctr",),
    "max_weight": 1.0,
    "rounds": 9,
    "largest": 1000,
    "differing": "refuse",
    "session_seconds": 60.0,
    "run": "trial-1",
    "server": "ab" * 32,
    "local": LocalBounds((0.01, 0.1), (8, 64), (1, 2), (1, 9), 0.1, drop_last=False, class_weights=2.0),
}
LAX = Policy(simulation=True, accept_zeros=True, local=LocalBounds(drop_last=True))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_policies_the_stricter_value_counts_whichever_side_has_it(order):
    one, other = (LAX, Policy(**STRICT))[::order]
    assert one.tightened(other) == Policy(**STRICT)
    assert {field.name for field in dataclasses.fields(Policy)} == {*STRICT, "simulation", "accept_zeros", "bounded"}


def test_what_contradicts_itself_accepts_nothing():
    """A server that sends a config with a tiny clip: the floor of the client's own file stays above it."""
    both = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0).tightened(
        Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, clip_floor=1e-9, clip=1e-9)
    )
    for clip in (1e-9, 1e-3, 4.0):
        cohort = cohort_of(5, policy=both)
        with pytest.raises(ProtocolError, match="policy: the clip is"):
            both.check(attempt_of(cohort, clip=clip).session.parameters, "c00", cohort.roster)


@pytest.mark.parametrize(
    ("local", "said"),
    [
        ({"lr": 20.0}, "local.lr is 20, expected 1e-06 to 10"),
        ({"lr": 1e-30}, "local.lr is 1e-30"),
        ({"steps": 0}, "local.steps is 0, expected 1 to"),
        ({"epochs": 0}, "local.epochs is 0, expected 1 to 1000"),
        ({"weight_decay": 2.0}, "local.weight_decay is 2"),
        ({"weight_decay": -0.1}, "local.weight_decay is -0.1"),
        ({"drop_last": True}, "local.drop_last is true, which can leave clients without a step"),
        ({"lr": float("nan")}, "local.lr is nan"),
    ],
)
def test_local_work_outside_of_the_bounds_is_refused(local, said):
    with pytest.raises(ProtocolError) as caught:
        LocalBounds().check(LocalWork(**local))
    assert said in caught.value.message
    LocalBounds().check(LocalWork())


@pytest.mark.parametrize("setting", [{"c": 3.0}, "balanced-per-client"])
def test_a_policy_may_forbid_class_weights(setting):
    ratio, policy = class_ratio(setting), LocalBounds(class_weights=1.0)
    LocalBounds().check(LocalWork(), ratio)
    with pytest.raises(ProtocolError, match=r"class_weights has weights with the ratio (3|10), expected at most 1"):
        policy.check(LocalWork(), ratio)
    assert policy.objections(LocalBounds.of(LocalWork(), ratio))
    assert not policy.objections(LocalBounds.of(LocalWork(), class_ratio("none")))


def test_the_policy_is_read_where_the_keys_are_and_the_run_cannot_loosen_it(trial, keys):
    """The run's options say three clients and no collusion; the clients' file says more, and is what counts."""
    (keys / POLICY).write_text("minimum = 6\nclip_floor = 0.1\n[local]\nlr = [0.01, 1.0]\n")
    built, _ = trial.prepare(f"aggregator={{name: secagg, keys: {keys}, minimum: 6, bits: 20}}")
    found = built.aggregator._policy(built.aggregator._home.roster())
    assert (found.minimum, found.bits, found.run, found.simulation) == (6, (20,), "trial-1", False)
    assert found.local == LocalBounds((0.01, 0.1), (32, 32), (1, 1), (1, 1_000_000), 0.0, class_weights=1.0)
    lying = type(built.aggregator)(built.aggregator.config.model_copy(update={"minimum": 3, "clip": 1e-9}))
    lying._home = built.aggregator._home  # as a worker that gets its config from the server
    found = lying._policy(lying._home.roster())
    assert (found.minimum, found.clip_floor) == (6, 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode = 'active'", "mode is hbc, expected active"),
        ("minimum = 6", "minimum is 5, expected at least 6"),
        ("clip_floor = 10.0", "clip is 8, expected at least 10"),
        ("clip = 4.0", "clip is 8, expected at most 4"),
        ("bits = [20, 24]", "bits is 32, expected 20 or 24"),
        ("ciphers = ['aes-256-ctr']", "cipher is aes-128-ctr, expected aes-256-ctr"),
        ("max_weight = 1.0", "max_weight is"),
        ("[local]\nbatch_size = [64, 128]", "local.batch_size is 32, expected 64 to 128"),
    ],
)
def test_a_run_outside_of_the_policy_is_refused_before_it_starts(trial, keys, text, said):
    (keys / POLICY).write_text(text)
    with pytest.raises(IncompatibleError, match="the policy of the clients refuses this run") as caught:
        trial.prepare(f"aggregator={{name: secagg, keys: {keys}}}")
    assert said in caught.value.message


def test_a_run_within_the_policy_is_trained_and_one_with_simulated_stragglers_is_not(trial, keys):
    run("policy", "init", keys)
    chosen = (f"aggregator={{name: secagg, keys: {keys}}}", "engine.max_failures=9")
    trial.train(*chosen)
    with pytest.raises(ProtocolError, match="is not the one that this client remembers"):
        trial.train(*chosen)  # a second run under one roster would be a second past of its run
    run("roster", "sign", keys, "--run", "trial-2")
    with pytest.raises(ProtocolError, match="0 of 9 clients sent a masked vector"):
        trial.train(*chosen, "devices.stragglers=0.4", "strategy=fedprox", "rounds=2", "local.epochs=3")


def test_the_policy_pins_the_operator(keys):
    from flctl_secagg.storage import KeysHome

    (keys / POLICY).write_text(f"operator = '{identity_public(new_key()).hex()}'")
    with pytest.raises(IntegrityError, match="signed with another key"):
        KeysHome(keys).roster()


def test_the_command_writes_shows_and_holds_options_against_a_policy(keys):
    assert run("policy", "init", keys) == {"path": str(keys / POLICY)}
    with pytest.raises(ConfigError, match="exists"):
        run("policy", "init", keys)
    (keys / POLICY).write_text("minimum = 6\n[local]\ndrop_last = true\n")
    shown = run("policy", "show", keys)["policy"]
    assert shown["minimum"] == {"value": 6, "origin": POLICY}
    assert shown["local.drop_last"] == {"value": True, "origin": POLICY}
    assert shown["clip"] == {"value": 1000.0, "origin": "default"}
    tightened = run("policy", "show", keys, "-o", "minimum=7", "-o", "mode=active")["policy"]
    assert tightened["minimum"] == {"value": 7, "origin": "run"}
    assert tightened["differing"] == {"value": "refuse", "origin": "run"}
    with pytest.raises(IncompatibleError, match="minimum is 5, expected at least 6"):
        run("policy", "show", keys, "-o", "bits=20")
