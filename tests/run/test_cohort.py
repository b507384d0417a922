"""Cohorts: as many as asked, only eligible ones, the same for the same round."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flctl.cli import run
from flctl.config.config import CohortConfig
from flctl.errors import ConfigError, DataError
from flctl.run import cohort as cohorts

IDS = [str(n) for n in range(50)]


@given(st.integers(1, 50), st.integers(1, 30), st.integers(0, 3), st.sampled_from(["fixed", "cyclic"]))
def test_a_fixed_number_is_drawn_from_the_eligible(size, number, seed, sampling):
    eligible = np.arange(0, 50)
    chosen = cohorts.select(CohortConfig(sampling=sampling, clients=size), eligible, IDS, number, seed)
    assert len(set(chosen.tolist())) == len(chosen) == size
    assert list(chosen) == sorted(chosen)
    again = cohorts.select(CohortConfig(sampling=sampling, clients=size), eligible, IDS, number, seed)
    np.testing.assert_array_equal(chosen, again)


def test_clients_without_rows_are_never_asked():
    eligible = np.array([3, 7, 9, 20])
    drawn = {int(c) for n in range(1, 40) for c in cohorts.select(CohortConfig(clients=2), eligible, IDS, n, 0)}
    assert drawn == {3, 7, 9, 20}


def test_cyclic_asks_everyone_once_before_anyone_twice():
    eligible = np.arange(50)
    rounds = [cohorts.select(CohortConfig(sampling="cyclic", clients=10), eligible, IDS, n, 1) for n in range(1, 6)]
    assert sorted(np.concatenate(rounds)) == list(range(50))


def test_poisson_draws_each_client_by_itself():
    eligible = np.arange(2000)
    config = CohortConfig(sampling="poisson", rate=0.1)
    sizes = [len(cohorts.select(config, eligible, IDS, n, 5)) for n in range(1, 201)]
    assert abs(np.mean(sizes) - 200) < 4 * np.sqrt(2000 * 0.1 * 0.9 / 200)
    assert abs(np.var(sizes) - 180) < 80
    assert cohorts.expected_size(config, 2000) == pytest.approx(200)


@pytest.mark.parametrize("secret", [False, True])
def test_poisson_cohorts_that_are_too_large_are_cut_uniformly(secret):
    """Ten clients at 1/2, cut to 4: 1/1024 (1 * 0 + 10 * 1 + 45 * 2 + 120 * 3 + 848 * 4) of them on average."""
    config, eligible = CohortConfig(sampling="poisson", rate=0.5, max_cohort=4), np.arange(10)
    drawn = [cohorts.select(config, eligible, IDS, n, 5, secret=secret) for n in range(1, 6001)]
    sizes = [len(cohort) for cohort in drawn]
    expected = (10 + 90 + 360 + 848 * 4) / 1024
    assert cohorts.expected_size(config, 10) == pytest.approx(expected)
    assert max(sizes) == 4
    assert np.mean(sizes) == pytest.approx(expected, abs=5 * np.std(sizes) / np.sqrt(6000))
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert np.abs(counts - 600 * expected).max() < 5 * np.sqrt(6000 * 0.1 * expected)
    assert all((np.diff(cohort) > 0).all() for cohort in drawn)


def test_a_cut_that_never_happens_changes_nothing():
    plain, cut = CohortConfig(sampling="poisson", rate=0.3), CohortConfig(sampling="poisson", rate=0.3, max_cohort=50)
    for number in range(1, 20):
        pair = [cohorts.select(config, np.arange(50), IDS, number, 5).tolist() for config in (plain, cut)]
        assert pair[0] == pair[1]
    assert cohorts.expected_size(cut, 50) == cohorts.expected_size(plain, 50) == 15
    assert cohorts.expected_size(CohortConfig(sampling="poisson", rate=1.0, max_cohort=7), 50) == 7


def test_a_separation_gives_each_client_one_turn_in_so_many_rounds(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("client,first_round,last_round\n" + "".join(f"{n},1,100\n" for n in range(0, 50, 2)))
    config = CohortConfig(sampling="trace", clients=3, trace=str(trace), separation=7)
    eligible, seen = np.arange(1, 50), {}
    for number in range(1, 101):
        chosen = cohorts.select(config, eligible, IDS, number, 3)
        assert not (chosen % 2).any()
        for client in chosen.tolist():
            seen.setdefault(client, []).append(number)
    assert sum(map(len, seen.values())) > 200
    assert all((np.diff(rounds) % 7 == 0).all() for rounds in seen.values())


def test_fixed_sampling_is_uniform():
    eligible = np.arange(10)
    chosen = [cohorts.select(CohortConfig(clients=3), eligible, IDS, n, 2) for n in range(1, 3001)]
    counts = np.bincount(np.concatenate(chosen), minlength=10)
    assert np.abs(counts - 900).max() < 5 * np.sqrt(3000 * 0.3 * 0.7)


def test_a_trace_says_who_is_available(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("client,first_round,last_round\n1,1,2\n2,2,3\n40,3,3\n")
    config = CohortConfig(sampling="trace", clients=2, trace=str(trace))
    rounds = [cohorts.select(config, np.arange(50), IDS, n, 0).tolist() for n in range(1, 5)]
    assert rounds == [[1], [1, 2], [2, 40], []]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("client,round\n1,2\n", DataError, "expected client, first_round, last_round"),
        ("client,first_round,last_round\nnobody,1,2\n", DataError, "trace.csv:2: the partition has no client 'nobody'"),
        ("client,first_round,last_round\n1,one,2\n", DataError, "trace.csv:2: .* whole numbers"),
        ("client,first_round,last_round\n1,2\n", DataError, "trace.csv:2: .* whole numbers"),
        (None, ConfigError, "does not exist"),
    ],
)
def test_a_bad_trace_is_refused(tmp_path, text, error, says):
    trace = tmp_path / "trace.csv"
    if text is not None:
        trace.write_text(text)
    config = CohortConfig(sampling="trace", clients=2, trace=str(trace))
    with pytest.raises(error, match=says):
        cohorts.select(config, np.arange(50), IDS, 1, 0)


@pytest.mark.parametrize("content", [b"client,first_round,last_round\n\xff,1,2\n", b"a,b\n", None])
def test_a_trace_that_cannot_be_read_is_refused_before_the_run_is_made(toy, tmp_path, content):
    trace = tmp_path / "trace.csv"
    if content is not None:
        trace.write_bytes(content)
    arguments = ["train", str(toy.path), "--sampling", "trace", "-o", f"cohort.trace={trace.as_posix()}"]
    assert run([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
