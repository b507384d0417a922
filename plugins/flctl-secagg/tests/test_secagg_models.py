"""The verifier of models: a checkpoint that was replaced after the run contradicts the sums that clients signed."""

import json
import shutil

import numpy as np
import pytest
from flctl_secagg.cli import commands
from flctl_secagg.transcripts.models import ModelVerdict, verify_models
from flctl_secagg.transcripts.run_verifier import verify_run
from safetensors.numpy import load_file, save
from typer.testing import CliRunner

from flctl import IncompatibleError, IntegrityError
from flctl.run import checkpoint as checkpoints
from flctl.testing.trial import Trial


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return Trial(tmp_path_factory.mktemp("models"), "checkpoint.every=1", "engine=inprocess")


@pytest.fixture(scope="module")
def trained(trial):
    """Three rounds, with a checkpoint after each."""
    return trial.train("aggregator={name: secagg, transcript: true}", "strategy=fedavgm", "rounds=3").directory


@pytest.fixture(scope="module")
def noised(trial):
    """The same with noise that the server adds to each sum."""
    noise = "transforms=[{name: dp, clipping_norm: 1.0, noise_multiplier: 1.0}]"
    return trial.train("aggregator={name: secagg, transcript: true, max_weight: 1}", noise, "rounds=3").directory


@pytest.fixture
def copied(tmp_path):
    def copy(run):
        return shutil.copytree(run, tmp_path / "run")

    return copy


def replace_vectors(run, number, name, change):
    """Replaces a file of a checkpoint, with new digests and a new seal, as whoever has the directory can."""
    folder = run / "checkpoints" / f"round-{number:05d}"
    tensors = {key: change(np.array(values)) for key, values in load_file(folder / name).items()}
    (folder / name).write_bytes(save(tensors))
    files = {one: (folder / one).read_bytes() for one in (checkpoints.MODEL, checkpoints.STATE)}
    manifest = json.loads((folder / checkpoints.MANIFEST).read_text())
    manifest["files"] = {
        one: {"bytes": len(data), "sha256": checkpoints.hashlib.sha256(data).hexdigest()} for one, data in files.items()
    }
    manifest["digest"] = checkpoints._digest({one: entry["sha256"] for one, entry in manifest["files"].items()})
    del manifest["seal"]
    (folder / checkpoints.MANIFEST).write_text(json.dumps({**manifest, "seal": checkpoints._digest(manifest)}))


def verified(run):
    return verify_models(run, verify_run(run))


def test_every_model_follows_from_the_sums(trained):
    assert verified(trained) == ModelVerdict(recomputed=(0, 1, 2, 3))


def test_sums_over_rows_of_an_evaluation_at_clients_change_no_model(trial):
    run = trial.train("aggregator={name: secagg, transcript: true}", "eval.at=clients", "rounds=1").directory
    assert [(one.round, one.trains) for one in verify_run(run)] == [(1, True), (1, False)]
    assert verified(run) == ModelVerdict(recomputed=(0, 1))


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_model_that_was_replaced_under_a_new_seal_is_found(trained, copied, number):
    run = copied(trained)
    replace_vectors(run, number, "model.safetensors", lambda values: values + np.float32(1e-6))
    with pytest.raises(IntegrityError, match=f"checkpoint of round {number} has another model than the recorded sums"):
        verified(run)


def test_a_state_of_the_strategy_that_was_replaced_is_found(trained, copied):
    run = copied(trained)
    replace_vectors(run, 3, "state.safetensors", lambda values: values * 2)
    with pytest.raises(IntegrityError, match="round 3 has another state of the strategy"):
        verified(run)


def test_a_configuration_that_was_replaced_is_found(trained, copied):
    run = copied(trained)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(IntegrityError, match=r"another configuration than the run's config\.yaml"):
        verified(run)


def test_a_model_with_noise_of_the_server_is_bound_by_the_next_session_and_the_last_by_none(noised, copied):
    """The server's noise cannot be drawn again: the sums do not give the model, and the last is only the server's."""
    assert verified(noised) == ModelVerdict(recomputed=(0,), bound=(1, 2), unbound=(3,))
    run = copied(noised)
    replace_vectors(run, 2, "model.safetensors", lambda values: values + np.float32(1e-6))
    with pytest.raises(IntegrityError, match="clients of round 3 were sent another model"):
        verified(run)


def test_without_the_partition_only_the_sessions_are_verified_and_only_on_request(trained, copied):
    run = copied(trained)
    config = run / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join("data: gone\n" if line.startswith("data:") else line for line in lines))
    refused = CliRunner().invoke(commands.app, ["verify", str(run)])
    assert isinstance(refused.exception, IncompatibleError)
    assert "--sessions-only" in refused.exception.hint
    lines = CliRunner().invoke(commands.app, ["verify", str(run), "--sessions-only"]).output.splitlines()
    assert "the models of the checkpoints were not compared with the sums" in lines


def test_the_command_names_the_models_that_it_compared(trained, noised):
    assert "models that follow from the sums: checkpoints 0, 1, 2, 3" in _output(trained)
    lines = _output(noised)
    assert (
        "models with secret noise of the server, which the clients of the next round signed: checkpoints 1, 2" in lines
    )
    assert "models with secret noise of the server, which nothing but the server vouches for: checkpoint 3" in lines


def _output(run):
    return CliRunner().invoke(commands.app, ["verify", str(run)]).output.splitlines()
