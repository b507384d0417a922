"""The ledger: charges add up, and whatever is changed, cut or forked is found."""

import json
import multiprocessing
import os
from typing import get_args

import pytest
from flctl import IncompatibleError, IntegrityError, StorageError
from flctl.cli import run as run_cli

from flctl_dp.accounting.releases import _RELATIONS, Release, Sampling
from flctl_dp.ledgers.ledger import LedgerFile, Promise

RELEASE = Release("poisson", 1.1, rate=0.01)
OTHER = Release("all", 3.0)


@pytest.fixture
def file(tmp_path):
    return LedgerFile(tmp_path / "deep" / "ledger.jsonl")


def charged(file, *releases, run="aa"):
    for number, release in enumerate(releases, 1):
        with file.locked():
            file.charge(file.open("people", "add-remove"), run, number, release)
    return file.read()


def test_charges_of_all_runs_add_up(file):
    assert file.read() is None
    charged(file, RELEASE, RELEASE)
    ledger = charged(file, RELEASE, OTHER, run="bb")
    assert dict(ledger.releases()) == {RELEASE: 3, OTHER: 1}
    assert dict(ledger.releases("bb")) == {RELEASE: 1, OTHER: 1}
    assert [charge.round for charge in ledger.charges] == [1, 2, 1, 2]
    assert ledger.head == ledger.charges[-1].digest
    assert ledger.holds(ledger.genesis)
    assert all(ledger.holds(charge.digest) for charge in ledger.charges)
    assert not ledger.holds("0" * 64)


def lines_of(file):
    return file.path.read_bytes().splitlines(keepends=True)


def edits():
    yield "another noise", lambda lines: [*lines[:2], lines[2].replace(b"1.1", b"9.9"), *lines[3:]]
    yield "a line less", lambda lines: [*lines[:2], *lines[3:]]
    yield "the last line gone", lambda lines: lines[:-1]
    yield "two lines swapped", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]
    yield "a line twice", lambda lines: [*lines, lines[-1]]
    yield "no first line", lambda lines: lines[1:]
    yield "nothing", lambda lines: []
    yield "half a line", lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]]
    yield "an empty line", lambda lines: [*lines, b"\n"]
    yield "not JSON", lambda lines: [*lines, b"{\n"]
    yield "a list", lambda lines: [*lines, b"[]\n"]
    yield "deep nesting", lambda lines: [*lines, b"[" * 100_000 + b"\n"]
    yield "not text", lambda lines: [*lines, b"\xff\xfe\n"]


def test_an_earlier_line_that_is_edited_behind_a_reader_is_found(file):
    """What was read before is not parsed again, and is looked at all the same."""
    charged(file, RELEASE, RELEASE, OTHER)
    lines = lines_of(file)
    assert len(file.read().charges) == 3
    file.path.write_bytes(b"".join([lines[0], lines[1].replace(b"1.1", b"1.2"), *lines[2:]]))
    with pytest.raises(IntegrityError, match=":2 was changed"):
        file.read()
    file.path.write_bytes(b"".join(lines))
    assert len(charged(file, RELEASE).charges) == 4


@pytest.mark.parametrize("edit", [edit for _, edit in edits()], ids=[name for name, _ in edits()])
def test_an_edit_is_found(file, edit):
    charged(file, RELEASE, RELEASE, OTHER)
    file.path.write_bytes(b"".join(edit(lines_of(file))))
    with pytest.raises(IntegrityError, match=r"ledger\.jsonl"):
        file.read()
    with pytest.raises(IntegrityError), file.locked():
        file.open("people", "add-remove")


def test_a_line_sealed_anew_breaks_the_chain_behind_it(file):
    from flctl_dp.ledgers.ledger import _sealed

    charged(file, RELEASE, RELEASE, OTHER)
    lines = lines_of(file)
    line = json.loads(lines[1])
    line.pop("digest")
    line["release"]["noise_multiplier"] = 9.9
    lines[1] = json.dumps(_sealed(line)).encode() + b"\n"
    file.path.write_bytes(b"".join(lines))
    with pytest.raises(IntegrityError, match="does not follow"):
        file.read()


def test_a_fork_that_grew_again_is_found_by_its_head(file):
    charged(file, RELEASE, RELEASE)
    before = file.path.read_bytes()
    ledger = charged(file, RELEASE)
    mine = ledger.head
    file.path.write_bytes(before)  # back to two charges, and on in another way
    file.path.with_name("ledger.jsonl.head").unlink()
    forked = charged(file, OTHER)
    assert len(forked.charges) == len(ledger.charges)
    assert not forked.holds(mine)


