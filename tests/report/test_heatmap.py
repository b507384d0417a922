"""Heatmaps: the numbers as CSV, pictures whose text does not overlap, and a terminal that needs no colour."""

import csv
import io
import itertools
import re
import warnings

import numpy as np
import pytest
from rich.console import Console
from support import slow_but
from support.stores import Owners, store, table

from flctl.data.dataset import Dataset
from flctl.partition import PARTITIONERS
from flctl.report.heatmap import Heatmap, _figure, bin_labels, draw, full_colour, heatmap_of, lines, write_csv
from flctl.report.heatmap_terminal import render


def heatmap(clients, labels=10, kind="classes", names=None, ids=None, seed=0):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 60, (clients, labels)) * (random.random((clients, labels)) < 0.5)
    sizes = counts.sum(axis=1) if labels else random.integers(0, 90, clients)
    names = names or tuple(str(code) for code in range(labels))
    ids = ids or [str(client) for client in range(clients)]
    return Heatmap(f"a table, dirichlet (alpha 0.3): {clients:,} clients", kind, ids, names, counts, sizes)


def printed(shown, width=80, colour=None, **options):
    console = Console(
        file=io.StringIO(), width=width, color_system=colour, force_terminal=colour is not None, highlight=False
    )
    render(shown, console, **options)
    return console.file.getvalue()


CASES = {
    "one": heatmap(1, 3),
    "5": heatmap(5),
    "20": heatmap(20),
    "40 with long names": heatmap(
        40,
        8,
        names=tuple(f"a label of {i} words $ and $" for i in range(8)),
        ids=[f"station {i}" * 4 for i in range(40)],
    ),
    "300": heatmap(300),
    "5000": heatmap(5000),
    "62 labels": heatmap(30, 62),
    "1000 labels": heatmap(50, 1000),
    "sizes of 12": heatmap(12, 0, "none"),
    "sizes of 900": heatmap(900, 0, "none"),
}


@pytest.mark.parametrize("case", slow_but(CASES, "one", "40 with long names", "62 labels", "sizes of 12"))
def test_no_text_lies_on_other_text_or_outside_the_picture(case):
    figure = _figure(CASES[case])
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox.padded(1)
    texts = [text for axes in figure.axes for text in _texts(axes)] + [figure._suptitle]
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text.get_text()
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text.get_text()
    upright = [(t, box.padded(-0.5)) for t, box in zip(texts, boxes, strict=True) if t.get_rotation() in (0, 90)]
    for (one, a), (other, b) in itertools.combinations(upright, 2):
        assert not a.overlaps(b), (one.get_text(), other.get_text())
    assert len(upright) > 3


