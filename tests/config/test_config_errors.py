"""What a configuration refuses: every problem at once, in a sentence, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fake_components import FakeRegistry

from flctl.config.config import Flag
from flctl.config.load import load, load_partition_section
from flctl.config.sections.training import CohortConfig, EngineConfig, LocalConfig, ServerConfig
from flctl.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(text="", **layers):
    Path("x.yaml").write_text(text, encoding="utf-8")
    return load(FakeRegistry(), file=Path("x.yaml"), **layers)


def refused(text="", **layers):
    with pytest.raises(ConfigError) as caught:
        loaded(text, **layers)
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: 0.1", "x.yaml:1:1: unknown key 'lr'. Did you mean 'local.lr' or 'server.lr'?"),
        ("learning_rate: 0.1", "Did you mean 'local.lr'?"),
        ("clients_per_round: 3", "Did you mean 'cohort.clients'?"),
        ("stratgy: fedavg", "unknown key 'stratgy'. Did you mean 'strategy'?"),
        ("local:\n  lrr: 1", "x.yaml:2:3: unknown key 'lrr' in local. Did you mean 'lr'?\n  2 |   lrr: 1\n    |   ^^^"),
        ("local:\n  lrr:", "x.yaml:2:3: unknown key 'lrr' in local."),
        ("bogus:", "x.yaml:1:1: unknown key 'bogus'. Known: aggregator, attack, checkpoint,"),
        ("strategy: {name: fedprox, mu: 1}", "x.yaml:1:27: unknown key 'mu' in strategy. Known: layers, proximal_mu,"),
        ("strategy: {mu: 1}", "unknown key 'mu' in strategy. strategy fedavg has no options."),
        ("strategy: fedprux", "x.yaml:1:11: unknown strategy 'fedprux'. Did you mean 'fedprox'?"),
        ("strategy:\n  name: fedprux", "x.yaml:2:9: unknown strategy 'fedprux'."),
        ("transforms:\n  clap: {}", "x.yaml:2:3: unknown transform 'clap'. Did you mean 'clip'?"),
        ("transforms: [clip, clip]", "x.yaml:1:20: transform 'clip' is listed twice"),
        ("transforms: {clip: 1}", "x.yaml:1:20: transforms.clip must be a mapping of options"),
        ("transforms: [3]", "x.yaml:1:14: a transform is a name, or a mapping with a name."),
        ("transforms:\n  clip:", "x.yaml:2:3: transforms.clip.norm is missing; it must be a number above 0"),
        ("strategy: picky", "x.yaml:1:11: strategy.even is missing; it must be a whole number"),
        ("strategy: {name: picky, even: 3}", "x.yaml:1:31: strategy.even: 3 is odd"),
        ("strategy: 3", "x.yaml:1:11: strategy must be a name, or a mapping with a name and options"),
        ("model: {hidden: [3]}", "x.yaml:1:9: unknown key 'hidden': model auto has no options. Name one."),
        ("model: {name: mlp, hidden: [3, x]}", "x.yaml:1:32: model.hidden.1 must be a whole number, not the text 'x'"),
        ("model: {name: mlp, hidden: 3}", "x.yaml:1:28: model.hidden must be a list, not the number 3"),
        ("model: {name: mlp, hidden: [3.0]}", "model.hidden.0 must be a whole number, not the number 3.0. Write 3."),
        ("model: {name: mlp, dropout: '0.5'}", "not the text '0.5'. Write it without quotes"),
        ("model: {name: mlp, dropout: true}", "model.dropout must be a number of at least 0 and below 1, not true"),
        ("strategy: {name: fedprox, verbose: no}", "strategy.verbose must be true or false, not the text 'no'. Write"),
        ("strategy: {name: fedprox, verbose: 1}", "strategy.verbose must be true or false, not the number 1"),
        ("strategy: {name: fedprox, variant: decayd}", "one of plain, decayed, not the text 'decayd'. Did you mean"),
        ("strategy: {name: nested, inner: {size: x}}", "x.yaml:1:40: strategy.inner.size must be a whole number, not"),
        ("strategy: {name: nested, inner: {sise: 1}}", "unknown key 'sise' in strategy.inner. Did you mean 'size'?"),
        ("strategy: {name: nested, inner: {mode: x}}", "strategy.inner.mode must be only, not the text 'x'"),
        ("strategy: {name: nested, inner: [1]}", "strategy.inner must be a mapping, not a list"),
        ("strategy: {name: nested, items: [{size: 1}, {size: '2'}]}", "x.yaml:1:52: strategy.items.1.size must be"),
        ("strategy: {name: nested, table: {a: 1, b: '2'}}", "x.yaml:1:43: strategy.table.b must be a whole"),
        ("strategy: {name: odd, count: x}", "x.yaml:1:30: strategy.count: Input should be a valid integer"),
        ("model: {name: mlp, dropout: .nan}", "not the number nan"),
        ("local: 3", "x.yaml:1:8: local must be a mapping, not the number 3"),
        ("local: {epochs: 10.0}", "local.epochs must be a whole number of at least 1, not the number 10.0. Write 10."),
        ("local: {epochs: 1.5}", "not the number 1.5"),
        ("local: {epochs: true}", "local.epochs must be a whole number of at least 1, not true"),
        ("local: {epochs: '3'}", "not the text '3'. Write it without quotes"),
        ("local: {batch_size: 1_000}", "not the text '1_000'. Write it without quotes and without '_'."),
        ("local: {lr: 0}", "x.yaml:1:13: local.lr must be a number above 0, not the number 0"),
        ("local: {lr: .inf}", "not the number inf"),
        ("local: {lr: abc}", "local.lr must be a number above 0, not the text 'abc'"),
        ("local: {momentum: 1}", "local.momentum must be a number of at least 0 and below 1, not the number 1"),
        ("local: {nesterov: yes}", "not the text 'yes'. Write true: in YAML 1.2 'yes' is text."),
        ("local: {optimizer: SGD}", "must be one of sgd, adam, adamw, not the text 'SGD'"),
        ("local: {clip_norm: -1}", "local.clip_norm must be a number above 0, or null, not the number -1"),
        ("rounds: 0", "rounds must be a whole number of at least 1, not the number 0"),
        ("seed: -1", "seed must be a whole number of at least 0, not the number -1"),
        ("data: 3", "data must be non-empty text, or null, not the number 3. Quote it."),
        ("metric: ''", "metric must be non-empty text, or null, not the text ''"),
        ("cohort: {rate: 1.5, sampling: poisson}", "cohort.rate must be a number above 0 and of at most 1, or null"),
        ("plugins: [no.py]", "x.yaml:1:11: plugin file no.py does not exist"),
        ("plugins: [3]", "x.yaml:1:11: plugins.0 must be text, not the number 3"),
        ("partition: 3", "partition must be a mapping, or null, not the number 3"),
        ("[1, 2]", "x.yaml:1:1: a configuration is a mapping of keys to values."),
        ("3", "a configuration is a mapping of keys to values."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(text, sentence):
    assert sentence in refused(text)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("local: {optimizer: adam, momentum: 0.9}", "x.yaml:1:26: local.momentum has no effect with optimizer adam"),
        ("local: {beta_1: 0.9}", "local.beta_1 has no effect with optimizer sgd"),
        ("local: {beta_1: 0}", "local.beta_1 has no effect with optimizer sgd"),
        ("local: {nesterov: true}", "local.nesterov has no effect with momentum 0"),
        (
            "local: {epochs: 1, steps: 5}",
            "x.yaml:1:9: local.epochs has no effect with steps 5. Leave it out, or undo it",
        ),
        ("local: {decay: 0.9}", "local.decay has no effect with schedule constant"),
        ("local: {schedule: cosine, decay_rounds: 3}", "local.decay_rounds has no effect with schedule cosine"),
        ("local: {min_lr: 0.1}", "local.min_lr has no effect with schedule constant"),
        ("cohort: {rate: 0.1}", "cohort.rate has no effect with sampling fixed"),
        ("cohort: {sampling: all, clients: 10}", "cohort.clients has no effect with sampling all"),
        ("cohort: {sampling: poisson, rate: 0.1, clients: 3}", "cohort.clients has no effect with sampling poisson"),
        ("cohort: {trace: t.csv}", "cohort.trace has no effect with sampling fixed"),
        ("cohort: {sampling: poisson}", "x.yaml:1:20: cohort.rate is missing: cohort.sampling is poisson"),
        ("cohort: {sampling: trace}", "cohort.trace is missing: cohort.sampling is trace"),
        ("local: {schedule: step, min_lr: 1}", "x.yaml:1:33: local.min_lr 1 is above local.lr 0.1. Lower one of them."),
        ("server: {momentum: 0.5}", "server.momentum has no effect with server optimizer sgd"),
        ("server: {optimizer: momentum, tau: 1}", "server.tau has no effect with server optimizer momentum"),
        ("server: {optimizer: adagrad, beta_2: 0.5}", "server.beta_2 has no effect with server optimizer adagrad"),
        ("server: {optimizer: yogi, momentum: 0.5}", "server.momentum has no effect with server optimizer yogi"),
        ("stop: {min_delta: 0.1}", "stop.min_delta has no effect without patience"),
        ("stop: {metric: accuracy}", "stop.metric has no effect without target or patience"),
        ("engine: {name: inprocess, workers: 2}", "engine.workers has no effect with engine inprocess"),
    ],
)
def test_a_key_without_effect_is_refused(text, sentence):
    assert sentence in refused(text)


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (LocalConfig, {"optimizer": "adam", "momentum": 0, "nesterov": False}),
        (LocalConfig, {"min_lr": 0.0, "warmup_rounds": 0}),
        (CohortConfig, {"rate": None, "trace": None}),
        (EngineConfig, {"name": "inprocess", "workers": 1}),
        (ServerConfig, {}),
    ],
)
def test_a_default_that_says_off_may_be_written_out(model, values):
    assert model.model_validate(values) == model.model_validate(
        {k: values[k] for k in ("optimizer", "name") if k in values}
    )


def test_a_flag_conflict_is_told_at_the_flag():
    message = refused(flags={"cohort.rate": Flag("--sampling-rate", 0.1)})
    assert message == "--sampling-rate: cohort.rate has no effect with sampling fixed. Leave it out."


def test_a_key_is_taken_back_by_null():
    found = loaded("local: {epochs: 3}", overrides=["local.epochs=null", "local.steps=4"])
    assert found.config.local.steps == 4
    assert "local.epochs" not in found.origins


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ({"environ": {"FLCTL__LOCAL__LRR": "1"}}, "FLCTL__LOCAL__LRR=1: unknown key 'lrr' in local. Did"),
        ({"environ": {"FLCTL__LOCAL__LR": "fast"}}, "FLCTL__LOCAL__LR=fast: local.lr must be a number above 0"),
        ({"environ": {"FLCTL__ROUNDS": "[3"}}, "FLCTL__ROUNDS=[3: the value is not YAML: "),
        ({"environ": {"FLCTL__": "3"}}, "FLCTL__=3: unknown key ''"),
        ({"overrides": ["local.lr"]}, "-o local.lr: this is not KEY=VALUE. Write for example -o local.lr=0.05."),
        ({"overrides": ["=3"]}, "-o =3: this is not KEY=VALUE"),
        ({"overrides": ["local..lr=3"]}, "-o local..lr=3: this is not KEY=VALUE"),
        ({"overrides": ["local.lr=-1"]}, "-o local.lr=-1: local.lr must be a number above 0, not the number -1"),
        ({"overrides": ["data=3"]}, "-o data=3: data must be non-empty text, or null, not the number 3. Quote it."),
        ({"overrides": ["local.lr.x=3"]}, "-o local.lr.x=3: local.lr must be a number above 0, not a mapping"),
        ({"overrides": ["a={b: 1, b: 2}"]}, "-o a={b: 1, b: 2}: duplicate key 'b'"),
        ({"flags": {"local.lr": Flag("--lr", -1.0)}}, "--lr: local.lr must be a number above 0, not the number -1.0"),
        ({"flags": {"strategy.name": Flag("--strategy", "fedprux")}}, "--strategy: unknown strategy 'fedprux'"),
    ],
)  # fmt: skip
def test_problems_of_other_layers_are_named_by_what_was_typed(layers, sentence):
    assert sentence in refused(**layers)


def test_all_problems_are_told_at_once_in_the_order_of_the_file():
    message = refused(
        "rounds: 0\nlocal:\n  lrr: 1\n  epochs: 0\nseed: 1\nseed: 2\nstrategy: nope\n", overrides=["eval.every=-1"]
    )
    assert message.startswith("6 problems\n")
    heads = [line.partition(": ")[0] for line in message.splitlines()[1:] if not line.startswith("  ")]
    assert heads == ["x.yaml:1:9", "x.yaml:3:3", "x.yaml:4:11", "x.yaml:6:1", "x.yaml:7:11", "-o eval.every=-1"]


def test_the_message_shows_the_line_and_a_caret():
    assert refused("# fast\nlocal:\n  lr: fast\n") == (
        "x.yaml:3:7: local.lr must be a number above 0, not the text 'fast'\n  3 |   lr: fast\n    |       ^^^^"
    )


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("sourc: digits", "x.yaml:2:3: unknown key 'sourc' in partition. Did you mean 'source'?"),
        ("scheme: dirichlt", "x.yaml:2:11: unknown scheme 'dirichlt'. Did you mean 'dirichlet'?"),
        ("reader: cvs", "x.yaml:2:11: unknown reader 'cvs'. Did you mean 'csv'?"),
        ("test-fraction: 2", "x.yaml:2:18: partition.test_fraction must be a number of at least 0 and of at most 1"),
        ("clients: 0", "x.yaml:2:12: partition.clients must be a whole number of at least 1, or null"),
        ("{scheme: dirichlet, alpha: -1}", "x.yaml:2:30: partition.alpha must be a number above 0, not the number -1"),
        ("{scheme: dirichlet, shards_per_client: 3}", "x.yaml:2:23: unknown key 'shards_per_client' in partition."),
        ("scheme: {name: dirichlet, alpha: 0}", "x.yaml:2:36: partition.scheme.alpha must be a number above 0"),
        ("scheme: {name: dirichlet, alhpa: 1}", "x.yaml:2:29: unknown key 'alhpa' in partition.scheme. Did you mean"),
        ("{reader: csv, header: maybe}", "x.yaml:2:25: partition.header must be one of auto, yes, no"),
    ],
)
def test_the_partition_section_is_checked_in_place(section, sentence):
    text = f"partition:\n  {section}\n"
    assert sentence in refused(text)
    with pytest.raises(ConfigError) as caught:
        load_partition_section(Path("x.yaml"), FakeRegistry())
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    "section",
    [
        "source: a.csv",
        "scheme: dirichlet",
        "reader: csv",
        "{alpha: 1, shards_per_client: 2, header: yes}",
        "seed: null",
    ],
)
def test_a_partition_section_may_leave_the_rest_to_flags(section):
    text = f"partition:\n  {section}\n"
    assert loaded(text).config.partition == load_partition_section(Path("x.yaml"), FakeRegistry())


def test_a_long_line_is_cut_around_the_caret():
    line = f"plugins: [{', '.join(['a.py'] * 10)}, 3, {', '.join(['b.py'] * 30)}]"
    _, excerpt, caret = next(p for p in refused(line).split("x.yaml:") if "not the number 3" in p).splitlines()
    assert excerpt[caret.index("^")] == "3"
    assert excerpt.startswith("  1 | …")
    assert excerpt.endswith("…")
    assert len(excerpt) < 80