def test_a_ledger_that_is_gone_is_missed(file):
    charged(file, RELEASE)
    file.path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        file.read()


def test_a_release_that_cannot_be_is_refused_though_its_seal_is_right(file):
    from flctl_dp.ledgers.ledger import _sealed

    ledger = charged(file, RELEASE)
    for fields in ({"noise_multiplier": -1.0}, {"sampling": "magic"}, {"rate": True}, {"extra": 1}):
        line = {"previous": ledger.head, "run": "aa", "round": 2, "release": {**RELEASE.fields(), **fields}}
        file.path.write_bytes(b"".join(lines_of(file)[:2]) + json.dumps(_sealed(line)).encode() + b"\n")
        with pytest.raises(IntegrityError, match=":3"):
            file.read()


def test_two_relations_do_not_share_a_ledger(file):
    charged(file, RELEASE)
    with pytest.raises(IncompatibleError, match="the two cannot be composed") as raised, file.locked():
        file.open("people", "replace-one")
    assert "zero-out" in raised.value.hint
    for sampling in get_args(Sampling):
        assert "zero-out" in _RELATIONS[sampling]


@pytest.mark.parametrize("left", [0, 1, 40])
def test_a_first_line_that_a_kill_cut_off_is_written_anew(file, left):
    charged(file, RELEASE)
    first = lines_of(file)[0]
    file.path.with_name("ledger.jsonl.head").unlink()
    file.path.write_bytes(first[:left])
    assert file.read() is None
    assert len(charged(file, RELEASE).charges) == 1


def test_a_file_that_is_no_ledger_is_left_as_it_is(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b"notes without a line end")
    with pytest.raises(IntegrityError, match="no first line"), file.locked():
        file.open("people", "add-remove")
    assert file.path.read_bytes() == b"notes without a line end"


def test_a_link_is_the_ledger_that_it_leads_to(file, tmp_path):
    """Two names of a ledger with a lock each would let two processes charge at once, and fork it."""
    charged(file, RELEASE)
    (tmp_path / "link.jsonl").symlink_to(file.path)
    linked = LedgerFile(tmp_path / "link.jsonl")
    assert len(charged(linked, RELEASE).charges) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "link.jsonl"]
    assert len(file.read().charges) == 2


def test_a_line_that_a_kill_cut_off_is_taken_away_by_the_next_charge(file):
    charged(file, RELEASE)
    with file.path.open("ab") as half:
        half.write(b'{"previous":"')
    assert len(file.read().charges) == 1
    assert len(charged(file, RELEASE).charges) == 2


def test_a_charge_is_on_disk_before_it_is_told(file, monkeypatch):
    charged(file, RELEASE)
    seen = []
    real = os.fsync

    def synced(handle):
        if os.path.samestat(os.fstat(handle), file.path.stat()):  # the ledger itself, not its head
            seen.append(len(lines_of(file)))
        real(handle)

    monkeypatch.setattr(os, "fsync", synced)
    charged(file, RELEASE)
    assert seen == [3]


def _charge_often(path, run):
    file = LedgerFile(path)
    for number in range(20):
        with file.locked():
            file.charge(file.open("people", "add-remove"), run, number, RELEASE)


def test_processes_take_turns(file):
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    others = [context.Process(target=_charge_often, args=(file.path, run)) for run in ("aa", "bb")]
    for process in others:
        process.start()
    for process in others:
        process.join(120)
    ledger = file.read()
    assert len(ledger.charges) == 40
    assert len({charge.digest for charge in ledger.charges}) == 40


def test_a_ledger_that_cannot_be_written_names_the_option(tmp_path):
    (tmp_path / "parts").write_text("a file, in which no folder can be made")
    with (
        pytest.raises(StorageError, match="cannot be written") as caught,
        LedgerFile(tmp_path / "parts" / "l").locked(),
    ):
        raise AssertionError
    assert "transforms.dp.ledger=PATH" in str(caught.value.hint)


def test_verify_says_that_the_chain_has_no_key(file, capsys):
    charged(file, RELEASE)
    assert run_cli(["dp", "verify", str(file.path)]) == 0
    assert "edits after which all digests were computed again are not detected" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_delta_of_a_ledger_is_that_of_its_last_target(file):
    promises = Promise(1e-5, 1.0, 40), Promise(0.02, None, 41)
    with file.locked():
        for number, promise in enumerate(promises, 1):
            file.charge(file.open("people", "add-remove"), "aa", number, RELEASE, promise=promise)
    assert file.read().promise == Promise(1e-5, 1.0, 41)
