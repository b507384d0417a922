"""Layers of a configuration, digests, and that what is dumped is loaded back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.fake_components import FakeRegistry

from flctl.config.config import Config, Flag, digest, dump, effective
from flctl.config.load import ValueOrigin, load, load_partition_section
from flctl.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(text="", **layers):
    Path("x.yaml").write_text(text, encoding="utf-8")
    return load(FakeRegistry(), file=Path("x.yaml"), **layers)


def config(text="", **layers):
    return loaded(text, **layers).config


def test_an_empty_file_gives_the_defaults():
    assert config("") == Config()
    assert set(loaded("").origins.values()) == {ValueOrigin("default", "")}


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError):
        Config().seed = 3
    with pytest.raises(ValidationError):
        Config().local.lr = 3.0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_learning_rate_defaults_by_optimizer(optimizer):
    assert config(f"local: {{optimizer: {optimizer}}}").local.lr == (0.1 if optimizer == "sgd" else 0.001)


def test_components_are_names_or_mappings_and_their_defaults_are_filled_in():
    found = config("strategy: fedprox\nmodel: {name: mlp, hidden: [8, 4]}\ntransforms: {top-k: , clip: {norm: 1}}")
    assert found.strategy.options == {"proximal_mu": 0.01, "variant": "plain", "layers": [], "verbose": False}
    assert found.model.options == {"hidden": [8, 4], "dropout": 0.0}
    assert [(t.name, t.options) for t in found.transforms] == [("top-k", {"k": 10}), ("clip", {"norm": 1.0})]


@pytest.mark.parametrize(
    "text", ["transforms: [top-k, {name: clip, norm: 1}]", "transforms:\n  top-k:\n  clip: {norm: 1}"]
)
def test_transforms_keep_their_order_in_both_forms(text):
    assert [t.name for t in config(text).transforms] == ["top-k", "clip"]


def test_the_users_own_model_takes_any_option():
    found = config("model: {name: 'nets.py:make', depth: 3, widths: {a: [1, 2]}}").model
    assert (found.name, found.options) == ("nets.py:make", {"depth": 3, "widths": {"a": [1, 2]}})


def test_options_may_be_nested_and_are_merged_by_key():
    found = config("strategy: {name: nested, table: {a: 1}}", overrides=["strategy.table.b=2", "strategy.inner.size=3"])
    assert found.strategy.options["table"] == {"a": 1, "b": 2}
    assert found.strategy.options["inner"] == {"size": 3, "mode": "only"}


def test_an_engines_own_options_stand_beside_the_common_keys():
    engine = config("engine: {name: ray, workers: 4, address: local}").engine
    assert (engine.name, engine.workers, engine.options) == ("ray", 4, {"address": "local"})


def test_null_means_the_default():
    assert config("local: {lr: 0.5, epochs: }\nstop:\nrounds: null", overrides=["local.lr=null"]) == Config()


def test_plugin_files_are_loaded_before_components_are_looked_up():
    Path("mine.py").write_text("")
    registry = FakeRegistry()
    load(registry, overrides=["plugins=[./mine.py]"])
    assert registry.files == [Path("mine.py")]


def test_each_layer_wins_over_the_ones_below_and_is_named():
    text = "local: {lr: 1, epochs: 1, batch_size: 1, weight_decay: 1}\n"
    found = loaded(
        text,
        environ={"FLCTL__LOCAL__LR": "2", "FLCTL__LOCAL__EPOCHS": "2", "FLCTL__LOCAL__BATCH_SIZE": "2"},
        overrides=["local.lr=3", "local.epochs=3"],
        flags={"local.lr": Flag("--lr", 4), "seed": None},
    )
    local = found.config.local
    assert (local.lr, local.epochs, local.batch_size, local.weight_decay) == (4, 3, 2, 1)
    assert found.origins["local.lr"] == ValueOrigin("flag", "--lr")
    assert found.origins["local.epochs"] == ValueOrigin("override", "-o local.epochs")
    assert found.origins["local.batch_size"] == ValueOrigin("environment", "FLCTL__LOCAL__BATCH_SIZE")
    assert found.origins["local.weight_decay"] == ValueOrigin("file", "x.yaml:1:42")
    assert found.origins["seed"] == ValueOrigin("default", "")


def test_a_later_override_wins():
    assert config(overrides=["rounds=3", "rounds=5"]).rounds == 5


def test_overrides_may_be_lists_and_mappings():
    found = config(overrides=["model=mlp", "model.hidden=[32, 16]", "local={lr: 1e-3, epochs: 2}"])
    assert found.model.options["hidden"] == [32, 16]
    assert (found.local.lr, found.local.epochs) == (0.001, 2)


def test_naming_another_component_drops_the_options_of_the_former():
    found = loaded("strategy: {name: picky, even: 2}", overrides=["strategy.proximal_mu=0.5", "strategy=fedprox"])
    assert found.config.strategy.options["proximal_mu"] == 0.5
    assert "strategy.even" not in found.origins


def test_naming_the_same_component_again_keeps_its_options():
    assert config("strategy: {name: picky, even: 2}", overrides=["strategy=picky"]).strategy.options == {"even": 2}


def test_an_engine_chosen_by_flag_keeps_the_common_keys_of_its_layer_only():
    assert config("engine: {name: pool}", flags={"engine.name": "ray", "engine.workers": 3}).engine.workers == 3


def test_a_transform_is_appended_by_a_flag_and_adjusted_in_place_by_an_override():
    text = "transforms: {clip: {norm: 1}, top-k: }"
    assert [t.name for t in config(text, overrides=["transforms.clip.norm=2"]).transforms] == ["clip", "top-k"]
    found = config("transforms: {clip: {norm: 1}}", flags={"transforms": Flag("--transform", ["top-k"])})
    assert [t.name for t in found.transforms] == ["clip", "top-k"]


def test_environment_names_ignore_case_and_hyphens():
    environ = {"flctl__transforms__TOP_K__k": "3", "FLCTL_DEBUG": "1", "PATH": "/bin"}
    assert config(environ=environ).transforms[0].options == {"k": 3}


def test_a_strategy_presets_the_server_section_below_the_file():
    found = loaded("strategy: fedadam\nserver: {tau: 0.1}")
    assert (found.config.server.optimizer, found.config.server.lr, found.config.server.tau) == ("adam", 0.01, 0.1)
    assert found.origins["server.lr"] == ValueOrigin("strategy", "fedadam")


def test_another_server_optimizer_drops_the_whole_preset():
    server = config("strategy: fedadam\nserver: {optimizer: sgd}").server
    assert (server.optimizer, server.lr) == ("sgd", 1.0)


KEYS = {
    "seed": st.integers(0, 2**63),
    "rounds": st.integers(1, 10**6),
    "data": st.text(st.characters(codec="utf-8"), min_size=1),
    "metric": st.text(st.characters(codec="utf-8"), min_size=1),
    "local.lr": st.floats(1e-12, 1e12),
    "local.batch_size": st.integers(0, 10**6),
    "local.drop_last": st.booleans(),
    "local.clip_norm": st.floats(1e-12, 1e12),
    "eval.every": st.integers(0, 99),
    "stop.target": st.floats(allow_nan=False, allow_infinity=False),
    "checkpoint.seconds": st.floats(0, 1e9),
    "engine.deadline": st.floats(1e-3, 1e9),
    "server.lr": st.floats(1e-9, 1e9),
    "cohort.clients": st.integers(1, 10**9),
}
ANY_KEYS = st.fixed_dictionaries({}, optional=KEYS)
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def nested(flat):
    tree = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return tree


def value_at(found, key):
    for part in key.split("."):
        found = getattr(found, part)
    return found


@QUICK
@given(ANY_KEYS, ANY_KEYS, ANY_KEYS, ANY_KEYS)
def test_the_highest_layer_that_sets_a_key_decides_it(file, environ, overrides, flags):
    from flctl.config import yaml_writer

    found = loaded(
        yaml_writer.write(nested(file)),
        environ={
            f"FLCTL__{key.replace('.', '__').upper()}": yaml_writer.inline(value) for key, value in environ.items()
        },
        overrides=[f"{key}={yaml_writer.inline(value)}" for key, value in overrides.items()],
        flags={key: Flag(f"--{key}", value) for key, value in flags.items()},
    )
    for key in KEYS:
        layers = {"flag": flags, "override": overrides, "environment": environ, "file": file}
        source = next((name for name, layer in layers.items() if key in layer), "default")
        assert found.origins[key].source == source
        expected = layers[source][key] if source != "default" else value_at(Config(), key)
        assert value_at(found.config, key) == expected


TEXT = st.text(st.characters(codec="utf-8"))
PROX = {"name": st.just("fedprox"), "proximal_mu": st.floats(0, 9), "layers": st.lists(st.integers(), max_size=3)}
LOCAL = [
    {"steps": 3},
    {"optimizer": "adam", "eps": 1e-9},
    {"schedule": "cosine", "min_lr": 1e-5},
    {"momentum": 0.9, "nesterov": True},
]
COHORT = [{"sampling": "all"}, {"sampling": "poisson", "rate": 0.25}, {"sampling": "trace", "trace": "t.csv"}]
COMPONENTS = st.fixed_dictionaries(
    {},
    optional={
        "strategy": st.sampled_from(["fedavg", "fedadam"]) | st.fixed_dictionaries(PROX),
        "model": st.sampled_from(["mlp", "auto", "a.py:b"])
        | st.fixed_dictionaries({"name": st.just("x:y"), "o": st.none() | TEXT}),
        "transforms": st.fixed_dictionaries({}, optional={"top-k": st.none(), "clip": st.just({"norm": 0.5})}),
        "engine": st.just({"name": "ray", "workers": 3}),
        "local": st.sampled_from(LOCAL),
        "cohort": st.sampled_from(COHORT),
        "partition": st.fixed_dictionaries({"source": TEXT.filter(bool), "alpha": st.floats(0, 1)}),
    },
)


@QUICK
@given(ANY_KEYS, COMPONENTS)
def test_what_is_dumped_is_loaded_back(flat, components):
    from flctl.config import yaml_writer

    flat = {key: value for key, value in flat.items() if key.partition(".")[0] not in components}
    first = loaded(yaml_writer.write({**nested(flat), **components})).config
    second = config(dump(first))
    assert second == first
    assert [t.name for t in second.transforms] == [t.name for t in first.transforms]
    assert digest(second) == digest(first)


def test_origins_name_every_effective_key():
    found = loaded("strategy: fedprox\ntransforms: {clip: {norm: 1}}\nmodel: mlp")
    keys = set()
    for name, value in effective(found.config).items():
        keys |= {f"{name}.{key}" for key in value} if isinstance(value, dict) and name != "transforms" else {name}
    assert set(found.origins) == (keys - {"transforms"}) | {"transforms.clip.norm"}


@pytest.mark.parametrize(
    "change",
    [{"rounds": 99}, {"data": "parts/y"}, {"plugins": ["a.py"]}, {"partition": {"source": "digits"}},
     {"engine": "pool"}, {"stop": {"minutes": 1}}, {"checkpoint": {"every": 1}}],
)  # fmt: skip
def test_the_digest_ignores_what_cannot_change_the_numbers(change):
    assert digest(Config.model_validate(change)) == digest(Config())


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"model": "mlp"}, {"strategy": "fedprox"}, {"transforms": ["clip"]}, {"aggregator": "masked"},
     {"cohort": {"clients": 3}}, {"local": {"lr": 0.2}}, {"server": {"lr": 0.5}}, {"eval": {"every": 2}}],
)  # fmt: skip
def test_the_digest_depends_on_what_changes_the_numbers(change):
    assert digest(Config.model_validate(change)) != digest(Config())


def test_the_digest_depends_on_rounds_where_the_schedule_does():
    def at(schedule, rounds):
        return digest(Config.model_validate({"rounds": rounds, "local": {"schedule": schedule}}))

    assert at("exponential", 10) == at("exponential", 20)
    assert at("cosine", 10) != at("cosine", 20)
    assert at("linear", 10) != at("linear", 20)


def test_the_digest_depends_on_the_order_of_transforms():
    assert digest(Config(transforms=["a", "b"])) != digest(Config(transforms=["b", "a"]))


def test_a_digest_is_the_same_in_every_version():
    """Checkpoints name it: a change here must be meant, and breaks the resuming of older runs."""
    assert digest(Config()) == "sha256:225e85e7e6ca4760149dc888e581c82b6700d157ee6b5763e416a7918f6edfcf"


def test_the_partition_section_is_read_as_plain_values():
    Path("x.yaml").write_text("partition: {source: digits, scheme: dirichlet, alpha: 0.3, by: null}\nlocal: {lr: 1}\n")
    assert load_partition_section(Path("x.yaml")) == {
        "source": "digits",
        "scheme": "dirichlet",
        "alpha": 0.3,
        "by": None,
    }


@pytest.mark.parametrize("text", ["", "local: {}", "partition: 3", "partition:"])
def test_a_file_without_a_partition_section_is_refused(text):
    Path("x.yaml").write_text(text)
    with pytest.raises(ConfigError, match="partition"):
        load_partition_section(Path("x.yaml"))


LOADS = """
import sys
from flctl.config.load import load
from flctl.plugins.registry import Registry
load(Registry(), overrides=["strategy=fedprox", "model=mlp", "transforms.clip.norm=1"])
print("torch" in sys.modules)
"""


def test_loading_a_configuration_needs_no_torch():
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
