"""Attempts to recover one client's update, to be told two sums, and to break the sum: whole sessions at the edges."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from flctl_secagg.aggregator import SecureAggregation
from flctl_secagg.client import client as client_module
from flctl_secagg.client.client import Client
from flctl_secagg.client.ledger import Ledger
from flctl_secagg.client.policy import Policy
from flctl_secagg.crypto import shamir
from flctl_secagg.crypto.masks import add_masks
from flctl_secagg.crypto.primitives import KEY_BYTES, SIGNATURE_BYTES, loaded
from flctl_secagg.encoding.packing import WIDTHS, lane, packed_bytes, reduce, unpack
from flctl_secagg.encoding.vectors import Encoding
from flctl_secagg.protocol import frames
from flctl_secagg.protocol.degrees import _at_least, choose, least_threshold
from flctl_secagg.protocol.derived_keys import PROOF_BYTES, RECORD_BYTES, mask_seed, self_seed
from flctl_secagg.protocol.graph import ring
from flctl_secagg.protocol.parcels import DELIVERED_BYTES
from flctl_secagg.protocol.past import HEAD_BYTES
from flctl_secagg.protocol.session import Session
from flctl_secagg.transcripts.recording import Transcript
from flctl_secagg.transcripts.verifier import verify
from secagg_support import ASKED, Cohort, attempt_of, cohort_of, identities, parameters, vectors
from support import prefork

from flctl import IncompatibleError, IntegrityError, ProtocolError

HEAD = 38
LATE = (frames.SURVIVORS, frames.UNMASK)


class TwoLists:
    """A server that tells one part of the cohort that c00 survived and the other that it did not, with `colluders`
    who answer both: their records are wiped in between. `split` honest clients besides c00 hear the first list."""

    def __init__(self, mode, count, colluders, split, tmp_path):
        self.cohort, self.tmp_path = cohort_of(count), tmp_path
        self.attempt = attempt_of(self.cohort, mode=mode)
        self.colluders = set(self.cohort.names[1 : 1 + colluders])
        honest = self.cohort.names[1 + colluders :]
        self.parts = ({"c00", *self.colluders, *honest[:split]}, {*self.colluders, *honest[split:]})
        protocol = self.attempt.run()
        phase = next(protocol)
        while next(iter(phase.messages.values()))[5] not in LATE:
            phase = protocol.send(self.cohort.replies(phase))
        self.session = self.attempt.session

    def say(self, part, name, memory, kind, body):
        """A client's (memory, answer); None where it refuses."""
        ledger = self.cohort.ledger
        if name in self.colluders:
            ledger = Ledger(self.tmp_path / f"{part}-{name}.sqlite")
        me = Client(name, self.cohort.keyring, self.cohort.roster, self.cohort.policy, ledger)
        try:
            return me.step(memory, frames.frame(kind, self.session.sid, body), None, ASKED)
        except ProtocolError:
            return None

    def shares_of_victim(self, part, alive):
        """c00's shares that one part of the cohort opens for a list, by place on its polynomial."""
        names = self.cohort.names
        listed = frames.bitmap([names.index(name) for name in alive], len(names))
        memories, signed, found = dict(self.cohort.memories), {}, {}
        for name in self.parts[part] if self.session.parameters.mode == "active" else ():
            if answer := self.say(part, name, memories[name], frames.SURVIVORS, listed):
                memories[name], signed[names.index(name)] = answer[0], answer[1][HEAD:]
        for name in self.parts[part] - {"c00"}:
            others = [(place, signature) for place, signature in signed.items() if names[place] != name]
            if answer := self.say(part, name, memories[name], frames.UNMASK, listed + frames.records(others)):
                found[names.index(name)] = shamir.read_share(answer[1][HEAD : HEAD + 33])  # c00 is everybody's first
        return found

    def recovered(self):
        """What c00 sent, from its masked vector and both of its secrets; None where they are not to be had."""
        t, secrets = self.session.parameters.threshold, []
        for part, alive in enumerate((self.cohort.names, self.cohort.names[1:])):
            shares = sorted(self.shares_of_victim(part, alive).items())[:t]
            if len(shares) < t:
                return None
            secrets.append(shamir.combine([place for place, _ in shares], [share for _, share in shares]))
        return self.unmasked(*secrets)

    def unmasked(self, b, s):
        said = next(reply for kind, name, reply in self.cohort.said if (kind, name) == (frames.DELIVER, "c00"))
        words = unpack(said[HEAD + SIGNATURE_BYTES :], 32, self.session.encoding.words)
        streams = [(self_seed(self.session, b), False)]
        for peer, record in self.attempt.records.items():
            if peer:
                public = record[KEY_BYTES : 2 * KEY_BYTES]
                streams.append((mask_seed(self.session, loaded(s), public, 0, peer), False))
        add_masks(words, streams)
        return self.session.encoding.decode(words, 1).arrays["delta"]