def _texts(axes):
    """The texts that are drawn: tick labels beyond an axis' limits, or switched off, are not."""
    drawn = [axes.xaxis.label, axes.yaxis.label, *axes.texts]
    for axis, side in ((axes.xaxis, "labelbottom"), (axes.yaxis, "labelleft")):
        low, high = sorted(axis.get_view_interval())
        if axis.get_tick_params().get(side, True):
            labels = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
            drawn += [label for place, label in labels if low - 1e-9 <= place <= high + 1e-9]
    return [text for text in drawn if text.get_text()]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_the_same_bytes_each_time(tmp_path, suffix):
    first, second = (draw(CASES["5"], tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_the_svg_holds_title_names_and_numbers_as_text(tmp_path):
    text = draw(heatmap(4, 3, names=("cat", "dog", "$c_o$")), tmp_path / "x.svg").read_text()
    for word in ("alpha 0.3", "cat", "dog", ">$c_o$</text>", "label", "client", "rows", "share of the client"):
        assert word in text


def test_letters_that_the_font_lacks_are_no_news(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(heatmap(3, 2, names=("猫", "犬"), ids=["北", "南", "\t\n"]), tmp_path / "x.png")


def test_csv_is_what_was_counted(tmp_path):
    shown = Heatmap("t", "classes", ["a,b", "c"], ("x", 'y"z'), np.array([[1, 2], [0, 4]]), np.array([3, 4]))
    rows = list(csv.reader(write_csv(shown, tmp_path / "x.csv").read_text().splitlines()))
    assert rows == [["client", "rows", "x", 'y"z'], ["a,b", "3", "1", "2"], ["c", "4", "0", "4"]]


def test_few_clients_have_a_line_each_in_their_order():
    found = lines(CASES["20"])
    assert found.in_client_order
    assert [part.tolist() for part in found.members] == [[client] for client in range(20)]


@pytest.mark.parametrize("case", ["300", "5000", "sizes of 900"])
def test_many_clients_are_each_on_one_line(case):
    found, clients = lines(CASES[case]), len(CASES[case].sizes)
    assert sorted(np.concatenate(found.members).tolist()) == list(range(clients))
    assert len(found.members) == min(clients, 400)
    assert not found.in_client_order
    assert found.sizes @ [len(part) for part in found.members] == pytest.approx(CASES[case].sizes.sum())


def test_many_clients_are_ordered_by_their_main_label_and_empty_ones_come_last():
    counts = np.zeros((100, 3), np.int64)
    counts[np.arange(99), np.arange(99) % 3] = 5
    found = lines(Heatmap("t", "classes", [str(i) for i in range(100)], ("a", "b", "c"), counts, counts.sum(axis=1)))
    main = [counts[part[0]].argmax() for part in found.members[:-1]]
    assert main == sorted(main)
    assert found.members[-1].tolist() == [99]


def test_the_last_colour_is_well_above_an_even_mix():
    assert full_colour(np.full((3, 10), 0.1)) == 0.4
    assert full_colour(np.array([[0.7, 0.3]])) == 1
    assert full_colour(np.array([[0.63, *[0.01] * 37]])) == 0.65


def test_bins_are_named_by_their_edges():
    assert bin_labels(np.array([1.0, 2.5])) == ("< 1", "1 to 2.5", "≥ 2.5")
    assert bin_labels(np.array([])) == ("all",)
    assert bin_labels(np.array([1000.1, 1000.2])) == ("< 1000.1", "1000.1 to 1000.2", "≥ 1000.2")


def test_the_terminal_without_colour_is_plain_numbers():
    shown = Heatmap(
        "two", "classes", ["a", "b", "c"], ("x", "y"), np.array([[3, 1], [0, 4], [0, 0]]), np.array([4, 4, 0])
    )
    text = printed(shown)
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert rows[:7] == [
        ["two"],
        ["client", "x", "y", "rows", "eff."],
        ["a", "3", "1", "4", "1.8"],
        ["b", "·", "4", "4", "1.0"],
        ["c", "·", "·", "0", "empty"],
        ["all", "3", "5", "8", "1.9"],
        ["clients", "1", "2"],
    ]


def test_colour_only_adds_colour():
    coloured = printed(CASES["20"], colour="truecolor")
    assert "\x1b[38;2;" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == printed(CASES["20"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_table_fits_the_terminal_and_is_short(case, width):
    text = printed(CASES[case], width)
    if width >= 80 or not CASES[case].labels:
        assert max(len(line) for line in text.splitlines()) <= width
    assert len(text.splitlines()) <= 24 + 40


def test_of_many_clients_the_extremes_and_the_middle_are_shown():
    shown = CASES["300"]
    text = printed(shown, most=9)
    order = np.argsort(-shown.sizes, kind="stable")
    names = [line.split()[0] for line in text.splitlines() if re.match(r"\d+ ", line)]
    names = [name for name in names if f"{name} around" not in text]
    assert names[:3] + names[-3:] == [str(client) for client in (*order[:3], *order[-3:])]
    assert len(names) == 9
    even = Heatmap("t", "classes", [str(i) for i in range(90)], ("a",), np.full((90, 1), 2), np.full(90, 2))
    assert "the first 24 of 90 clients of equal size" in printed(even)


def test_rare_labels_share_a_column_that_adds_up():
    shown = CASES["62 labels"]
    rows = {line.split()[0]: line.split() for line in printed(shown, most=30).splitlines() if line.strip()}
    header = rows["client"]
    assert header[-3:] == ["rest", "rows", "eff."]
    first = [int(cell.replace("·", "0").replace(",", "")) for cell in rows["0"][1:-1]]
    assert sum(first[:-1]) == first[-1] == shown.sizes[0]
    kept = [int(name) for name in header[1:-3]]
    assert shown.counts.sum(axis=0)[kept].min() >= np.delete(shown.counts.sum(axis=0), kept).max()


def test_control_characters_do_not_reach_the_terminal():
    shown = heatmap(2, 2, names=("a\x1b[31m", "b\n"), ids=["x\x07", "[red]y"])
    text = printed(shown)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]y" in text


def test_a_stored_classification(tmp_path):
    data = table(20, y=np.repeat([0, 1], 10))
    shown = heatmap_of(store(tmp_path / "parts", data, Owners([0] * 5 + [1] * 15, 3), test_fraction=0.2))
    assert (shown.kind, shown.labels) == ("classes", ("no", "yes"))
    assert shown.sizes.tolist() == [4, 12, 0]
    assert shown.counts.sum(axis=1).tolist() == [4, 12, 0]
    assert shown.counts[0].tolist() == [4, 0]
    assert shown.title == "table, owners: 3 clients, 16 training rows"


def test_a_stored_regression(tmp_path):
    x = np.zeros((40, 1), np.float32)
    data = Dataset("air", "regression", x, np.arange(40, dtype=np.float32))
    shown = heatmap_of(store(tmp_path / "parts", data, Owners(np.arange(40) // 20), test_fraction=0), bins=4)
    assert (shown.kind, shown.labels) == ("bins", ("< 9.75", "9.75 to 19.5", "19.5 to 29.2", "≥ 29.2"))
    assert shown.counts.tolist() == [[10, 10, 0, 0], [0, 0, 10, 10]]
    assert "Labels: < 9.75, 9.75 to 19.5" in printed(shown)


def test_the_title_tells_what_was_chosen_and_not_every_default(tmp_path):
    scheme = next(scheme for scheme in PARTITIONERS if scheme.name == "dirichlet")
    data = table(40)
    plain = store(tmp_path / "plain", data, scheme.from_options({}), clients=4, test_fraction=0)
    assert heatmap_of(plain).title == "table, dirichlet (alpha 0.5): 4 clients, 40 training rows"
    chosen = store(tmp_path / "chosen", data, scheme.from_options({"alpha": 9, "bins": 7}), clients=1, test_fraction=0)
    assert heatmap_of(chosen).title == "table, dirichlet (alpha 9, bins 7): 1 client, 40 training rows"


def test_stored_text(tmp_path):
    x = np.zeros((6, 4), np.uint8)
    data = Dataset("plays", "next-character", x, np.zeros((6, 4), np.int32), tuple("abc"))
    shown = heatmap_of(store(tmp_path / "parts", data, Owners([0, 0, 0, 0, 1, 1]), test_fraction=0))
    assert (shown.kind, shown.labels, shown.sizes.tolist()) == ("none", (), [4, 2])
    assert printed(shown).splitlines()[1].split() == ["0", "4", "█" * 30]
