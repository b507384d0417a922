"""The model card of a run with differential privacy: the whole run's statement, and none on weights without noise."""

import json

import pytest
from flctl.export.card import CardFacts, model_card
from flctl.plugins.registry import Registry
from flctl.prediction.predictor import load_predictor
from flctl.server.training import train
from flctl.testing.trial import Trial


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Two rounds of ditto under dp."""
    trial = Trial(tmp_path_factory.mktemp("card"), "rounds=2", "strategy=ditto", "checkpoint.every=1")
    return train(*trial.prepare('transforms.dp={"noise_multiplier": 4.0}'))


def card_of(result, checkpoint, client=None):
    predictor = load_predictor(result.directory.path, checkpoint, client, Registry())
    return model_card(CardFacts(predictor, None, None, None, {}))


def test_the_card_of_an_earlier_round_has_the_statement_of_the_whole_run(result):
    card, statement = card_of(result, "1"), result.summary["transforms"]["dp"]["statement"]
    assert "T=2" in statement
    assert f"- `dp`: {statement}" in card
    assert "the whole run (2 rounds)" in card


def test_no_epsilon_is_stated_where_the_summary_is_of_fewer_rounds(result):
    path = result.directory.path / "summary.json"
    kept = path.read_text()
    path.write_text(json.dumps(json.loads(kept) | {"rounds": 1}))
    try:
        card = card_of(result, "last")
    finally:
        path.write_text(kept)
    assert "differential privacy by `dp`: the run has no summary" in card
    assert "eps=" not in card


def test_client_level_privacy_is_not_stated_of_a_personal_model(result):
    card = card_of(result, "last", "3")
    assert "the differential privacy of `dp` does not cover this personal model" in card
    assert "eps" not in card
