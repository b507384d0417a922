"""Every built-in model by table, and the user's own."""

import numpy as np
import pytest
import torch
from torch import nn

from flctl.errors import ConfigError, PluginError
from flctl.executors.sequential import single_thread, train
from flctl.executors.shards import LocalJob
from flctl.models import MODELS
from flctl.models.flat_model import FlatModel
from flctl.models.model import DataSpec
from flctl.models.tasks import task_for
from flctl.plugins.custom_model import CustomModel
from flctl.plugins.registry import Registry
from flctl.types import LocalWork

MODEL = {model.name: model for model in MODELS}
IMAGES = DataSpec("classification", (3, 12, 10), 4)
TABLE = DataSpec("classification", (6,), 3)
BINARY = DataSpec("binary", (6,), 1)
NUMBER = DataSpec("regression", (6,), 1)
TEXT = DataSpec("next-character", (5,), 7)
SMALL = {
    "cnn": {"channels": [4, 8], "hidden": 16},
    "resnet": {"width": 4, "blocks": [1, 1]},
    "char-lstm": {"hidden": 8},
    "mlp": {"hidden": [8], "activation": "tanh", "dropout": 0.1},
    "2nn": {"hidden": [8, 8]},
}
FITS = {
    "logreg": [TABLE, BINARY, IMAGES],
    "linear": [NUMBER, DataSpec("regression", (1, 3, 3), 1)],
    "mlp": [TABLE, BINARY, NUMBER, IMAGES],
    "2nn": [TABLE, BINARY, NUMBER, IMAGES],
    "cnn": [IMAGES, DataSpec("regression", (1, 4, 7), 1), DataSpec("binary", (1, 5, 5), 1)],
    "resnet": [IMAGES, DataSpec("regression", (1, 2, 3), 1)],
    "char-lstm": [TEXT],
}
MISFITS = {
    "logreg": [NUMBER, TEXT],
    "linear": [TABLE, BINARY, TEXT],
    "mlp": [TEXT],
    "2nn": [TEXT],
    "cnn": [TABLE, TEXT, DataSpec("classification", (28, 28), 10), DataSpec("classification", (1, 3, 28), 10)],
    "resnet": [TABLE, TEXT, DataSpec("classification", (28, 28), 10)],
    "char-lstm": [TABLE, BINARY, NUMBER, IMAGES],
}


@pytest.fixture(autouse=True)
def _one_thread():
    single_thread()


def pairs(table):
    return [pytest.param(name, data, id=f"{name}-{data.task}-{data.shape}") for name in table for data in table[name]]


def build(name, data, seed=0):
    torch.manual_seed(seed)
    return FlatModel(MODEL[name].from_options(SMALL.get(name)).build(data))


def example_data(data, rows=12):
    rng = np.random.default_rng(0)
    if data.task == "next-character":
        codes = rng.integers(0, data.outputs, (rows, data.shape[0] + 1))
        return codes[:, :-1], codes[:, 1:]
    x = rng.standard_normal((rows, *data.shape), np.float32)
    if data.task == "regression":
        return x, x.reshape(rows, -1)[:, 0].copy()
    return x, rng.integers(0, max(2, data.outputs), rows)


def test_the_tables_name_every_model():
    assert FITS.keys() == MISFITS.keys() == MODEL.keys()


@pytest.mark.parametrize(("name", "data"), pairs(FITS))
def test_a_model_gives_the_outputs_that_the_task_needs(name, data):
    x, _ = example_data(data)
    outputs = build(name, data).module(torch.from_numpy(x))
    window = data.shape if data.task == "next-character" else ()
    assert tuple(outputs.shape) == (len(x), *window, data.outputs)


@pytest.mark.parametrize(("name", "data"), pairs(FITS))
def test_a_model_learns_the_rows_it_is_shown(name, data):
    model, (x, y) = build(name, data), example_data(data)
    work = LocalWork(optimizer="adam", lr=0.01, batch_size=4, epochs=30)
    task = task_for(data.task)
    first = train(model, task, LocalJob(x, y, LocalWork(batch_size=0, lr=1e-9), np.uint64(0))).loss
    train(model, task, LocalJob(x, y, work, np.uint64(0)))
    last = train(model, task, LocalJob(x, y, LocalWork(batch_size=0, lr=1e-9), np.uint64(0))).loss
    assert last < 0.8 * first


@pytest.mark.parametrize(("name", "data"), pairs(FITS))
def test_equal_seeds_give_equal_weights_and_others_do_not(name, data):
    first, again, other = (build(name, data, seed).params for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("name", "data"), pairs(MISFITS))
