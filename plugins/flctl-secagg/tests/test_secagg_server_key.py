"""The server's pinned key and the run's configuration: clients refuse messages of another server, and sessions for
another configuration than the one that they were started with."""

import dataclasses

import pytest
from flctl_secagg.client.policy import Policy
from flctl_secagg.client.policy_file import policy_text, read_policy
from flctl_secagg.crypto.primitives import Signer, new_key
from flctl_secagg.identity.keys import identity_public
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.asked_work import config_digest
from flctl_secagg.transcripts import verifier
from flctl_secagg.transcripts.recording import SENT, Transcript, read_entries
from secagg_support import ASKED, AttemptError, attempt_of, cohort_of

from flctl import IntegrityError
from flctl.config.config import Config

VICTIM, KEY = "c02", new_key()
PUBLIC = identity_public(KEY).hex()
PINNED = Policy(minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, server=PUBLIC)
PHASES = [frames.HELLO, frames.KEYS, frames.DELIVER, frames.SURVIVORS, frames.UNMASK]
SIGNED = 0x40


def held(cohort, key=KEY, named=PUBLIC):
    """Survivors of a session whose server signs with `key` and names `named`; none if it failed."""
    attempt = attempt_of(cohort, mode="active", server=named)
    attempt.sign = None if key is None else Signer(key).sign
    try:
        return cohort.play(attempt).survivors
    except AttemptError:
        return ()


def test_clients_answer_the_server_whose_key_they_pin():
    cohort = cohort_of(6, policy=PINNED)
    kinds = set()
    cohort.meddle = lambda kind, name, message: kinds.add(kind) or message
    assert held(cohort) == cohort.names
    assert kinds == {kind | SIGNED for kind in PHASES}
    assert cohort.refusals == {}


@pytest.mark.parametrize(
    ("key", "named"),
    [(None, ""), (new_key(), None), (None, PUBLIC), (new_key(), PUBLIC)],
    ids=["unsigned", "foreign", "unsigned as the pinned one", "foreign as the pinned one"],
)
def test_clients_refuse_every_other_server(key, named):
    cohort = cohort_of(6, policy=PINNED)
    assert held(cohort, key, identity_public(key).hex() if named is None else named) == ()
    assert set(cohort.refusals) == set(cohort.names)
    told = "not signed by the server"
    assert all(told in error.message for error in cohort.refusals.values())


@pytest.mark.parametrize("kind", PHASES)
@pytest.mark.parametrize("how", ["without", "changed", "of another client", "by another key"])
def test_a_message_without_the_server_s_signature_is_refused_and_takes_no_step(kind, how):
    cohort, seen = cohort_of(6, policy=PINNED), {}

    def meddle(at, name, message):
        seen[at, name] = message
        if (at, name) != (kind | SIGNED, VICTIM):
            return message
        plain, _ = frames.without_signature(message)
        changed = {
            "without": plain,
            "changed": message[:-1] + bytes((message[-1] ^ 1,)),
            "of another client": plain[:5] + message[5:6] + plain[6:] + seen[at, "c00"][-64:],
            "by another key": frames.with_signature(plain, Signer(new_key()).sign(plain)),
        }[how]
        assert cohort.answer(VICTIM, changed, at == frames.DELIVER | SIGNED) is None
        cohort.memories[VICTIM] = memories[VICTIM]
        return message

    memories = {}
    original = cohort.replies

    def replies(phase):
        memories.update(cohort.memories)
        return original(phase)

    cohort.meddle, cohort.replies = meddle, replies
    memories[VICTIM] = b""
    assert VICTIM in held(cohort)
    assert "not signed by the server" in cohort.refusals[VICTIM].message


def test_a_recorded_session_holds_with_the_server_s_signatures_and_not_without(tmp_path):
    cohort = cohort_of(4, policy=PINNED)
    attempt = attempt_of(cohort, mode="active", server=PUBLIC)
    attempt.sign = Signer(KEY).sign
    with Transcript.new(tmp_path, attempt.session) as transcript:
        attempt.recorder = transcript
        transcript.publish(cohort.play(attempt))
    (path,) = tmp_path.iterdir()
    assert verifier.verify(path).survivors == cohort.names
    signed = next(e.message for e in read_entries(path) if (e.way, e.kind, e.client) == (SENT, frames.KEYS, "c01"))
    path.write_bytes(path.read_bytes().replace(signed, signed[:-1] + bytes((signed[-1] ^ 1,))))
    with pytest.raises(IntegrityError, match="the server did not sign a message to client 'c01'"):
        verifier.verify(path)


def test_the_policy_file_pins_the_server(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(policy_text({"server": PUBLIC}))
    own = read_policy(path)
    assert (own.policy.server, own.origins["server"]) == (PUBLIC, "policy.toml")
    assert own.policy.tightened(Policy()).server == PUBLIC


def test_a_client_that_was_started_with_another_configuration_takes_no_part():
    one, other = (config_digest(Config(transforms=[{"name": "clip", "norm": norm}])) for norm in (1.0, 1e-9))
    cohort = cohort_of(6, asked=lambda name: dataclasses.replace(ASKED, config=other if name == VICTIM else one))
    survivors = cohort.play(attempt_of(cohort, config=one)).survivors
    assert survivors == tuple(name for name in cohort.names if name != VICTIM)
    assert "another configuration" in cohort.refusals[VICTIM].message


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"model": "mlp"},
        {"strategy": "scaffold"},
        {"transforms": ["float16"]},
        {"local": {"lr": 0.5}},
        {"aggregator": {"name": "secagg", "clip": 1.0}},
        {"devices": {"stragglers": 0.5}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_of_a_configuration_depends_on_all_that_clients_act_by(changes):
    base = {"aggregator": "secagg"}
    assert config_digest(Config(**{**base, **changes})) != config_digest(Config(**base))


def test_the_digest_of_a_configuration_leaves_out_what_only_the_server_acts_by():
    base = config_digest(Config(aggregator="secagg"))
    changed = Config(
        rounds=3, data="elsewhere", eval={"every": 2}, aggregator={"name": "secagg", "keys": "x", "transcript": True}
    )
    assert config_digest(changed) == base
