"""`flctl partition SOURCE`: flags, defaults, the config's section, refusals, and what is told."""

from __future__ import annotations

import json
import os
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from flctl.cli import run
from flctl.cli.partition.flags import FLAGS
from flctl.cli.partition.job import report_on
from flctl.partition.request import PartitionSettings
from flctl.partition.store import Partition
from flctl.plugins.registry import Registry


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def partition(*words: str) -> int:
    return run(["partition", *words])


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def make(capsys, *words: str, report: bool = False) -> tuple[Partition, dict]:
    assert partition(*words, "--json", *([] if report else ["--no-report"])) == 0
    data = told(capsys)["data"]
    return Partition.open(data["path"]), data


CENSUS = "age,work,income\n" + "".join(
    f"{20 + row},{'private' if row % 3 else 'state'},{'high' if row % 2 else 'low'}\n" for row in range(30)
)


# The main job


@pytest.mark.usefixtures("pictures")
def test_the_issues_own_command(capsys):
    words = "digits --scheme dirichlet --alpha 0.3 --clients 20 --test-fraction 0.2 --seed 7 --out parts/x"
    made, data = make(capsys, *words.split(), report=True)
    assert (made.clients, made.task, made.shape, made.outputs) == (20, "classification", (1, 8, 8), 10)
    assert made.manifest.scheme["name"] == "dirichlet"
    assert made.manifest.scheme["alpha"] == 0.3
    assert (made.manifest.seed, made.manifest.test_fraction) == (7, 0.2)
    assert data["digest"] == made.digest
    assert data["rows"]["train"] + data["rows"]["test"] == 1797
    assert data["next"] == "flctl train parts/x"
    assert sorted(os.listdir("parts/x/report")) == ["heatmap.csv", "heatmap.png", "heatmap.svg", "skew.json"]
    lines = Path("parts/x/report/heatmap.csv").read_text().splitlines()
    assert lines[0] == "client,rows,0,1,2,3,4,5,6,7,8,9"
    assert len(lines) == 21
    assert sum(int(line.split(",")[1]) for line in lines[1:]) == data["rows"]["train"]
    assert json.loads(Path("parts/x/report/skew.json").read_text())["size_gini"] == data["skew"]["size_gini"]


def test_what_people_read(capsys):
    assert partition("iris", "--clients", "3", "--out", "x") == 0
    shown = capsys.readouterr().out
    for word in ("Jensen-Shannon", "Hellinger", "earth mover", "effective labels", "size Gini", "duplicate row"):
        assert word in shown
    assert "next: flctl train x" in shown


def test_the_report_is_not_part_of_the_digest(capsys):
    _, data = make(capsys, "iris", "--out", "x", report=True)
    for file in Path("x/report").iterdir():
        file.unlink()
    assert Partition.open("x").digest == data["digest"]
    assert partition("verify", "x") == 0


def test_equal_commands_give_equal_bytes_and_another_seed_others(capsys):
    digests = [make(capsys, "wine", "--seed", seed, "--out", out)[1]["digest"] for seed, out in ("1a", "1b", "2c")]
    assert digests[0] == digests[1] != digests[2]


def test_defaults(capsys):
    made, data = make(capsys, "iris")
    assert data["path"] == "parts/iris"
    assert (made.clients, made.manifest.scheme["name"], made.manifest.seed) == (10, "dirichlet", 0)
    assert (made.manifest.test_fraction, made.manifest.preprocess.kind) == (0.2, "feature")


def test_a_file_of_ones_own_by_site(capsys):
    Path("census.csv").write_text(CENSUS)
    made, data = make(capsys, "census.csv", "--target", "income", "--by", "work", "--out", "x")
    assert list(made.client_ids) == ["private", "state"]
    assert made.task == "binary"
    assert data["scheme"]["name"] == "natural"
    assert made.manifest.dataset.source == "census.csv"
    assert made.manifest.dataset.options["target"] == "income"
    assert made.manifest.dataset.options["reader"] == "csv"


def test_clients_by_pairs_of_columns(capsys):
    lines = [f"{row},{'ab'[row % 2]},{'xy'[row // 15]},{'high' if row % 3 else 'low'}" for row in range(30)]
    Path("t.csv").write_text("age,site,ward,income\n" + "\n".join(lines) + "\n")
    made, _ = make(capsys, "t.csv", "--target", "income", "--by", "site,ward", "--out", "p")
    assert list(made.client_ids) == ["a / x", "a / y", "b / x", "b / y"]
    assert made.manifest.dataset.features == ("age",)


