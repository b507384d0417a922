"""`flctl predict` on new pictures, IDX and ARFF files, from the source to predictions; classes can be told by eye."""

import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from support import slow_but
from support.data_files import idx_bytes

from flctl.cli import run as cli

DARK, BRIGHT = 20, 220


def picture(bright, seed):
    noise = np.random.default_rng(seed).integers(0, 20, (6, 6))
    return (noise + (BRIGHT if bright else DARK)).astype(np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def folder(path, rows):
    for index, (array, label) in enumerate(rows):
        inner = path / ("day" if label else "night")
        inner.mkdir(parents=True, exist_ok=True)
        (inner / f"{index}.png").write_bytes(png(array))
    return path


def idx(path, rows):
    path.mkdir()
    (path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.stack([array for array, _ in rows])))
    (path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.array([label for _, label in rows], np.uint8)))
    return path


def parquet(path, rows):
    cells = [{"bytes": png(array), "path": f"{index}.png"} for index, (array, _) in enumerate(rows)]
    table = pa.table({"image": cells, "label": ["day" if label else "night" for _, label in rows]})
    pa.parquet.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


SOURCES = {"folder": (folder, ()), "idx": (idx, ()), "parquet": (parquet, ("--target", "label"))}


@pytest.fixture
def predicted(capsys):
    """Predictions of new rows, in order."""

    def call(*arguments):
        capsys.readouterr()
        code = cli(["predict", *map(str, arguments)])
        output = capsys.readouterr()
        assert code == 0, output.err
        return [row["prediction"] for row in csv.DictReader(io.StringIO(output.out))]

    return call


def train(home, source, *flags):
    assert cli(["partition", str(source), *flags, "--clients", "2", "--no-report", "--out", str(home / "p")]) == 0
    assert cli(["train", str(home / "p"), "--rounds", "20", "--lr", "0.2", "--out", str(home / "run")]) == 0
    return home / "run"


@pytest.mark.parametrize("kind", slow_but(SOURCES, "folder"))
def test_pictures_of_any_form_are_predicted_whatever_the_training_source(tmp_path, predicted, capsys, kind):
    write, flags = SOURCES[kind]
    rows = [(picture(index % 2, index), index % 2) for index in range(24)]
    run = train(tmp_path, write(tmp_path / "source", rows), *flags)
    night, day = ("0", "1") if kind == "idx" else ("night", "day")

    new = np.stack([picture(bright, 50 + index) for index, bright in enumerate((1, 0, 1))])
    single = tmp_path / "one.webp"
    Image.fromarray(np.stack([new[0]] * 3, axis=-1)).save(single, lossless=True)
    np.savez(tmp_path / "new.npz", x=new)
    np.save(tmp_path / "new.npy", new)
    (tmp_path / "new-images-idx3-ubyte").write_bytes(idx_bytes(new))
    (tmp_path / "flat").mkdir()
    for index, array in enumerate(new):
        (tmp_path / "flat" / f"{index}.png").write_bytes(png(array))
    table = pa.table({"image": [{"bytes": png(array), "path": "x"} for array in new]})
    pa.parquet.write_table(table, tmp_path / "new.parquet")
    for name in ("flat", "new.npz", "new.npy", "new-images-idx3-ubyte", "new.parquet"):
        assert predicted(run, tmp_path / name) == [day, night, day], name
    assert predicted(run, single) == [day]

    (tmp_path / "large.png").write_bytes(png(np.kron(new[0], np.ones((2, 2), np.uint8))))
    assert cli(["predict", str(run), str(tmp_path / "large.png")]) == 2
    assert "--reader-option image_size=6x6 resizes all" in capsys.readouterr().err
    assert predicted(run, tmp_path / "large.png", "--reader-option", "image_size=6x6") == [day]


def arff(path, rows, *, target):
    lines = [f"{age},{job}" + (f",{label}" if target else "") for age, job, label in rows]
    columns = ["age numeric", "job {clerk,'night nurse'}", *(["label {no,yes}"] if target else [])]
    path.write_text("\n".join(["@relation r", *(f"@attribute {c}" for c in columns), "@data", *lines]) + "\n")
    return path


def test_new_rows_of_an_arff_file_need_no_target_and_pictures_are_refused(tmp_path, predicted, capsys):
    rows = [(20 + 30 * (i % 2), ["clerk", "'night nurse'"][i // 2 % 2], ["no", "yes"][i % 2]) for i in range(24)]
    run = train(tmp_path, arff(tmp_path / "a.arff", rows, target=True), "--target", "label", "--scheme", "iid")
    for target in (True, False):
        assert predicted(run, arff(tmp_path / "new.arff", rows[:3], target=target)) == ["no", "yes", "no"]
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.png").write_bytes(png(picture(1, 0)))
    assert cli(["predict", str(run), str(tmp_path / "flat")]) == 2
    assert "no reader knows this folder" in capsys.readouterr().err
