"""Pictures are drawn from whatever a run has, are the same for the same numbers, and show those numbers."""

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.image import imread
from support import slow_but

from flctl.errors import ConfigError
from flctl.evaluation.evaluate import ClientScores
from flctl.report.clients import draw_order, draw_sizes
from flctl.report.curves import compare_curves, curves, shown_metric
from flctl.report.figure import legend, new_figure, save


def rows(count, every=1, metric="accuracy", scale=1.0):
    for number in range(1, count + 1):
        row = {"round": number, "loss": scale / number, "bytes_up": 1000, "bytes_down": 2000}
        if number % every == 0:
            row |= {"test_loss": scale * 1.1 / number, metric: 1 - 1 / (number + 1)}
        yield row


def text(path):
    return path.read_text(encoding="utf-8")


def test_one_run_has_its_losses_its_metric_and_its_bytes(tmp_path):
    out = curves(list(rows(5)), tmp_path / "c.svg")
    drawn = text(out)
    for words in (">round<", ">loss<", ">accuracy<", ">test<", "kB sent", "Accuracy by round", "Accuracy by traffic"):
        assert words in drawn


def test_several_runs_are_named(tmp_path):
    runs = {"runs/one": list(rows(5)), "runs/two": list(rows(50, every=10))}
    drawn = text(compare_curves(runs, tmp_path / "c.svg"))
    assert ">runs/one<" in drawn
    assert ">runs/two<" in drawn


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"round": 1, "loss": None, "bytes_up": 0, "bytes_down": 0}],
        [{"round": 1, "loss": 1.0, "bytes_up": 5, "bytes_down": 5, "test_loss": None, "accuracy": None}],
        list(rows(3, every=7)),
    ],
)
def test_what_is_missing_is_said_not_crashed_on(tmp_path, lines):
    assert "no values yet" in text(curves(lines, tmp_path / "c.svg"))


def test_losses_over_orders_of_magnitude_get_a_logarithmic_scale(tmp_path):
    flat = imread(curves(list(rows(9)), tmp_path / "flat.png"))
    steep = [{**row, "loss": 10.0 ** -row["round"]} for row in rows(9)]
    assert "mathdefault{10^{" in text(curves(steep, tmp_path / "steep.svg"))
    assert flat.shape[1] > 1000


@pytest.mark.parametrize("ending", slow_but(["png", "svg"], "svg"))
def test_equal_numbers_give_equal_bytes(tmp_path, ending):
    one = curves(list(rows(4)), tmp_path / f"one.{ending}").read_bytes()
    assert one == curves(list(rows(4)), tmp_path / f"two.{ending}").read_bytes()
    assert one != curves(list(rows(4, scale=2)), tmp_path / f"three.{ending}").read_bytes()


def test_the_metric_follows_the_task():
    assert shown_metric(list(rows(2, metric="rmse"))) == "rmse"
    assert shown_metric([{"test_loss": 1.0}]) == "test_loss"
    assert shown_metric([]) == "accuracy"


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"does not end in \.png or \.svg"):
        curves(list(rows(2)), tmp_path / "c.jpg")


def scores(values):
    values = np.array(values, np.float64)
    count = len(values)
    return ClientScores(
        [str(k) for k in range(count)], np.arange(count) * 30 + 1, np.full(count, 5), {"accuracy": values}
    )


def draw_clients(runs, metric, out):
    figure = new_figure(8, 4)
    order, size = figure.subplots(1, 2)
    draw_order(order, runs, metric)
    draw_sizes(size, runs, metric)
    legend(figure, order)
    return save(figure, out)


def test_clients_are_drawn_for_each_run(tmp_path):
    runs = {"one": scores([0.1, 0.9, math.nan, 0.5]), "two": scores([0.4] * 4)}
    drawn = text(draw_clients(runs, "accuracy", tmp_path / "c.svg"))
    for words in (">one<", ">two<", "worst", "clients, from worst to best"):
        assert words in drawn


@pytest.mark.parametrize("sizes", [[6, 7, 8], [900, 4000, 5200], [3, 3, 3], [1, 40, 5000]])
def test_ticks_of_sizes_are_whole_numbers(sizes):
    drawn = scores([0.4] * 3)
    axes = new_figure(4, 4).subplots()
    draw_sizes(axes, {"one": dataclasses.replace(drawn, sizes=np.array(sizes))}, "accuracy")
    axes.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    labels = [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    assert all(label.replace(",", "").lstrip("\u2212-").isdigit() for label in labels)
    assert 1 <= len(set(labels)) == len(labels)


def test_clients_without_the_metric_leave_a_sentence(tmp_path):
    assert "no client has a value of this metric" in text(
        draw_clients({"x": scores([math.nan])}, "accuracy", tmp_path / "c.svg")
    )
