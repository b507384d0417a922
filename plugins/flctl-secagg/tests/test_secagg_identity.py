"""Ids, keys and versions that are refused, k and t by exact fractions, and what a plan and a roster's check print."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from flctl_secagg.aggregator import SecureAggregation
from flctl_secagg.cli import commands
from flctl_secagg.crypto.primitives import agree, is_identity, is_signed, is_usable, loaded, new_key, public_of
from flctl_secagg.identity.ids import MOST_BYTES, key_file, require_ids
from flctl_secagg.identity.keys import Keyring, identity_public
from flctl_secagg.identity.roster import make_roster
from flctl_secagg.protocol import degrees, frames
from flctl_secagg.protocol.degrees import Degrees, choose, complete, portion
from flctl_secagg.protocol.parameters import Parameters
from secagg_support import attempt_of, cohort_of, parameters
from typer.testing import CliRunner

from flctl import ConfigError, IncompatibleError, IntegrityError, ProtocolError

P = 2**255 - 19
LOW_Y = [bytes((1, *31 * (0,))), bytes(32), bytes(31) + b"\x80", (P - 1).to_bytes(32, "little")]
BAD_IDS = {
    "": "blank",
    "  ": "blank",
    " a": "begins or ends with a blank",
    "a\n": "begins or ends with a blank",
    "a\tb": "not printable",
    "\0server": "not printable",
    "a\u202eb": "not printable",
    "\ud800": "not printable",
    "../x": "is a path",
    "/etc": "is a path",
    "a/../b": "is a path",
    "a\\..\\b": "is a path",
    "..": "is a path",
    "x" * (MOST_BYTES + 1): "201 bytes",
    "é" * 101: "202 bytes",
}


@pytest.mark.parametrize(("client", "said"), BAD_IDS.items(), ids=ascii)
def test_an_unusable_id_is_refused_by_rosters_key_files_and_commands(client, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        require_ids(["fine", client])
    with pytest.raises(ConfigError, match=said):
        make_roster("run", {"fine": identity_public(new_key()), client: identity_public(new_key())}, new_key()).check()
    with pytest.raises(ConfigError, match=said):
        Keyring.files(tmp_path).secret_of(client)


def test_ids_that_look_alike_in_two_unicode_forms_are_refused_together():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    require_ids([composed])
    require_ids([decomposed])
    with pytest.raises(ConfigError, match="same in Unicode's composed form"):
        require_ids([composed, decomposed])


def test_a_pair_of_values_is_an_id_and_not_the_name_of_a_file(tmp_path):
    require_ids(["north / 3", "A", "a"])
    with pytest.raises(ConfigError, match="is not a valid file name"):
        key_file(tmp_path, "north / 3")


@pytest.mark.parametrize("key", LOW_Y, ids=bytes.hex)
def test_a_key_of_low_order_is_refused_in_a_roster_as_one_signature_fits_many_messages(key):
    if key == LOW_Y[0]:  # the neutral element: S = 0 and R = 1 satisfy S B = R + h A whatever the message
        assert all(is_signed(key, key + bytes(32), message) for message in (b"one", b"another"))
    assert not is_identity(key)
    with pytest.raises(IntegrityError, match="of low order"):
        make_roster("run", {"c00": key, "c01": identity_public(new_key())}, new_key()).check()


def test_every_usable_key_is_told_from_the_points_of_low_order():
    from flctl.federation.identity.curves import _LOW_U

    for u in _LOW_U:
        assert not is_usable(u.to_bytes(32, "little"))
        with pytest.raises(ProtocolError):
            agree(loaded(new_key()), u.to_bytes(32, "little"))
    assert all(is_usable(public_of(new_key())) for _ in range(20))
    assert all(is_identity(identity_public(new_key())) for _ in range(20))


def test_another_encoding_of_a_key_is_refused_as_it_would_pass_as_a_second_key():
    mine = new_key()
    public = public_of(mine)
    alias = public[:31] + bytes((public[31] | 0x80,))
    assert agree(loaded(mine), public) == agree(loaded(mine), alias)
    assert not is_usable(alias)
    assert not is_usable((P + 9).to_bytes(32, "little"))


def test_a_later_version_is_named_with_both_versions():
    told = "this side speaks version 1 of secure aggregation, and the other side version 2"
    later = json.loads(parameters(("a", "b", "c")).canonical())
    later = {**later, "version": "flctl-secagg/2", "a_field_of_version_2": [1]}
    with pytest.raises(ProtocolError, match=told) as refused:
        Parameters.read(json.dumps(later, sort_keys=True, separators=(",", ":")).encode())
    assert "Upgrade flctl-secagg" in refused.value.hint
    with pytest.raises(ProtocolError, match=told):
        frames.phase_of(b"FLSA\x02" + bytes(50))
    with pytest.raises(ProtocolError, match="not a message of secure aggregation"):
        frames.phase_of(b"FLSB\x02" + bytes(50))


def test_clients_refuse_a_hello_of_a_later_version_by_its_versions():
    cohort = cohort_of(4)

    def later(kind, name, message):
        return message[:38] + message[38:].replace(b"flctl-secagg/1", b"flctl-secagg/9")

    cohort.meddle = later
    with pytest.raises(ProtocolError):
        cohort.play(attempt_of(cohort))
    assert {error.message for error in cohort.refusals.values()} == {
        "this side speaks version 1 of secure aggregation, and the other side version 9"
    }


def test_fractions_of_clients_are_exact_decimals():
    """0.57 * 100 is 56.999... in floating point; t = (99 + 57) // 2 + 1."""
    assert int(0.57 * 100) == 56
    assert portion(0.57, 100) == 57
    assert portion(0.29, 100) == 29
    assert complete(100, "active", 0.57).threshold == 79


