"""Sums of several rounds that together give one client's update, and clients that refuse the last of them."""

import itertools

import numpy as np
import pytest
from flctl_secagg.client.differences import exposed
from flctl_secagg.client.ledger import Ledger, Opening
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto.primitives import new_key
from flctl_secagg.identity.keys import Keyring, identity_public
from flctl_secagg.identity.roster import make_roster
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.session import Session
from flctl_secagg.server.survivor_lists import SurvivorLists
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_support import AttemptError, Cohort, attempt_of, cohort_of, parameters, vectors

from flctl import ProtocolError

STRICT = Policy(mode="active", minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, differing="refuse")
LAX = Policy(mode="active", minimum=3, max_weight=8.0, corrupt=0.0, dropped=0.0, differing="warn")


def sum_of(cohort, number, out=(), **changes):
    """The sum of a session of a round, whose server calls some clients lost before their vector was there."""
    cohort.lost = lambda kind, name: kind == frames.DELIVER and name in out
    attempt = attempt_of(cohort, mode="active", round=number, work=f"work of round {number}", **changes)
    cohort.work = attempt.session.parameters.work
    unmasked = cohort.play(attempt)
    return attempt.session.encoding.decode(unmasked.words, len(unmasked.survivors)).arrays["delta"]


def test_two_sums_of_one_model_give_the_update_where_clients_do_not_compare():
    """The victim is "lost" in a second round of the same vectors; the difference is its update."""
    cohort = cohort_of(9, policy=LAX)
    found = sum_of(cohort, 1) - sum_of(cohort, 2, out=("c04",))
    np.testing.assert_allclose(found, cohort.vectors["c04"]["delta"], atol=1e-5)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (("c04",), "these 8 survivors would reveal the update of client 'c04'"),
        (("c04", "c07"), "these 7 survivors would reveal a combination of two updates, ('c04', 'c07')"),
    ],
)
def test_the_second_sum_is_not_signed_and_nothing_is_opened(out, said):
    cohort = cohort_of(9, policy=STRICT)
    sum_of(cohort, 1)
    with pytest.raises(AttemptError, match="0 of 9 clients signed the list of survivors") as caught:
        sum_of(cohort, 2, out=out)
    assert not caught.value.opened
    found = {error.message for name, error in cohort.refusals.items() if name not in out}
    assert found == {f"with the sums of earlier rounds, the sum over {said}"}
    assert len(sum_of(cohort, 3)) == 40  # the full list is answered again


def test_four_sums_that_no_two_give_it_away_are_refused_at_the_last():
    """Pairs differ by three clients or more, and a combination leaves one: L1 - L2 - L3 + L4."""
    names = [f"c{place:02d}" for place in range(12)]
    one, other, rest = names[:3], names[3:6], names[7:]
    lists = [[*one, *other, "c06", *rest], [*one, *rest], [*other, *rest], rest]
    assert all(len(set(a) ^ set(b)) >= 3 for a, b in itertools.combinations(lists, 2))
    assert exposed(lists[:3]) == ()
    assert exposed(lists) == ("c06",)
    ledger, me = Ledger(), "c09 of " + __name__
    for number, listed in enumerate(lists[:3]):
        ledger.answer(me, Opening("run", number, str(number), tuple(listed)), apart=True)
    with pytest.raises(ProtocolError, match="the update of client 'c06'"):
        ledger.answer(me, Opening("run", 3, "3", tuple(lists[3])), apart=True)


def test_rounds_only_go_up_but_for_a_repeat(tmp_path):
    ledger, names = Ledger(tmp_path / "ledger.sqlite"), tuple("abcdef")
    ledger.answer("a", Opening("run", 7, "seven", names))
    ledger.answer("a", Opening("run", 8, "eight", names))
    ledger.answer("a", Opening("run", 7, "seven again", names))  # after a crash, from the checkpoint before
    with pytest.raises(
        ProtocolError, match="shares of round 5 were requested, and shares were already opened in round 8"
    ):
        ledger.answer("a", Opening("run", 5, "five", names))
    with pytest.raises(ProtocolError, match="in round 7, shares were opened for other survivors before"):
        ledger.answer("a", Opening("run", 7, "seven", names[:3]))
    ledger.answer("a", Opening("another run", 1, "one", names))
    assert [one.round for one in ledger.openings("a", "run")] == [7, 8]


def test_one_work_is_answered_for_one_list(tmp_path):
    ledger, names = Ledger(tmp_path / "ledger.sqlite"), tuple("abcdef")
    ledger.answer("a", Opening("run", 7, "seven", names))
    with pytest.raises(ProtocolError, match="in round 7, shares were opened for other survivors before"):
        ledger.answer("a", Opening("run", 8, "seven", names[:3]))
    ledger.answer("a", Opening("run", 8, "seven", names))


class Runs:
    """Runs of the same nine clients, with one record, and a roster each that the operator signs."""

    def __init__(self, path):
        self.operator, self.ring, self.ledger = new_key(), Keyring.derived(new_key()), Ledger(path)
        self.names = tuple(f"c{place:02d}" for place in range(9))
        self.vectors = vectors(self.names)
        self.last = None

    def play(self, run, work, out=()):
        keys = {name: identity_public(self.ring.secret_of(name)) for name in self.names}
        roster = make_roster(run, keys, self.operator)
        self.last = Cohort(roster, self.ring, self.names, self.vectors, policy=STRICT, ledger=self.ledger)
        self.last.lost = lambda kind, name: kind == frames.DELIVER and name in out
        self.last.work = work
        return self.last.play(attempt_of(self.last, mode="active", work=work)).survivors


