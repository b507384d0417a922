"""The end-to-end audit: `flctl train` on canaries, by the configuration of a run. A sound mechanism stays below its
claim; with one fault in the code that trains, the bound is above it.

Coins and noise follow from a seed here, so that no test fails by chance; the power with fresh ones is in docs/dp.md.
"""

import itertools
import json
import math

import numpy as np
import pytest
import typer
import yaml
from flctl import ConfigError, FlctlError, IncompatibleError
from flctl.cli import build

from audit_faults import CONFIGS, FAULTS, config
from flctl_dp.accounting.accountants import gaussian_epsilon
from flctl_dp.audit.canary_data import Canaries
from flctl_dp.audit.end_to_end import audit_end_to_end
from flctl_dp.commands.in_process import in_process
from flctl_dp.mechanisms.central import CentralDP
from flctl_dp.mechanisms.examples import ExampleDP
from flctl_dp.noise.entropy import insecure_words

FEWER = {"dp-distributed": 400}
"""Secure aggregation is slow; with these canaries, one audit of ten misses a fault."""


@pytest.fixture(scope="module")
def commands():
    return in_process(typer.main.get_command(build(())))


@pytest.fixture
def audited(commands, tmp_path, monkeypatch):
    """Audits a mechanism, its canaries and noise drawn by seed."""
    calls = itertools.count()
    for kind in (CentralDP, ExampleDP):
        monkeypatch.setattr(kind, "_words", lambda *_: insecure_words("audit", next(calls)))

    def found(name, fewer=None):
        given, canaries, rounds = config(name)
        if given["aggregator"] != "plain":
            pytest.importorskip("flctl_secagg", reason="the plugin flctl-secagg is not installed")
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
        return audit_end_to_end(tmp_path, fewer or canaries, rounds, commands, np.random.default_rng(7))

    return found


def test_a_sound_mechanism_stays_below_its_claim_and_one_with_too_little_noise_is_refuted(audited, monkeypatch):
    sound = audited("dp", 500)
    assert sound.claim == pytest.approx(gaussian_epsilon(1 / 1.5, 1e-5))
    assert 0.3 < sound.lower < sound.claim
    assert (sound.broken, sound.end_to_end, sound.canaries) == (False, True, 500)
    FAULTS["dp", "a quarter of the noise"](monkeypatch)
    broken = audited("dp", 500)
    assert broken.lower > broken.claim == sound.claim


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "dp"])
def test_each_sound_mechanism_stays_below_its_claim(audited, name):
    found = audited(name, FEWER.get(name))
    assert 0 < found.lower < found.claim < math.inf


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), [one for one in FAULTS if one != ("dp", "a quarter of the noise")])
def test_each_fault_takes_the_bound_above_the_claim(audited, monkeypatch, name, fault):
    FAULTS[name, fault](monkeypatch)
    found = audited(name, FEWER.get(name))
    assert found.lower > found.claim
    assert found.broken


def test_the_command_trains_on_its_own_command_line(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config("dp-local")[0]))
    words = ["dp", "audit", str(tmp_path / "config.yaml"), "--end-to-end", "--canaries", "40", "--json"]
    assert not typer.main.get_command(build(())).main(args=words, prog_name="flctl", standalone_mode=False)
    said = json.loads(capsys.readouterr().out)["data"]
    assert (said["canaries"], said["end_to_end"], said["broken"]) == (40, True, False)
    assert said["claim"] == pytest.approx(gaussian_epsilon(2 / 3.0, 1e-5))


def test_canaries_of_clients_have_equal_rows_on_a_feature_of_their_own(tmp_path):
    canaries = Canaries(np.array([True, False, True]), by_row=False, opposite=False, single=False)
    canaries.save(tmp_path / "canaries.npz", 0.5)
    saved = np.load(tmp_path / "canaries.npz")
    assert saved["client"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert saved["x"][::4].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert saved["y"][::4].tolist() == [500, 0, 500]
    assert canaries.learned(np.zeros(3), np.array([3.0, 1.0, 2.0])).tolist() == [3, 1, 2]


def test_canaries_of_rows_are_replaced_by_their_opposites_if_the_claim_is_about_that(tmp_path):
    canaries = Canaries(np.arange(6) % 2 == 0, by_row=True, opposite=True, single=True)
    canaries.save(tmp_path / "canaries.npz", 1.0)
    saved = np.load(tmp_path / "canaries.npz")
    assert (canaries.clients, saved["client"].tolist()) == (2, [0, 0, 0, 0, 1, 1])
    assert saved["y"].tolist() == [1000, -1000, 1000, -1000, 1000, -1000]
    assert saved["x"].argmax(axis=1).tolist() == [0, 1, 2, 3, 0, 1]


def never(words):
    pytest.fail(f"flctl {words} was run")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"insecure_seed": 3}, ConfigError, "no privacy claim"),
        ({"noise_multiplier": None, "target_epsilon": 2.0}, IncompatibleError, "known only after a run"),
    ],
)
def test_what_claims_nothing_or_is_not_known_yet_is_refused(tmp_path, options, error, said):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"transforms": {"dp": {"noise_multiplier": 4.0, **options}}}))
    with pytest.raises(error, match=said):
        audit_end_to_end(tmp_path, 50, None, never)


def test_a_configuration_without_a_mechanism_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("transforms: {topk: {}}\n")
    with pytest.raises(ConfigError, match="no mechanism"):
        audit_end_to_end(tmp_path, 50, None, never)


def test_commands_within_a_command_print_nothing_and_fail_with_their_reason(commands, capsys, tmp_path):
    commands(["--version"])
    with pytest.raises(ConfigError, match="partition"):
        commands(["train"])
    assert capsys.readouterr() == ("", "")
    failing = in_process(type("Root", (), {"main": lambda self, **given: 4})())
    with pytest.raises(FlctlError, match="flctl train ended with exit code 4"):
        failing(["train"])