def test_k_and_t_of_ten_thousand_clients_take_no_exact_tail(monkeypatch):
    """Exact tails of 10,000 clients took 24 s of CPU for a HELLO."""
    monkeypatch.setattr(degrees, "_at_least", None)
    assert choose.__wrapped__(10_000, "active", 0.1, 0.1) == Degrees(1428, 1215)
    assert choose.__wrapped__(10_000, "active", 0.3, 0.1) == Degrees(3988, 3495)


def test_a_probability_at_its_limit_is_decided_exactly():
    exact = degrees._at_least(99, 30, 20, 15)
    assert degrees._is_rare(99, 30, 20, 15, exact)
    assert not degrees._is_rare(99, 30, 20, 15, exact * (1 - degrees.Fraction(1, 10**30)))
    assert degrees._is_rare(99, 30, 20, 31, exact)
    assert not degrees._is_rare(99, 30, 20, 0, exact)


@pytest.mark.parametrize(("mode", "clients", "dropped", "bears"), [("active", 10, 0.4, 2), ("active", 100, 0.4, 32)])
def test_dropouts_that_a_complete_graph_cannot_bear_are_refused_before_the_run(mode, clients, dropped, bears):
    told = f"expects {int(dropped * clients)} of {clients} clients to drop out, and a session bears {bears}"
    with pytest.raises(IncompatibleError, match=told):
        SecureAggregation.from_options({"mode": mode, "dropped": dropped, "corrupt": 0.0}).require_cohort(clients)
    SecureAggregation.from_options({"mode": mode, "dropped": 0.2, "corrupt": 0.0}).require_cohort(clients)


def run(*arguments):
    result = CliRunner().invoke(commands.app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_a_plan_refuses_what_a_run_refuses_and_aligns_names_values_and_units():
    with pytest.raises(IncompatibleError, match="needs at least 5 clients, and a round selects 3"):
        run("plan", "--clients", 3, "--parameters", 10)
    lines = run("plan", "--clients", 3, "--parameters", 10, "-o", "minimum=3").splitlines()
    values = [re.match(r"([a-z]+ +)(\S+(?: [a-zA-Z]+)?)  \S", line) for line in lines]
    assert len({found.end(2) for found in values}) == 1
    assert any(re.match(r"up +[\d.]+ kB  a client sends", line) for line in lines)
    assert any(re.match(r"time +[\d.e-]+ s  ", line) for line in lines)


def test_a_roster_that_is_valid_is_called_so(tmp_path):
    run("keys", "init", tmp_path, "a", "b", "--operator")
    run("roster", "sign", tmp_path, "--run", "autumn")
    assert run("roster", "verify", tmp_path).startswith("valid: signed by the operator whose key is pinned in ")
    assert json.loads(run("roster", "verify", tmp_path, "--json"))["data"]["valid"] is True


def test_parameters_of_this_version_are_read_as_before():
    made = parameters(("a", "b", "c"))
    assert Parameters.read(made.canonical()) == made
    with pytest.raises(ProtocolError, match="not well-formed"):
        Parameters.read(dataclasses.replace(made, version=2).canonical())


@pytest.mark.parametrize("page", ["plugins/flctl-secagg/README.md", "docs/secagg.md"])
def test_the_documented_commands_never_put_two_parties_private_keys_into_one_directory(page):
    root = Path(__file__).resolve().parents[3]
    shown = [
        line.split() for line in re.findall(r"^flctl secagg keys init (.*)$", (root / page).read_text(), re.MULTILINE)
    ]
    assert len(shown) >= 2
    assert {len(words) for words in shown} == {2}  # a directory, and one client or --operator
    assert len({words[0] for words in shown}) == len(shown)


def test_the_documented_way_gives_each_site_a_roster_that_it_can_check(tmp_path):
    lines = []
    for site in ("hospital-a", "hospital-b"):
        run("keys", "init", tmp_path / site, site)
        lines.append(run("keys", "export", tmp_path / site))
    (tmp_path / "public-keys.txt").write_text("".join(lines))
    run("keys", "init", tmp_path / "operator", "--operator")
    run("roster", "sign", tmp_path / "operator", "--run", "trial-1", "--public", tmp_path / "public-keys.txt")
    for name in ("roster.json", "operator.pub"):
        (tmp_path / "hospital-a" / name).write_bytes((tmp_path / "operator" / name).read_bytes())
    assert run("roster", "verify", tmp_path / "hospital-a").startswith("valid")
    assert [path.name for path in (tmp_path / "hospital-a" / "clients").iterdir()] == ["hospital-a.key"]