@pytest.mark.parametrize(
    ("mode", "count", "colluders", "works"),
    [
        ("hbc", 6, 0, False),  # t = 3 of 5
        ("hbc", 6, 1, True),  # hbc is not made for a server that lies: the attack itself is sound
        ("active", 10, 0, False),  # t = 7 of 9, 2 t - k = 5
        ("active", 10, 4, False),
        ("active", 10, 5, False),
        ("active", 10, 6, True),  # t - 1 colluders and a lying server: beyond what is promised
    ],
)
def test_two_lists_and_colluders_recover_an_update_only_beyond_what_is_promised(
    mode, count, colluders, works, tmp_path
):
    found = []
    for split in range(count - colluders):
        attack = TwoLists(mode, count, colluders, split, tmp_path / str(split))
        recovered = attack.recovered()
        if recovered is not None:
            found.append(split)
            np.testing.assert_allclose(recovered, attack.cohort.vectors["c00"]["delta"], atol=1e-5)
    assert bool(found) is works


class HalfDelivered:
    """A server that hands c00 the shares of `near` honest clients and the colluders alone, and c00's shares to all;
    later it calls those near dead. What is left masks nothing of c00's, and opens all that masked it."""

    def __init__(self, mode, count, colluders, near):
        self.cohort = cohort_of(count)
        self.attempt = attempt_of(self.cohort, mode=mode)
        names = self.cohort.names
        self.bad, self.near = set(range(1, 1 + colluders)), set(range(1 + colluders, 1 + colluders + near))
        self.alive, self.secrets = [place for place in range(count) if place not in self.near], {}
        self.cohort.meddle = self._meddle
        protocol = self.attempt.run()
        phase = next(protocol)
        while next(iter(phase.messages.values()))[5] not in LATE:
            phase = protocol.send(self.cohort.replies(phase))
        self.session, self.names = self.attempt.session, names

    def _meddle(self, kind, name, message):
        place = self.cohort.names.index(name)
        if kind == frames.DELIVER and place in self.bad:  # what a colluder remembers is the server's
            self.secrets[place] = self.cohort.client(name)._recalled(self.cohort.memories[name])[0].secrets["s"]
        if kind != frames.DELIVER or place:
            return message
        boxes = frames.read_records(memoryview(message)[HEAD:], DELIVERED_BYTES, 99, 99)
        return message[:HEAD] + frames.records((at, box) for at, box in boxes.items() if at in self.bad | self.near)

    def recovered(self):
        """What c00 sent; None where too little is opened."""
        listed, signed, answers = frames.bitmap(self.alive, len(self.names)), {}, {}
        ask = [place for place in self.alive if place]
        for place in ask if self.session.parameters.mode == "active" else ():
            if answer := self._say(place, frames.SURVIVORS, listed):
                signed[place] = answer[HEAD:]
        for place in ask:
            body = listed + frames.records((at, one) for at, one in signed.items() if at != place)
            if answer := self._say(place, frames.UNMASK, body):
                answers[place] = answer[HEAD:]
        if len(answers) < self.session.parameters.threshold:
            return None
        for owner in self.near:
            self.secrets[owner] = self._combined(owner, answers)
        return self._unmasked(self._combined(0, answers))

    def _say(self, place, kind, body):
        return self.cohort.answer(self.names[place], frames.frame(kind, self.session.sid, body), False)

    def _combined(self, owner, answers):
        """A secret from the answers, in which owners are in ascending order without the one who answers."""
        shares = []
        for place, answer in sorted(answers.items())[: self.session.parameters.threshold]:
            at = owner - (owner > place)
            shares.append((place + (place < owner), shamir.read_share(answer[33 * at : 33 * at + 33])))
        return shamir.combine([x for x, _ in shares], [share for _, share in shares])

    def _unmasked(self, b):
        said = [reply for kind, name, reply in self.cohort.said if (kind, name) == (frames.DELIVER, "c00")]
        if not said:
            return None  # it refused: too few shares
        words = unpack(said[0][HEAD + SIGNATURE_BYTES :], 32, self.session.encoding.words)
        mine = self.attempt.records[0][KEY_BYTES : 2 * KEY_BYTES]
        streams = [(self_seed(self.session, b), False)]
        for peer, secret in self.secrets.items():
            streams.append((mask_seed(self.session, loaded(secret), mine, peer, 0), False))
        add_masks(words, streams)
        return self.session.encoding.decode(words, 1).arrays["delta"]