def test_ids_that_look_like_markup_or_move_the_cursor_are_shown_as_text(capsys):
    lines = [f"{row},{'[/]' if row % 2 else chr(27) + '[2J'},{'high' if row % 3 else 'low'}" for row in range(30)]
    Path("t.csv").write_text("age,site,income\n" + "\n".join(lines) + "\n")
    assert partition("t.csv", "--target", "income", "--by", "site", "--out", "p", "--no-report") == 0
    shown = capsys.readouterr().out
    assert "[/]" in shown
    assert "\\[/]" not in shown
    assert chr(27) + "[2J" not in shown


def test_columns_by_index_and_no_header(capsys):
    Path("census.data").write_text(CENSUS.partition("\n")[2])
    made, _ = make(capsys, "census.data", "--no-header", "--target", "2", "--by", "1", "--out", "x")
    assert list(made.client_ids) == ["private", "state"]


def test_a_source_that_knows_its_clients_is_partitioned_by_them(capsys):
    made, data = make(capsys, "synthetic(1,1,5)", "--out", "x")
    assert data["scheme"]["name"] == "natural"
    assert made.clients == 5


def test_text_is_partitioned_by_speaker(capsys):
    Path("play.txt").write_text("HAMLET:\nTo be, or not to be\n\nOPHELIA:\nGood my lord, how does\n\nHAMLET:\nWell\n")
    made, _ = make(capsys, "play.txt", "--by", "speaker", "--window", "4", "--out", "x")
    assert list(made.client_ids) == ["HAMLET", "OPHELIA"]
    assert made.manifest.test_split == "last"
    assert made.manifest.preprocess.kind == "none"


def test_an_option_of_scheme_and_reader_goes_to_the_scheme_that_was_named(capsys):
    words = ["synthetic", "--devices", "4", "--out"]
    by_reader, _ = make(capsys, *words, "a", "--alpha", "0.5")
    assert by_reader.manifest.dataset.options["alpha"] == "0.5"
    by_scheme, _ = make(capsys, *words, "b", "--alpha", "0.5", "--scheme", "dirichlet")
    assert by_scheme.manifest.scheme["alpha"] == 0.5
    assert "alpha" not in by_scheme.manifest.dataset.options
    both = make(capsys, *words, "c", "--alpha", "0.5", "--scheme", "dirichlet", "--reader-option", "alpha=2")[0]
    assert (both.manifest.scheme["alpha"], both.manifest.dataset.options["alpha"]) == (0.5, "2")


def test_no_absolute_path_is_recorded(capsys, here):
    (here / "folder").mkdir()
    (here / "folder" / "census.csv").write_text(CENSUS)
    make(capsys, str(here / "folder" / "census.csv"), "--target", "income", "--drop", "work", "--out", "x", report=True)
    for file in Path("x").rglob("*.json"):
        assert str(here) not in file.read_text()


@pytest.mark.usefixtures("pictures")
def test_pictures_and_numbers_elsewhere(capsys):
    make(capsys, "iris", "--out", "x", "--picture", "a.png", "--picture", "b.svg", "--csv", "c.csv", report=True)
    assert Path("a.png").read_bytes() == Path("x/report/heatmap.png").read_bytes()
    assert Path("b.svg").read_text().startswith("<?xml")
    assert Path("c.csv").read_bytes() == Path("x/report/heatmap.csv").read_bytes()


# Where settings come from


def test_the_configs_section_with_flags_winning(capsys):
    Path("c.yaml").write_text(
        "rounds: 3\npartition:\n  source: iris\n  scheme: dirichlet\n  alpha: 0.9\n  clients: 4\n  test-fraction: 0.5\n"
    )
    made, _ = make(capsys, "--config", "c.yaml", "--clients", "5", "-o", "alpha=2", "--out", "x")
    assert (made.clients, made.manifest.scheme["alpha"], made.manifest.test_fraction) == (5, 2.0, 0.5)


def test_a_config_that_says_where_training_looks_says_where_the_partition_goes(capsys):
    Path("c.yaml").write_text("data: parts/iris-a\npartition: {source: iris}\n")
    assert make(capsys, "--config", "c.yaml")[1]["path"] == "parts/iris-a"
    assert make(capsys, "--config", "c.yaml", "--out", "b")[1]["path"] == "b"


def test_a_config_with_a_wrong_key_is_refused_with_its_place(capsys, here):
    Path("c.yaml").write_text("partition:\n  source: iris\n  clinets: 4\n")
    assert partition("--config", "c.yaml") == 2
    shown = capsys.readouterr().err
    assert "c.yaml:3:3" in shown
    assert "clients" in shown
    assert os.listdir(here) == ["c.yaml"]