@pytest.mark.parametrize(
    ("work", "out", "said"),
    [
        ("work", ("c04",), "in round 1 of run 'trial-1', shares of the same work were opened for other survivors"),
        ("a copy", ("c04",), "earlier rounds and runs, the sum over these 8 survivors would reveal the update of"),
    ],
)
def test_a_second_run_does_not_give_the_update_of_a_victim_that_is_lost_there(tmp_path, work, out, said):
    runs = Runs(tmp_path / "ledger.sqlite")
    assert len(runs.play("trial-1", "work")) == 9
    with pytest.raises(AttemptError, match="0 of 9 clients signed") as caught:
        runs.play("trial-2", work, out)
    assert not caught.value.opened
    refused = {name: error for name, error in runs.last.refusals.items() if name not in out}
    assert len(refused) == 9 - len(out)
    assert all(said in error.message for error in refused.values())
    assert ("--seed" in refused["c00"].hint) == (work == "work")


def test_a_second_run_of_all_clients_is_answered_with_the_same_work_or_another(tmp_path):
    runs = Runs(tmp_path / "ledger.sqlite")
    assert [len(runs.play(*one)) for one in (("one", "work"), ("two", "work"), ("three", "another model"))] == [9] * 3


def test_a_client_with_another_name_in_the_second_run_is_compared_by_its_key(tmp_path):
    ledger, keys = Ledger(tmp_path / "ledger.sqlite"), tuple("123456")
    ledger.answer("a", Opening("one", 1, "work", tuple("abcdef"), keys), apart=True)
    ledger.answer("a", Opening("two", 1, "work", tuple("aBCDEF"), keys), apart=True)
    with pytest.raises(ProtocolError, match=r"the update of client '[fF]'"):
        ledger.answer("a", Opening("three", 1, "other", tuple("aBCDE"), keys[:5]), apart=True)
    ledger.answer("a", Opening("four", 1, "work", tuple("abcde"), tuple("uvwxy")), apart=True)  # all keys are new


class Warned:
    """The server's lists of nine clients under `warn`, over runs with a roster each and the same keys."""

    def __init__(self, path):
        self.operator, self.ring = new_key(), Keyring.derived(new_key())
        self.names = tuple(f"c{place:02d}" for place in range(9))
        self.lists = SurvivorLists(Ledger(path), "warn", 3)

    def record(self, run, number, out=(), ring=None, names=None):
        names, ring = names or self.names, ring or self.ring
        keys = {name: identity_public(ring.secret_of(known)) for name, known in zip(names, self.names, strict=True)}
        roster = make_roster(run, keys, self.operator)
        made = parameters(sorted(names), run=run, round=number, work=f"work of {run}, round {number}")
        return self.lists.record(Session(made, roster), [name for name in sorted(names) if name not in out])


def test_a_client_that_sums_of_two_runs_expose_is_noted_once(tmp_path):
    warned = Warned(tmp_path / "ledger.sqlite")
    assert warned.record("trial-1", 1) is None
    assert warned.record("trial-2", 1, out=("c04",)) == (
        "the sums of the rounds so far, together with those of earlier runs, reveal the update, or a combination, of "
        "'c04'"
    )
    assert warned.record("trial-2", 2) is None  # noted before
    assert "earlier runs" in warned.record("trial-3", 1)  # and in each run whose sums are part of it


def test_a_client_with_another_name_in_the_second_run_is_the_same_client(tmp_path):
    warned = Warned(tmp_path / "ledger.sqlite")
    warned.record("trial-1", 1)
    renamed = tuple(name.replace("c", "site-") for name in warned.names)
    assert warned.record("trial-2", 1, out=("site-04",), names=renamed).endswith("of 'c04'")


def test_sums_of_one_run_and_of_other_keys_are_noted_as_such(tmp_path):
    warned = Warned(tmp_path / "ledger.sqlite")
    warned.record("trial-1", 1)
    assert warned.record("trial-2", 1, out=("c04",), ring=Keyring.derived(new_key())) is None  # other clients
    said = warned.record("trial-1", 2, out=("c05",))
    assert said == "the sums of the rounds so far reveal the update, or a combination, of 'c05'"


def test_two_halves_and_the_whole_without_one_give_that_one():
    assert exposed([["a", "b", "c"], ["d", "e", "f"], ["a", "b", "c", "d", "e"]]) == (
        "f",
    )  # and the sum of d and e, which is named second


def by_force(lists):
    """Whether a vector with one or two entries is a combination of the lists, by ranks of floats."""
    members = sorted(set().union(*map(set, lists)))
    matrix = np.array([[float(name in one) for name in members] for one in lists])
    rank, unit = np.linalg.matrix_rank(matrix), np.eye(len(members))
    if any(np.linalg.matrix_rank(np.vstack([matrix, row])) == rank for row in unit):
        return True
    pairs = itertools.combinations(range(len(members)), 2)
    return any(np.linalg.matrix_rank(np.vstack([matrix, unit[list(pair)]])) < rank + 2 for pair in pairs)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sets(st.sampled_from("abcdefg"), min_size=3), min_size=1, max_size=5))
def test_the_test_is_that_of_ranks(lists):
    assert bool(exposed(lists)) == by_force(lists)


def test_a_hundred_lists_of_a_thousand_clients_are_compared():
    rng = np.random.default_rng(0)
    names = [f"c{place:04d}" for place in range(1000)]
    lists = [rng.choice(names, 200, replace=False).tolist() for _ in range(100)]
    assert exposed(lists) == ()
    assert exposed([*lists, lists[0][1:]]) == (lists[0][0],)