def test_data_that_does_not_fit_is_refused_with_a_hint(name, data):
    with pytest.raises(ConfigError) as caught:
        MODEL[name]().build(data)
    assert name in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "options", "data", "count"),
    [
        ("2nn", {}, DataSpec("classification", (1, 28, 28), 10), 199_210),  # McMahan et al. 2017, section 3
        ("cnn", {}, DataSpec("classification", (1, 28, 28), 10), 1_663_370),  # there too
        ("logreg", {}, DataSpec("classification", (60,), 10), 610),
        ("linear", {}, DataSpec("regression", (10,), 1), 11),
        ("mlp", {"hidden": []}, DataSpec("binary", (10,), 1), 11),
        ("resnet", {}, DataSpec("classification", (3, 32, 32), 10), 11_173_962),  # ResNet-18 on CIFAR
        ("resnet", {"width": 16, "blocks": [3, 3, 3]}, DataSpec("classification", (3, 32, 32), 10), 272_474),
        ("char-lstm", {}, DataSpec("next-character", (80,), 90), 822_570),
    ],
)
def test_the_number_of_parameters(name, options, data, count):
    assert FlatModel(MODEL[name].from_options(options).build(data)).layout == {"params": count}


def test_groups_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"model\.groups is 4, which does not divide 6 channels"):
        MODEL["resnet"].from_options({"width": 6, "groups": 4}).build(IMAGES)


# The user's own models.


def mlp_of(data, units=5):
    return nn.Sequential(nn.Linear(data.shape[0], units), nn.ReLU(), nn.Linear(units, data.outputs))


def fails(data):
    raise ZeroDivisionError("no luck")


def complains(data):
    raise ConfigError("only images")


not_a_function = 3


def here(name, **options):
    return Registry().build("model", f"{__name__}:{name}", options)


def test_a_function_of_a_module_is_a_model_with_options():
    assert FlatModel(here("mlp_of", units=2).build(TABLE)).layout == {"params": 6 * 2 + 2 + 2 * 3 + 3}


def test_a_function_of_a_file_is_a_model(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\ndef net(data):\n    return torch.nn.Linear(data.shape[0], data.outputs)\n", encoding="utf-8"
    )
    assert isinstance(Registry().build("model", f"{file}:net", {}).build(TABLE), nn.Linear)


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_nets_here.py").write_text(
        "import torch\nnet = lambda data: torch.nn.Linear(6, 3)\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere"])
    assert isinstance(Registry().build("model", "my_nets_here:net", {}).build(TABLE), nn.Linear)


def test_a_plain_name_is_a_component_with_its_options():
    assert Registry().build("model", "mlp", {"hidden": [3]}).config.hidden == (3,)


class OnlyEvaluated(nn.Linear):
    def forward(self, x):
        assert not self.training
        return super().forward(x)


def only_evaluated(data):
    return OnlyEvaluated(data.shape[0], data.outputs)


def test_a_network_is_tried_in_evaluation_mode_and_left_training():
    assert here("only_evaluated").build(TABLE).training


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        (f"{__name__}:mlp_off", {}, PluginError, "has no function 'mlp_off'"),
        (f"{__name__}:not_a_function", {}, PluginError, "has no function 'not_a_function'"),
        ("no_such_module:net", {}, PluginError, "module 'no_such_module' does not import: ModuleNotFoundError"),
        ("no/such/file.py:net", {}, PluginError, "no/such/file.py does not exist"),
        (":net", {}, ConfigError, "is not module:function"),
        ("module:", {}, ConfigError, "is not module:function"),
        (f"{__name__}:fails", {}, PluginError, "failed: ZeroDivisionError: no luck"),
        (f"{__name__}:complains", {}, ConfigError, "^only images$"),
        (f"{__name__}:mlp_of", {"depth": 3}, PluginError, "unexpected keyword argument 'depth'"),
        (f"{__name__}:example_data", {}, ConfigError, "returned tuple, expected a torch.nn.Module"),
    ],
)
def test_what_can_go_wrong_with_a_function_is_said(target, options, error, message):
    with pytest.raises(error, match=message):
        CustomModel.from_options({"function": target, "options": options}).build(TABLE)


def test_a_near_miss_is_suggested():
    with pytest.raises(PluginError) as caught:
        here("mlp_off").build(TABLE)
    assert caught.value.hint == "Did you mean 'mlp_of'?"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(5, 3), r"cannot process a batch of shape \[2, 6\]"),
        (nn.Linear(6, 4), r"returned \(2, 4\) for a batch of shape \(2, 6\), expected \(2, 3\)"),
        (nn.LSTM(6, 3), "returned tuple"),
    ],
    ids=["input", "output", "type"],
)
def test_a_network_that_does_not_fit_the_data_is_refused(monkeypatch, module, message):
    monkeypatch.setitem(globals(), "misfit", lambda data: module)
    with pytest.raises(ConfigError, match=message):
        here("misfit").build(TABLE)