@pytest.mark.parametrize(
    ("mode", "count", "colluders", "works"),
    [("hbc", 6, 0, False), ("hbc", 6, 1, True), ("active", 10, 4, False), ("active", 10, 6, True)],
)
def test_so_does_delivering_shares_one_way(mode, count, colluders, works):
    found = []
    for near in range(1, count - colluders - 1):
        try:
            attack = HalfDelivered(mode, count, colluders, near)
        except ProtocolError:
            continue  # the victim refused, and too few were left for the server's own code
        recovered = attack.recovered()
        if recovered is not None:
            found.append(near)
            np.testing.assert_allclose(recovered, attack.cohort.vectors["c00"]["delta"], atol=1e-5)
    assert bool(found) is works


@pytest.mark.parametrize(("count", "corrupt"), [(500, 0.4), (500, 0.1), (300, 0.3)])
def test_more_neighbours_than_needed_do_not_lower_the_threshold_below_what_is_safe(count, corrupt):
    """A server that proposes more neighbours, and the threshold of fewer: corrupt ones would reach it."""
    least = choose(count, "hbc", corrupt, 0.1)
    limit = Fraction(1, 2**41 * count)
    for degree in range(least.neighbours, count - 1, 10):
        threshold = least_threshold(count, degree, "hbc", corrupt)
        assert _at_least(count - 1, int(corrupt * count), degree, threshold) <= limit


def test_a_threshold_of_fewer_neighbours_is_refused():
    cohort = big_cohort(500, Policy(minimum=3, max_weight=8.0, corrupt=0.4, dropped=0.1))
    least = choose(500, "hbc", 0.4, 0.1)
    found = attempt_of(cohort, neighbours=162, threshold=least.threshold).session.parameters
    with pytest.raises(ProtocolError, match="threshold is 81"):
        cohort.policy.check(found, "c00", cohort.roster)


def test_a_server_that_picks_the_cohort_picks_a_client_s_neighbours():
    """Active mode: the ring is fixed, who sits where on it is not. 25 of 1,000 clients collude; a cohort of 500 puts
    all of them beside the victim, more than the 17 that two lists need where k, t = 44, 31."""
    order = ring(500, b"fixed before the cohort")
    places = {order[at] for at in range(1, 23)} | {order[-at] for at in range(1, 4)}
    corrupt, cohort, at = [f"m{place:03d}" for place in range(25)], [], 0
    for place in range(500):  # the server gives names by rank: it has honest clients to spare between any two
        cohort.append(corrupt[at] if place in places else f"h{place:03d}")
        at += place in places
    near = {order[step % 500] for step in range(-22, 23) if step}
    assert sum(cohort[place].startswith("m") for place in near) == 25 > 2 * 31 - 44


