"""The benchmark of rules under attack: its arithmetic by hand, and its quick form."""

import subprocess
import sys
from pathlib import Path

import pytest
from harness.robustness_table import Cell, claims, markdown, table

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FACTS = {"date": "today", "seconds": 1, "command": "c", "machine": "m", "setting": "s"}


def made(**changed):
    """Three rules, two seeds each: clean 0.9 and 0.92; whatever is not given stays so."""
    rules, attacks = ("mean", "median", "krum", "bulyan"), ("none", "sign flip", "ALIE", "IPM 100", "backdoor")
    values = {"mean/sign flip": (0.1, 0.2), "mean/IPM 100": (0.0, 0.1), "median/ALIE": (0.84, 0.86), **changed}
    cells = [
        Cell(
            rule, attack, seed, values.get(f"{rule}/{attack}", (0.9, 0.92))[seed], 0.5 if attack == "backdoor" else None
        )
        for rule in rules
        for attack in attacks
        for seed in (0, 1)
    ]
    return table(cells, rules, attacks)


def test_the_table_has_means_and_spreads_in_percent():
    rows = {row[0]: row[1:] for row in made().rows()}
    assert rows["mean"][1] == "15.0 (10.0-20.0)"
    assert rows["median"][2] == "85.0 (84.0-86.0)"
    assert rows["krum"][-1] == "50.0"
    assert made().lost("median", "ALIE") == pytest.approx(0.06)


def test_what_is_claimed_is_judged():
    """The median loses 6 points to ALIE, krum and bulyan nothing."""
    assert [claim.met for claim in claims(made())] == [True, True, True, True]
    one_seed_too_good = claims(made(**{"mean/IPM 100": (0.0, 0.21)}))
    assert [claim.met for claim in one_seed_too_good] == [False, True, True, True]
    not_hurt = claims(made(**{"median/ALIE": (0.86, 0.87)}))  # 4.5 points lost
    assert [claim.met for claim in not_hurt] == [True, True, False, True]
    one_left = claims(made(**{"krum/backdoor": (0.85, 0.86)}))  # 5.5 points lost: bulyan alone is left
    assert [claim.met for claim in one_left] == [True, True, True, False]
    assert "| **no** |" in markdown(FACTS, made(), one_left)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_form_runs_and_writes_nothing():
    def written():
        return {path.name: path.stat().st_mtime_ns for path in (BENCHMARKS / "results").glob("robustness*")}

    before = written()
    command = [sys.executable, "benchmarks/robustness.py", "--quick"]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = [line.strip() for line in done.stdout.splitlines()]
    assert all(any(line.startswith(f"{rule}  ") for line in shown) for rule in ("mean", "median", "multi-krum"))
    assert written() == before
