"""Schemes that change what a client sees: images turned, noise, gains, and wrong labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError
from support.stores import store, table
from test_schemes import assign, rows_of

from flctl.errors import ConfigError, DataError
from flctl.partition import PARTITIONERS
from flctl.partition.partitioner import Rows
from flctl.partition.schemes.altering import Altering
from flctl.partition.schemes.features import feature_units
from flctl.partition.schemes.rotation import rotate
from flctl.seeds import rng

SCHEMES = {scheme.name: scheme for scheme in PARTITIONERS}
ALTERING = [name for name, scheme in SCHEMES.items() if issubclass(scheme, Altering)]
quick = settings(deadline=None, max_examples=30)


def ready(name, rows=None, clients=4, **options):
    """The scheme after it assigned rows."""
    scheme = SCHEMES[name].from_options(options)
    scheme.assign(rows_of() if rows is None else rows, clients, rng(1))
    return scheme


def tabular(x, **fields):
    return rows_of(len(x), 2, x=np.asarray(x, np.float32), **fields)


def seen(scheme, x, y=None, client=0, clients=4, seed=0):
    return scheme.alter(x, np.zeros(len(x), np.int64) if y is None else y, client, clients, rng(seed))


@pytest.mark.parametrize("name", ALTERING)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_dtype_and_shape_stay_and_the_input_is_not_written_to(name, dtype, rows):
    images = (np.random.default_rng(0).random((30, 1, 4, 4)) * 255).astype(dtype)
    labels = np.arange(30) % 5
    scheme = ready(name, rows_of(30, x=images), clients=3)
    x, y = images[:rows], labels[:rows]
    for array in (x, y):
        array.flags.writeable = False
    for client in range(3):
        after = scheme.alter(x, y, client, 3, rng(1))
        assert [(a.dtype, a.shape) for a in after] == [(a.dtype, a.shape) for a in (x, y)]


@pytest.mark.parametrize("name", ALTERING)
def test_rows_are_dealt_by_the_base(name):
    rows = rows_of()
    expected = assign("dirichlet", rows, 6, alpha=0.2).owner
    for options in ({"alpha": 0.2}, "alpha=0.2"):
        assert (assign(name, rows, 6, base="dirichlet", base_options=options).owner == expected).all()


def test_a_base_that_is_unknown_or_alters_too():
    with pytest.raises(ConfigError) as caught:
        ready("label-noise", base="dirichlett")
    assert "dirichlet" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot be the base"):
        ready("label-noise", base="feature-noise")


@pytest.mark.parametrize("options", [{"alpha": -1}, {"alfa": 1}, "alpha=-1"])
def test_bad_options_of_the_base_are_named(options):
    with pytest.raises(ConfigError, match=r"alpha|alfa") as caught:
        ready("label-noise", base="dirichlet", base_options=options)
    assert "min_size" in caught.value.hint
    with pytest.raises(ValidationError):
        SCHEMES["label-noise"].from_options({"base_options": "alpha"})


def test_the_manifest_has_the_bases_options_without_folders(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("1,1\n")
    scheme = SCHEMES["label-noise"].from_options({"base": "distribution", "base_options": {"matrix": str(path)}})
    told = scheme.config.model_dump(mode="json")["base_options"]
    assert told["values"] == "class-shares"
    assert told["matrix"].startswith("m.csv sha256:")


@pytest.mark.parametrize("name", ALTERING)
def test_text_is_refused(name):
    text = Rows(30, np.zeros((30, 8), np.int32), x=np.zeros((30, 8), np.uint8))
    with pytest.raises(DataError, match="text"):
        ready(name, text)


class TestRotation:
    images = np.arange(18, dtype=np.uint8).reshape(1, 2, 3, 3)

    def test_a_quarter_turn_is_counter_clockwise_and_exact(self):
        assert rotate(self.images, 90)[0, 0].tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
        assert rotate(self.images, -90)[0, 0].tolist() == [[6, 3, 0], [7, 4, 1], [8, 5, 2]]
        assert rotate(self.images, 180)[0, 1].tolist() == [[17, 16, 15], [14, 13, 12], [11, 10, 9]]
        assert (rotate(self.images, 360) == self.images).all()

    @pytest.mark.parametrize("degrees", [90, 180, 270, 0])
    def test_interpolation_agrees_with_the_exact_turn(self, degrees):
        images = np.random.default_rng(0).random((4, 2, 6, 6)).astype(np.float32)
        np.testing.assert_allclose(rotate(images, degrees + 1e-9), rotate(images, degrees), atol=1e-6)

    @quick
    @given(st.integers(0, 3).flatmap(lambda n: arrays(np.uint8, (n, 1, 5, 7))), st.floats(-720, 720))
    def test_the_centre_stays_and_nothing_becomes_brighter(self, images, degrees):
        turned = rotate(images, degrees)
        assert (turned.dtype, turned.shape) == (images.dtype, images.shape)
        assert (turned[:, :, 2, 3] == images[:, :, 2, 3]).all()
        assert (turned.max(axis=(1, 2, 3)) <= images.max(axis=(1, 2, 3))).all()

    def test_what_comes_from_outside_is_zero(self):
        turned = rotate(np.full((1, 1, 9, 9), 200, np.uint8), 45)
        assert turned[0, 0, 0, 0] == 0
        assert turned[0, 0, 4, 4] == 200

    def test_clients_turn_by_the_angles_in_turn(self):
        scheme = ready("feature-rotation", angles="0, 90")
        images = rows_of(40).x
        for client in range(4):
            turned, _ = seen(scheme, images, client=client)
            assert (turned == np.rot90(images, client % 2, axes=(2, 3))).all()

    def test_only_images_can_be_turned(self):
        with pytest.raises(DataError, match=r"shape \[2\]"):
            ready("feature-rotation", tabular(np.zeros((30, 2))))

    @pytest.mark.parametrize("angles", [[], "", "x", [float("nan")]])
    def test_bad_angles(self, angles):
        with pytest.raises(ValidationError):
            SCHEMES["feature-rotation"].from_options({"angles": angles})


class TestNoise:
    def test_it_grows_with_the_client_in_units_of_each_feature(self):
        x = np.random.default_rng(0).normal(size=(20_000, 2)) * [1, 100] + [0, 500]
        scheme = ready("feature-noise", tabular(x), sigma=0.5)
        x = x.astype(np.float32)
        for client in range(4):
            noise = seen(scheme, x, client=client)[0] - x
            np.testing.assert_allclose(noise.std(axis=0), 0.5 * (client + 1) / 4 * np.array([1, 100]), rtol=0.03)
            np.testing.assert_allclose(noise.mean(axis=0), 0, atol=2)

    def test_bytes_are_rounded_and_clipped(self):
        images = np.full((50, 1, 8, 8), 250, np.uint8)
        noisy = seen(ready("feature-noise", rows_of(50, x=images), sigma=0.2), images, client=3)[0]
        assert noisy.max() == 255
        assert noisy.astype(float).std() > 10

    def test_missing_values_and_features_that_are_not_numeric_stay(self):
        x = np.random.default_rng(0).random((100, 3)).astype(np.float32)
        x[:, 1] = np.arange(100) % 2
        x[::7, 2] = np.nan
        noisy = seen(ready("feature-noise", tabular(x, numeric=(0, 2)), sigma=1), x, client=3)[0]
        assert (noisy[:, 1] == x[:, 1]).all()
        assert (noisy[:, 0] != x[:, 0]).all()
        assert (np.isnan(noisy) == np.isnan(x)).all()

    def test_units_are_standard_deviations_without_missing_values(self):
        x = np.random.default_rng(0).normal(3, 2, (500, 3, 4, 4)).astype(np.float32)
        x[:, 1] *= 10
        x[::3, 0, 0, 0] = np.nan
        expected = [np.nanstd(x[:, channel].astype(float)) for channel in range(3)]
        np.testing.assert_allclose(feature_units(x, None).ravel(), expected, rtol=1e-5)

    def test_units_merged_over_chunks(self, monkeypatch):
        monkeypatch.setattr("flctl.partition.schemes.features.CHUNK_BYTES", 64)
        x = (np.random.default_rng(0).normal(size=(101, 2)) + np.array([1000, 0])).astype(np.float32)
        np.testing.assert_allclose(feature_units(x, None), x.astype(float).std(axis=0), rtol=1e-5)


class TestScaling:
    def test_gains_go_from_low_to_high_in_equal_ratios(self):
        x = np.full((10, 2), 8, np.float32)
        x[0] = 0  # so that the features have a spread
        scheme = ready("feature-scaling", tabular(x), clients=3, low=0.5, high=2)
        gains = [seen(scheme, x, client=client, clients=3)[0][1, 0] / 8 for client in range(3)]
        np.testing.assert_allclose(gains, [0.5, 1, 2], rtol=1e-6)
        assert seen(scheme, x, client=0, clients=1)[0][1, 0] == 8

    def test_bytes_are_clipped_and_one_hot_features_stay(self):
        images = np.full((5, 1, 2, 2), 200, np.uint8)
        assert seen(ready("feature-scaling", rows_of(5, x=images)), images, client=3)[0].max() == 255
        x = np.array([[1, 2], [0, 4]], np.float32)
        scaled = seen(ready("feature-scaling", tabular(x, numeric=(1,)), clients=2), x, client=1, clients=2)[0]
        assert scaled.tolist() == [[1, 4], [0, 8]]


class TestLabelNoise:
    labels = np.repeat(np.arange(5), 4000)

    def test_wrong_labels_are_uniform_among_the_others(self):
        _, noisy = seen(ready("label-noise", rate=0.4), self.labels, self.labels)
        joint = np.bincount(self.labels * 5 + noisy, minlength=25).reshape(5, 5) / 4000
        np.testing.assert_allclose(np.diag(joint), 0.6, atol=0.03)
        np.testing.assert_allclose(joint[~np.eye(5, dtype=bool)], 0.1, atol=0.02)

    def test_rates(self):
        growing = ready("label-noise", rate=0.4, growing=True)
        wrong = [(seen(growing, self.labels, self.labels, c)[1] != self.labels).mean() for c in range(4)]
        np.testing.assert_allclose(wrong, [0.1, 0.2, 0.3, 0.4], atol=0.015)
        assert (seen(ready("label-noise", rate=0), self.labels, self.labels)[1] == self.labels).all()
        assert (seen(ready("label-noise", rate=1), self.labels, self.labels)[1] != self.labels).all()

    def test_only_labels_can_be_wrong(self):
        with pytest.raises(DataError, match="no labels"):
            ready("label-noise", Rows(10, np.zeros(10, np.float32)))
        with pytest.raises(DataError, match="one class"):
            ready("label-noise", Rows(10, np.zeros(10, np.int64), np.zeros(10, np.int64), ("a",)))

    def test_test_rows_keep_their_labels_and_other_schemes_alter_them(self, tmp_path):
        data = table(400)
        noisy = store(tmp_path / "noisy", data, SCHEMES["label-noise"].from_options({"rate": 1}), clients=4)
        scaled = store(tmp_path / "scaled", data, SCHEMES["feature-scaling"].from_options({}), clients=4)
        for client in range(4):
            start, train_end, end = noisy.bounds[client]
            truth = data.y[noisy.column("source_row")]
            assert (noisy.column("y")[start:train_end] == 1 - truth[start:train_end]).all()
            assert (noisy.column("y")[train_end:end] == truth[train_end:end]).all()
        start, train_end, end = scaled.bounds[3]
        assert train_end < end
        assert (scaled.column("x")[start:end] == 2 * data.x[scaled.column("source_row")[start:end]]).all()


@pytest.mark.parametrize("name", ["feature-noise", "feature-scaling", "label-noise"])
def test_altering_before_assigning_is_refused(name):
    with pytest.raises(DataError, match="only after"):
        seen(SCHEMES[name].from_options({}), np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("feature-noise", {"sigma": -0.1}),
        ("feature-scaling", {"low": 0}),
        ("feature-scaling", {"high": float("inf")}),
        ("label-noise", {"rate": 1.1}),
        ("temporal", {"shuffle_within": -1}),
        ("continuous", {"strictness": 1.01}),
        ("shard", {"shard_size": 0}),
        ("pathological", {"mode": "chaotic"}),
        ("power-law", {"exponent": 0}),
        ("exponential", {"growth": 1}),
        ("iid", {"alpha": 1}),
    ],
)
def test_values_out_of_range_are_refused(name, options):
    with pytest.raises(ValidationError):
        SCHEMES[name].from_options(options)