@pytest.mark.parametrize(("count", "corrupt"), [(257, 0.05), (500, 0.05), (500, 0.1), (1000, 0.1)])
def test_so_in_active_mode_all_corrupt_clients_together_reach_no_two_lists(count, corrupt):
    least = choose(count, "active", corrupt, 0.05)
    for degree in range(least.neighbours, count, 2):
        assert 2 * least_threshold(count, degree, "active", corrupt) - degree > int(corrupt * count)
    assert least.threshold == least_threshold(count, least.neighbours, "active", corrupt)


def test_of_processes_that_race_for_a_round_one_wins(tmp_path):
    """Four processes at once, each with other survivors: the record takes one list."""
    program = (
        "import sys; from pathlib import Path; from flctl import ProtocolError\n"
        "from flctl_secagg.client.ledger import Ledger, Opening\n"
        "sys.stdin.readline()\n"
        "try: Ledger(Path(sys.argv[1])).answer('a', Opening('run', 1, 'work', ('a', 'b', sys.argv[2])))\n"
        "except ProtocolError: print('refused')\n"
        "else: print('opened')"
    )
    path = str(tmp_path / "ledger.sqlite")
    started = [
        prefork.start(
            [sys.executable, "-c", program, path, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    for one in started:
        one.stdin.write("\n")
        one.stdin.flush()
    said = [one.communicate()[0].strip() for one in started]
    assert sorted(said) == ["opened", "refused", "refused", "refused"]


def test_a_record_in_memory_outlives_other_records(tmp_path):
    Ledger().claim("a", b"a session of its own", 1)
    for number in range(20):
        Ledger(tmp_path / f"{number}.sqlite").claim("a", b"sid", 1)
    with pytest.raises(ProtocolError, match="was already taken"):
        Ledger().claim("a", b"a session of its own", 1)


def test_a_record_is_written_where_a_new_process_finds_it(tmp_path):
    """A directory that was moved away: what follows is not written into the old file."""
    home = tmp_path / "run"
    Ledger(home / "ledger.sqlite").claim("a", b"sid", 1)
    home.rename(tmp_path / "old")
    Ledger(home / "ledger.sqlite").claim("a", b"sid", 1)
    assert (home / "ledger.sqlite").exists()


def test_weights_whose_sum_could_overflow_are_refused():
    """Five weights of 2^37 with 24 bits after the point pass 2^63."""
    with pytest.raises(IncompatibleError, match="may overflow their sum"):
        Encoding((("delta", 20),), 32, 5, 1.0, 2.0**37)
    most = float((1 << 38) // 5)
    encoding = Encoding((("delta", 20),), 32, 5, 1.0, most)
    one = encoding.encode({"delta": np.full(20, most, np.float32), "weight": np.array([most])})
    total = reduce((one.astype(np.uint64) * 5).astype("<u4"), 32)
    assert encoding.decode(total, 5).weight == 5 * most


@pytest.mark.parametrize("changes", [{"clip": 5e-324}, {"clip": 1e-300, "max_weight": 1e-300}, {"clip": 1e308}])
def test_bounds_that_no_number_can_hold_are_refused_by_the_policy(changes):
    cohort = cohort_of(5)
    found = attempt_of(cohort, layout=(("delta", 2),), **changes).session.parameters
    with pytest.raises(ProtocolError, match="the clip is not a valid bound"):
        cohort.policy.check(found, "c00", cohort.roster)


@pytest.mark.parametrize("option", ["clip", "max_weight"])
def test_options_that_are_no_numbers_are_refused(option):
    for value in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=option):
            SecureAggregation.Config(**{option: value})


@pytest.mark.parametrize("bits", WIDTHS)
def test_masking_takes_no_more_memory_than_three_masked_vectors(bits):
    """From vector to message: words, packed words, message; never more than 3 d w / 8 bytes at a time."""
    length = 300_000
    layout = (("delta", length),)
    cohort = cohort_of(3)
    cohort.vectors = vectors(cohort.names, layout=layout)
    attempt = attempt_of(cohort, bits=bits, layout=layout)
    peaks = []
    answer = cohort.answer

    def measured(name, message, trains):
        if not trains:
            return answer(name, message, trains)
        tracemalloc.start()
        try:
            return answer(name, message, trains)
        finally:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    cohort.answer = measured
    cohort.play(attempt)
    slack = 1 << 20  # chunks, and what does not grow with the vector
    assert max(peaks) <= 3 * packed_bytes(bits, length) + slack


def big_cohort(count, policy, **hooks):
    roster, keyring, names = identities(count)
    names = tuple(sorted(names))
    return Cohort(roster, keyring, names, vectors(names, layout=(("delta", 20),)), policy, **hooks)


def play_large(monkeypatch, mode, count, lost):
    """A session on a sparse graph with losses in each phase: the sum of the survivors' words, to the bit."""
    policy = Policy(mode=mode, minimum=3, max_weight=8.0, corrupt=0.05, dropped=0.05)
    degrees = choose(count, mode, 0.05, 0.05)
    assert degrees.neighbours < count - 1
    cohort = big_cohort(count, policy)
    kinds = {cohort.names[place]: kind for place, kind in lost.items()}
    cohort.lost = lambda kind, name: kinds.get(name) == kind
    monkeypatch.setattr(client_module, "add_masks", lambda own, streams: add_masks(keep(own), streams))
    kept = []

    def keep(own):
        kept.append(own.copy())
        return own

    attempt = attempt_of(
        cohort, mode=mode, neighbours=degrees.neighbours, threshold=degrees.threshold, layout=(("delta", 20),)
    )
    unmasked = cohort.play(attempt)
    assert cohort.refusals == {}
    gone = {name for name, kind in kinds.items() if kind <= frames.DELIVER}
    assert set(unmasked.survivors) == set(cohort.names) - gone
    heard = [name for kind, name, _ in cohort.heard if kind == frames.DELIVER]
    total = np.zeros(attempt.session.encoding.words, lane(32))
    for name, own in zip(heard, kept, strict=True):
        if name not in gone:
            total += own
    np.testing.assert_array_equal(unmasked.words, total)


def test_a_sparse_graph_of_sixty_gives_the_sum_with_losses_in_each_phase(monkeypatch):
    lost = {3: frames.HELLO, 20: frames.KEYS, 41: frames.DELIVER, 59: frames.UNMASK}
    play_large(monkeypatch, "hbc", 60, lost)


@pytest.mark.slow
def test_so_does_one_of_260_in_active_mode(monkeypatch):
    lost = {3: frames.HELLO, 90: frames.KEYS, 141: frames.DELIVER, 142: frames.DELIVER}
    play_large(monkeypatch, "active", 260, {**lost, 200: frames.SURVIVORS, 259: frames.UNMASK})


def test_a_record_holds_ids_and_no_more(tmp_path):
    """Names, ids of sessions and lists; nothing of a vector or a key."""
    cohort = cohort_of(5, ledger=Ledger(tmp_path / "ledger.sqlite"))
    cohort.play(attempt_of(cohort))
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert json.dumps(list(cohort.names)).encode() in raw
    assert not any(cohort.keyring.secret_of(name) in raw for name in cohort.names)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": ()},
        {"cohort": ("c00", "c01", "nobody")},
        {"layout": (("delta", 2**62),)},
        {"neighbours": 2**40},
        {"bits": 31},
        {"threshold": 0},
    ],
)
def test_a_transcript_of_a_session_that_nobody_would_hold_is_refused(changes, tmp_path):
    """A server that wrote it itself: the verifier says so, and makes no room for what it declares."""
    roster, _, names = identities(3)
    session = Session(dataclasses.replace(parameters(names, run=roster.run), **changes), roster)
    hello = frames.frame(frames.HELLO, session.sid, session.parameters.canonical())
    with Transcript.new(tmp_path, session) as transcript:
        for name in session.parameters.cohort or ("c00",):
            transcript.sent(frames.HELLO, name, hello)
        for name in session.parameters.cohort:
            record = bytes(RECORD_BYTES + HEAD_BYTES + PROOF_BYTES)
            transcript.came(frames.ADVERTISE, name, frames.frame(frames.ADVERTISE, session.sid, record))
    with pytest.raises(IntegrityError, match="policy: "):
        verify(next(tmp_path.iterdir()))