def test_a_local_plugin_of_the_config_is_loaded(capsys):
    Path("mine.py").write_text(
        "import numpy as np, flctl\n"
        "class Halves(flctl.Partitioner):\n"
        "    'Two halves.'\n"
        "    name = 'halves'\n"
        "    sets_clients = True\n"
        "    def assign(self, rows, clients, rng):\n"
        "        return flctl.Assignment(np.arange(rows.count) * 2 // rows.count, 2)\n"
        "@flctl.hookimpl\n"
        "def flctl_partitioners():\n"
        "    return [Halves]\n"
    )
    Path("c.yaml").write_text("plugins: [./mine.py]\npartition: {source: iris, scheme: halves, out: x}\n")
    assert make(capsys, "--config", "c.yaml")[0].counts.sum(axis=1).tolist() == [75, 75]


def test_a_scheme_with_its_options_as_a_mapping(capsys):
    Path("c.yaml").write_text("partition: {source: iris, scheme: {name: dirichlet, alpha: 7}, out: x}\n")
    made, _ = make(capsys, "--config", "c.yaml")
    assert made.manifest.scheme["alpha"] == 7


def test_a_plugins_scheme_takes_its_options(capsys, monkeypatch):
    from flctl.component import Options
    from flctl.partition.partitioner import Assignment, Partitioner
    from flctl.plugins.registry import Offer, Plugin

    class Modulo(Partitioner):
        """Every n-th row."""

        name = "modulo"

        class Config(Options):
            step: int

        def assign(self, rows, clients, rng):
            return Assignment(np.arange(rows.count) % self.config.step, self.config.step)

    known = Registry.offers

    def offers(self, kind):
        found = dict(known(self, kind))
        return found | {"modulo": Offer(Modulo, Plugin("mine", "mine 1"))} if kind == "partitioner" else found

    monkeypatch.setattr(Registry, "offers", offers)
    made, data = make(capsys, "iris", "--scheme", "modulo", "-o", "step=3", "--out", "x")
    assert made.clients == 3
    assert data["scheme"] == {"name": "modulo", "step": 3}


def test_every_option_of_built_in_schemes_and_readers_has_a_flag():
    registry = Registry()
    flags = {flag.name for flag in FLAGS}
    options = {
        key
        for kind in ("partitioner", "dataset")
        for offer in registry.offers(kind).values()
        if offer.plugin.name == "builtin"
        for key in offer.component.Config.model_fields
    }
    assert options - flags == {"more"}, "further sources are arguments"
    own = set(PartitionSettings.model_fields) - {"source", "out", "reader_options", "scheme_options"}
    assert flags - options == own - options


# Refusals


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 0, None),
        ("--out x", 2, "no source was named"),
        ("nothere", 2, "neither a built-in data set nor a file"),
        ("iriss", 2, "iris"),
        ("nothere.csv --target a", 2, "no such file"),
        ("inspetc parts/x", 2, "Did you mean 'inspect'"),
        ("--seed 1 inspect", 2, "'inspect' is a subcommand and comes first"),
        ("iris --bogus 1", 2, "no such option --bogus"),
        ("iris extra", 2, "the iris reader reads one source, found 2"),
        ("iris -o bogus=1", 2, "--bogus is an option neither of scheme 'dirichlet'"),
        ("iris -o test_fractoin=1", 2, "Did you mean 'test_fraction'"),
        ("iris -o bogus", 2, "not KEY=VALUE"),
        ("iris --alpha 0", 2, "--alpha 0: must be above 0"),
        ("iris --alpha -1", 2, "--alpha -1: must be above 0"),
        ("iris --alpha nan", 2, "--alpha nan"),
        ("iris --alpha much", 2, "--alpha much"),
        ("iris --scheme iid --alpha 0.3", 2, "--alpha belongs to dirichlet, inner-dirichlet, synthetic"),
        ("iris --scheme nope", 2, "unknown scheme 'nope'"),
        ("iris --scheme dirichlte", 2, "Did you mean 'dirichlet'"),
        ("iris --reader nope", 2, "unknown reader 'nope'"),
        ("iris --clients 0", 2, "--clients 0"),
        ("iris --clients many", 2, "--clients many"),
        ("iris --clients 151", 2, "more than the 150 rows"),
        ("iris --min-size 100 --clients 5", 2, "needs 500 rows"),
        ("iris --test-fraction 1.5", 2, "--test-fraction 1.5"),
        ("iris --test-fraction -0.1", 2, "--test-fraction -0.1"),
        ("iris --test-fraction nan", 2, "--test-fraction nan"),
        ("iris --test-split first", 2, "--test-split first"),
        ("iris --standardise twice", 2, "--standardise twice"),
        ("iris --standardise channel", 2, "needs images"),
        ("iris --target 3", 2, "--target belongs to"),
        ("iris --by site", 2, "no group column 'site'"),
        ("iris --scheme natural", 2, "needs a column"),
        ("iris --scheme sizes", 2, "scheme 'sizes' needs --sizes"),
        ("iris --scheme distribution", 2, "scheme 'distribution' needs --matrix"),
        ("iris --config nothere.yaml", 2, "does not exist"),
        ("iris --picture x.gif", 2, "x.gif does not end in"),
        ("census.csv --target salary", 2, "salary"),
        ("census.csv --target income --by city", 2, "city"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_and_writes_nothing(capsys, here, words, code, message):
    (here / "census.csv").write_text(CENSUS)
    assert partition(*words.split()) == code
    shown = capsys.readouterr()
    if message:
        assert message in " ".join(shown.err.split())
        assert shown.out == ""
    assert os.listdir(here) == ["census.csv"]


def test_an_existing_directory_is_refused_before_the_source_is_read(capsys, here):
    (here / "x").mkdir()
    assert partition("nothere.csv", "--out", "x") == 2
    assert "x exists already" in capsys.readouterr().err
    assert partition("iris", "--out", "y", "--picture", "x") == 2
    assert os.listdir(here) == ["x"]


def test_errors_are_told_in_the_envelope_too(capsys):
    assert partition("iris", "--alpha", "0", "--json") == 2
    envelope = told(capsys)
    assert (envelope["ok"], envelope["command"], envelope["error"]["kind"]) == (False, "partition", "config")
    assert envelope["error"]["exit_code"] == 2


def test_a_damaged_source_is_an_integrity_error(capsys, here):
    np.savez(here / "data.npz", x=np.zeros((9, 2), np.float32), y=np.arange(9) % 2)
    raw = bytearray((here / "data.npz").read_bytes())
    (here / "data.npz").write_bytes(raw[: len(raw) // 2])
    assert partition("data.npz", "--out", "x") == 6
    assert os.listdir(here) == ["data.npz"]


def test_a_report_that_cannot_be_written_leaves_the_partition(capsys, here, monkeypatch):
    from flctl.cli.partition import job
    from flctl.errors import StorageError

    def refuse(*_):
        raise StorageError("cannot write heatmap.png: No space left on device")

    monkeypatch.setattr(job, "draw", refuse)
    assert partition("iris", "--out", "x") == 0
    assert "its report was not" in capsys.readouterr().err
    Partition.open("x").verify_digests()
    assert "report" not in os.listdir("x")


# Real data


def test_the_census_by_class_of_employer(capsys, data_root):
    words = "--header no --target 14 --by 1 --drop 2 --categorical 3,5,6,7,8,9,13 --na ? --missing-group leave-out"
    made, data = make(capsys, str(data_root / "adult" / "adult.data.gz"), *words.split(), "--out", "x")
    sizes = dict(zip(made.client_ids, made.counts.sum(axis=1).tolist(), strict=True))
    assert sizes["Private"] == 22_696
    assert sizes["Federal-gov"] == 960
    assert data["rows"]["left_out"] == 1836
    assert sum(sizes.values()) + 1836 == 32_561


def test_mnist_in_two_shards_for_each_of_100_clients(capsys, data_root):
    words = "--scheme shard --shards-per-client 2 --clients 100 --test-fraction 0 --no-duplicates --seed 1 --out x"
    made, data = make(capsys, str(data_root / "mnist"), *words.split())
    assert made.counts.tolist() == [[600, 0]] * 100
    assert max(len(set(made.train(client)[1].tolist())) for client in range(100)) <= 4
    assert (data["central_test"], data["rows"]["central_test"]) == ("own", 10_000)
    (shift,), (scale,) = made.manifest.preprocess.shift, made.manifest.preprocess.scale
    assert shift / 255 == pytest.approx(0.13066, abs=1e-5)
    assert scale / 255 == pytest.approx(0.30811, abs=1e-5)


def test_a_narrow_terminal_breaks_lines_between_words(capsys):
    made, _ = make(capsys, "iris", "--clients", "4", "--out", "x")
    shown = StringIO()
    report_on(made, duplicates=True).render(Console(file=shown, width=62))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    first = next(place for place, line in enumerate(lines) if line.startswith("training rows by client"))
    assert lines[first].endswith("0 of 4 clients")
    assert lines[first + 1] == "without rows"
